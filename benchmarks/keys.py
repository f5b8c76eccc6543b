"""Time to extract keys: one picture at a time in fp32, our way, and the tower alone on tensors in memory.

    python benchmarks/keys.py [--small] [--device cuda:0]

ResNeXt-101 32x8d (with --device cuda:0 also ViT-B/32) with random weights, on JPEG files of 640 x 480. On a CPU all three
ways run in one process with one thread, like each of our workers, and show what one core can do. On a GPU our way is measured
with both decoders, or with Pillow alone where torchcodec is missing.
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
from xvoken.encoders.image import for_inference
from xvoken.encoders.precision import autocast
from xvoken.machine import IMAGE_BATCH, ON_GPU, cores, resolve_precision
from xvoken.pictures.batches import Pictures


@torch.inference_mode()
def straightforward(tower: torch.nn.Module, pictures: Pictures, device: str) -> list[torch.Tensor]:
    return [tower(pictures[i][None].to(device)).cpu() for i in range(len(pictures))]


@torch.inference_mode()
def tower_alone(tower: torch.nn.Module, pixels: torch.Tensor, batch: int, device: str, precision: str) -> None:
    with autocast(device, precision):
        for start in range(0, len(pixels), batch):
            out = tower(pixels[start : start + batch])
    out.cpu()


def measure(name: str, paths: list[str], device: str, folder: Path) -> None:
    spec, number = worlds.image_tower(folder, name), len(paths)
    precision, batch = resolve_precision("auto", device), IMAGE_BATCH * (1 if device == "cpu" else ON_GPU)
    plain = spec.build().to(device)
    pictures = Pictures(paths, plain.view)
    few = Pictures(paths[: max(4, number // 8)], plain.view)
    straightforward(plain, Pictures(paths[:2], plain.view), device)  # warm up: a GPU's first call is slow
    rows = {"straightforward": seconds(lambda: straightforward(plain, few, device)) * number / len(few)}
    fast = for_inference(plain, precision)
    with ThreadPoolExecutor(cores()) as pool:
        pixels = torch.stack(list(pool.map(pictures.__getitem__, range(number)))).to(device)
    tower_alone(fast, pixels[:batch], batch, device, precision)
    rows["limit"] = seconds(lambda: tower_alone(fast, pixels, batch, device, precision), 2)
    for decoder in worlds.decoders(device):
        job = ImageJob(spec, paths, precision, IMAGE_BATCH, 1, decoder)
        job.setup(device)
        rows["ours"] = seconds(lambda job=job: job.run(0, number, folder / "part"), 2)
        more = {"tower": name, "precision": precision, "decoder": decoder, "threads": torch.get_num_threads()}
        report("keys", "img", number, rows, device, **more)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    names = ["shufflenet_v2_x0_5"] if args.small else ["resnext101_32x8d"] + ["vit_b_32"] * (args.device != "cpu")
    number = 32 if args.small else 128 if args.device == "cpu" else 4096
    with tempfile.TemporaryDirectory() as folder, threads(1 if args.device == "cpu" else cores()):
        paths = worlds.photos(Path(folder, "photos"), number)
        for name in names:
            measure(name, paths, args.device, Path(folder))


if __name__ == "__main__":
    run_main(main)
