"""Time to extract keys with one worker, with two that share the device, and with the tower alone on tensors in memory.

    python benchmarks/sharing.py [--small] [--device cuda:0]

ViT-B/32 with random weights on JPEG files of 640 x 480, with workers as vokenization/extract_vision_keys.py starts them; the
time counts from when each worker has finished its first part, so that their start is left out. On a GPU torchcodec decodes
(Pillow where it is missing),
and both workers and the tower alone use the same GPU; on the CPU a worker has one core, and the tower alone has as many cores
as there are workers. `straightforward` is one worker.
"""

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import worlds
from benchmarks.measure import parse_args, report, seconds, threads
from xvoken.cache.images import ImageJob
from xvoken.cli.main import run_main
from xvoken.machine import IMAGE_BATCH, cores, resolve_precision
from xvoken.pictures.batches import Pictures, on_device
from xvoken.towers.image import for_inference
from xvoken.towers.precision import autocast
from xvoken.work.local import run_in_processes
from xvoken.work.parts import ranges

WORKERS = 2


@torch.inference_mode()
def tower_alone(tower: torch.nn.Module, pixels: torch.Tensor, batch: int, device: str, precision: str) -> None:
    with autocast(device, precision):
        for start in range(0, len(pixels), batch):
            out = tower(pixels[start : start + batch])
    out.cpu()


def per_picture(job: ImageJob, chunk: int, devices: list[str], folder: Path) -> float:
    """Seconds per picture, measured after every worker has finished a part."""
    finished: list[tuple[float, int]] = []
    tasks = [(items, folder / f"{number:06d}") for number, items in enumerate(ranges(len(job.paths), chunk))]
    run_in_processes(job, tasks, devices, lambda summary: finished.append((time.perf_counter(), summary["items"])), print, folder / "log")
    warm = len(devices)
    return (finished[-1][0] - finished[warm - 1][0]) / sum(items for _, items in finished[warm:])


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    gpu = args.device != "cpu"
    name = "shufflenet_v2_x0_5" if args.small else "vit_b_32"
    photos, times, chunk = (16, 1, 2) if args.small else (1024, 16, 1024) if gpu else (256, 1, 32)
    precision = resolve_precision("auto", args.device)
    decoder = worlds.decoders(args.device)[-1]
    with tempfile.TemporaryDirectory() as folder_name, threads(torch.get_num_threads() if gpu else WORKERS):
        folder = Path(folder_name)
        (folder / "lock").touch()  # workers stop without this file
        paths, spec = worlds.photos(folder / "photos", photos), worlds.image_tower(folder, name)
        tower = for_inference(spec.build(), precision).to(args.device)
        batch, _ = on_device(args.device, IMAGE_BATCH, 1)
        pictures = Pictures(paths, tower.view)
        with ThreadPoolExecutor(cores()) as pool:
            pixels = torch.stack(list(pool.map(pictures.__getitem__, range(photos)))).to(args.device)
        tower_alone(tower, pixels[:batch], batch, args.device, precision)
        rows = {"limit": seconds(lambda: tower_alone(tower, pixels, batch, args.device, precision), 2) * times}
        for way, workers in (("straightforward", 1), ("ours", WORKERS)):
            job = ImageJob(spec, paths * times, precision, IMAGE_BATCH, workers, decoder)
            rows[way] = per_picture(job, chunk, [args.device] * workers, folder) * photos * times
    report("keys-shared", "img", photos * times, rows, args.device, tower=name, precision=precision, workers=WORKERS, decoder=decoder)


if __name__ == "__main__":
    run_main(main)
