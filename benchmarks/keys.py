"""Time to extract keys: one picture at a time in fp32, our way, and the tower alone on tensors in memory.

    python benchmarks/keys.py [--small] [--device cuda:0]

ResNeXt-101 32x8d (with --device cuda:0 also ViT-B/32) with random weights, and on a CPU EfficientNet-Lite2, on JPEG files
of 640 x 480. On a CPU all three ways run in one process on all cores: one picture at a time by torch with a thread for each, ours and
the tower alone with a batch on each core, in fp32 by the engine that `auto` takes, and in bf16 where there are units for it. On a GPU
our way is measured with both decoders, or with Pillow alone where torchcodec is missing.
"""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks import worlds
from benchmarks.measure import parse_args, report, seconds, threads
from xvoken.cache.images import ImageJob
from xvoken.cli.main import run_main
from xvoken.encoders.lanes import in_lanes
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.machine import IMAGE_BATCH, ON_GPU, Pace, cores, resolve_precision, resolve_tower_engine
from xvoken.pictures.batches import Pictures
from xvoken.work.jobs import prepare


@torch.inference_mode()
def straightforward(tower: torch.nn.Module, pictures: Pictures, device: str) -> list[torch.Tensor]:
    return [tower(pictures[i][None].to(device)).cpu() for i in range(len(pictures))]


def measure(name: str, paths: list[str], device: str, folder: Path) -> None:
    spec = ImageTowerSpec(name) if name == "efficientnet_lite2" else worlds.image_tower(folder, name)
    number, size = len(paths), IMAGE_BATCH * (1 if device == "cpu" else ON_GPU)
    plain = spec.build().to(device)
    pictures = Pictures(paths, plain.view)
    few = Pictures(paths[: max(4, number // 8)], plain.view)
    straightforward(plain, Pictures(paths[:2], plain.view), device)  # warm up: a GPU's first call is slow
    rows = {"straightforward": seconds(lambda: straightforward(plain, few, device)) * number / len(few)}
    with ThreadPoolExecutor(cores()) as pool:
        pixels = torch.stack(list(pool.map(pictures.__getitem__, range(number)))).to(device).split(size)
    best = resolve_precision("auto", device)
    for precision in dict.fromkeys(["fp32", best] if device == "cpu" else [best]):
        for decoder in worlds.decoders(device):
            pace = Pace(resolve_tower_engine("auto", device, precision), threads=1)
            job = ImageJob(spec, paths, precision, IMAGE_BATCH, 1, decoder, pace=pace)
            prepare(job, device, cores())
            for repeat in (1, 2):
                rows["limit"] = seconds(lambda job=job: list(in_lanes(job.image.features, pixels, job.pace))[-1].cpu(), repeat)
            rows["ours"] = seconds(lambda job=job: job.run(0, number, folder / "part"), 2)
            more = {"tower": name, "precision": precision, "engine": job.pace.engine, "decoder": decoder, "cores": cores()}
            report("keys", "img", number, rows, device, **more)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    names = ["shufflenet_v2_x0_5"] if args.small else ["resnext101_32x8d", "efficientnet_lite2" if args.device == "cpu" else "vit_b_32"]
    number = 32 if args.small else 128 if args.device == "cpu" else 4096
    with tempfile.TemporaryDirectory() as folder, threads(cores()):
        paths = worlds.photos(Path(folder, "photos"), number)
        for name in names:
            measure(name, paths, args.device, Path(folder))


if __name__ == "__main__":
    run_main(main)
