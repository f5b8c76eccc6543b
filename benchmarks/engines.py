"""What computes a frozen tower fastest on this machine's cores: torch, OpenVINO, torch.compile, int8; and what int8 costs.

    python benchmarks/engines.py [--small] [--towers NAME ...] [--snapshot FOLDER]

Items a second, tensors in memory, on all cores: `one` a batch at a time with all cores, `lanes` a batch on each core (the stages'
way). Towers of the real sizes with random weights; pictures of their own size, lines of 20 tokens. `error` is the largest difference
from torch in fp32, as a share of the largest number. With --snapshot, a matcher's R@1 for its own text tower in fp32 and in int8, on
the captions and keys of --image-set.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from benchmarks import worlds
from benchmarks.measure import machine, make_parser
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.compiled import compile_tower
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.lanes import in_lanes
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.files.keys import read_keys
from xvoken.machine import Pace, cores, has_openvino
from xvoken.towers.image import for_inference
from xvoken.towers.precision import autocast, cast_weights

SECONDS = 3.0
TOWERS = ("clip_image", "clip_text", "bert", "resnext101_32x8d", "efficientnet_lite2")


class Pooled(nn.Module):
    """A tower of CLIP as one function of one tensor."""

    def __init__(self, model: nn.Module, name: str):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, given: Tensor) -> Tensor:
        return self.model(**{self.name: given.float() if self.name == "pixel_values" else given}).pooler_output


def built(name: str, folder: Path, small: bool) -> tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]], list[int]]:
    """A function that makes the tower, one that makes so many inputs, and batch sizes."""
    less = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 256} if small else {}
    if name == "clip_image":
        make = lambda: Pooled(CLIPVisionModel(CLIPVisionConfig(**less)), "pixel_values")  # noqa: E731
        return make, lambda n: (torch.randint(256, (n, 3, 224, 224), dtype=torch.uint8),), [1, 4, 8]
    if name == "clip_text":
        make = lambda: Pooled(CLIPTextModel(CLIPTextConfig(**less)), "input_ids")  # noqa: E731
        return make, lambda n: (torch.randint(40_000, (n, 20)),), [8, 32]
    if name == "bert":
        spec = worlds.text_tower(folder, *((2, 128) if small else ()))
        return spec.build, lambda n: (torch.randint(1000, 30_000, (n, 20)), torch.ones(n, 20, dtype=torch.int64)), [8, 32]
    spec = ImageTowerSpec(name) if name == "efficientnet_lite2" else worlds.image_tower(folder, "shufflenet_v2_x0_5" if small else name)
    side = spec.build().view.crop
    return spec.build, lambda n: (torch.randint(256, (n, 3, side, side), dtype=torch.uint8),), [1, 4, 8]


def ways(make: Callable[[], nn.Module], example: tuple[Tensor, ...], small: bool) -> Iterator[tuple[str, Pace, Callable[..., Tensor]]]:
    """Each way to compute a tower: its name, its threads, the function."""
    one, lanes = Pace("torch", 1, cores()), Pace("torch", cores(), 1)
    torch.manual_seed(0)
    tower = make().eval().requires_grad_(False)
    yield "torch one", one, tower
    yield "torch lanes", lanes, tower
    if has_openvino():
        free = range(1, 1) if len(example[0].shape) == 4 else (1,)
        for precision in ("fp32", "bf16"):
            for name, pace in (("one", Pace("openvino", 1, cores())), ("lanes", Pace("openvino", cores(), 1))):
                yield f"openvino {precision} {name}", pace, compile_tower(tower, "forward", example, (0, *free), example, pace, precision)
    if not small:  # it calls a C++ compiler
        yield "torch.compile one", one, torch.compile(tower, dynamic=False, options={"freezing": True})
    torch.manual_seed(0)
    low = for_inference(made, "bf16") if hasattr(made := make().eval().requires_grad_(False), "view") else cast_weights(made, "bf16")
    yield "torch bf16 lanes", lanes, in_bf16(low)
    torch.manual_seed(0)
    yield "int8 lanes", lanes, in_int8(make().eval())


def in_bf16(tower: nn.Module) -> Callable[..., Tensor]:
    def run(*inputs: Tensor) -> Tensor:
        with autocast("cpu", "bf16"):
            return tower(*inputs)

    return run


def in_int8(tower: nn.Module) -> Any:
    """Linear layers with int8 weights, and inputs rounded to int8 as they come."""
    return torch.ao.quantization.quantize_dynamic(tower, {nn.Linear}, torch.qint8)


def rate(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], pace: Pace, most: float) -> float:
    """Items a second."""

    def work(until: float) -> int:
        done = 0
        with torch.no_grad():
            while not done or time.perf_counter() < until:
                function(*inputs)
                done += len(inputs[0])
        return done

    list(in_lanes(work, [0.0] * pace.lanes, pace))  # what is done once
    began = time.perf_counter()
    done = sum(in_lanes(work, [began + most] * pace.lanes, pace))
    return done / (time.perf_counter() - began)


def measure(name: str, folder: Path, small: bool) -> None:
    make, inputs, sizes = built(name, folder, small)
    sizes, fixed = sizes[:1] if small else sizes, inputs(2)
    expected = None
    for way, pace, function in ways(make, fixed, small):
        try:
            with torch.no_grad():
                found = function(*fixed).float()
            expected = found if expected is None else expected
            error = float((found - expected).abs().max() / expected.abs().max())
            rates = {size: round(rate(function, inputs(size), pace, 0.1 if small else SECONDS), 1) for size in sizes}
        except Exception as failure:  # a way that this tower or machine can't go is a row, not the end
            say(f"{name:<20} {way:<22} {type(failure).__name__}")
            continue
        shown = "".join(f"{size:>6}: {done:>7.1f}" for size, done in rates.items())
        print(f"{name:<20} {way:<22}{shown}   error {error:.1e}")
        print(json.dumps({"stage": "engines", "tower": name, "way": way, "rates": rates, "error": error, "machine": machine()}), flush=True)


def cost_of_int8(load: str, image_set: str, lxmert_root: Path) -> None:
    captions = json.loads((lxmert_root / f"{image_set}.json").read_text())
    pairs = [(text, row["img_id"]) for row in captions for texts in row["sentf"].values() for text in texts]
    encoder = load_encoder(load, ["text"], "cpu")
    keys = read_keys(Path(load) / "keys", [image_set], encoder=encoder)
    row = {name.partition("/")[2]: at for at, name in enumerate(keys.ids)}  # behind the set's name
    owner, said = [row[name] for _, name in pairs], [text for text, _ in pairs]
    for way in ("fp32", "int8"):
        if way == "int8":
            encoder.text.run.tower = in_int8(encoder.text.tower)
        scores = encoder.encode_texts(said) @ keys.vectors.T
        right = (scores.argmax(1) == owner).mean()
        print(f"{way}: R@1 {100 * right:.2f} of {len(said)} captions")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--towers", nargs="+", choices=TOWERS, default=TOWERS)
    parser.add_argument("--snapshot", help="a matcher with keys, for what int8 costs")
    parser.add_argument("--image-set", default="openmoji_heldout", help="of its keys; its captions lie in --lxmert-root")
    parser.add_argument("--lxmert-root", type=Path, default=Path("data/demo/lxmert"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.towers[:2] if args.small else args.towers:
            measure(name, Path(folder), args.small)
    if args.snapshot:
        cost_of_int8(args.snapshot, args.image_set, args.lxmert_root)


if __name__ == "__main__":
    run_main(main)
