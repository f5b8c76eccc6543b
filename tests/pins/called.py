"""What is pinned by calling it, since no file shows it alone: hashes, settings of towers and views, order of random numbers."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests import builder
from tests.pins import names


class Recorder:
    """A picture that notes which boxes are cut from it; a cut is dark on its left, so that a flip shows."""

    def __init__(self, width: int, height: int):
        self.size, self.boxes = (width, height), []

    def resize(self, size: tuple[int, int], _: Any, box: tuple[int, ...]) -> np.ndarray:
        self.boxes.append(list(box))
        cut = np.zeros((size[1], size[0], 3), np.uint8)
        cut[:, size[0] // 2 :] = 255
        return cut


def hashes(folder: Path) -> dict[str, Any]:
    """Names of weights, tokenizers and settings. Casting weights is exact, fusing them is not: of that, the types."""
    small = builder.fill_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LayerNorm(16), nn.Linear(16, 5)))
    image_spec, text_spec = (
        names.ImageTowerSpec("resnet18", str(folder / "resnet18.safetensors")),
        names.TextTowerSpec(str(folder / "bert"), (2, 1)),
    )
    image, text = image_spec.build(), text_spec.build()
    towers = {"image": names.weights_hash(image), "image in fp32": names.weights_hash(names.for_inference(image, "fp32"))}
    towers |= {"text": names.weights_hash(text), "text in bf16": names.weights_hash(names.cast_weights(text, "bf16"))}
    fused = {name: str(tensor.dtype) for name, tensor in names.for_inference(image, "bf16").state_dict().items() if "layer" not in name}
    from transformers import CLIPImageProcessor

    config = names.ProcessorView.from_processor(CLIPImageProcessor.from_pretrained(folder / "models/clip"), "clip").config
    kept = ("size", "crop_size", "resample", "rescale_factor", "image_mean", "image_std", "image_processor_type")
    settings = {"tower": "x", "layers": [2, 1], "é": None, "view": {"mean": [0.485, 0.5]}, "views": 0}
    return {
        "small": [names.weights_hash(small), names.weights_hash(names.cast_weights(small, "bf16")), builder.hash_of(small.state_dict())],
        "towers": towers, "image in bf16": fused, "widths": [image.width, text.width, text.max_tokens],
        "tokenizer": names.tokenizer_hash(names.load_tokenizer(str(folder / "bert"))), "fingerprint": names.fingerprint(settings),
        "view": asdict(image.view), "LITE2_VIEW": asdict(names.LITE2_VIEW), "processor": {name: config[name] for name in kept},
        "ProcessorView": asdict(names.ProcessorView({"size": 32})),
        "View": asdict(names.View(256, 224, (0.5,), (0.25,))), "Crops": asdict(names.Crops(2, 0.08, 7)),
        "DualTextSpec": asdict(names.DualTextSpec("x")), "TextTowerSpec": asdict(names.TextTowerSpec("x", (2, 1))),
        "ImageTowerSpec": asdict(names.ImageTowerSpec("x")),
    }  # fmt: skip


def random_numbers(_: Path) -> dict[str, Any]:
    """Order of pairs, drawn views, boxes of crops and seeds of epochs, for fixed seeds."""
    rows = np.zeros((6, 4), np.float16)
    features = names.Features(rows, [(2, "not a picture")], Path("x.npy"))
    images = names.CachedInputs([features], [np.zeros((6, 3, 4), np.float16)])
    owner = np.repeat(np.arange(6), 2)
    pairs = names.PairBatches(names.CachedInputs([features]), images, owner, owner)
    plans, drawn = {}, {}
    for epoch, rank, processes in ((1, 0, 1), (2, 0, 1), (2, 0, 2), (2, 1, 2)):
        pairs.plan(epoch, 5, 9595, rank, processes)
        plans[f"epoch {epoch}, process {rank} of {processes}"] = [batch.tolist() for batch in pairs.batches]
        drawn[f"epoch {epoch}"] = images.drawn.tolist()
    boxes = {}
    for seed, number, size in ((0, 0, (640, 480)), (0, 1, (640, 480)), (9595, 1, (480, 640)), (1, 2, (2000, 3))):
        picture = Recorder(*size)
        cuts = names.Crops(4, 0.08, seed)(picture, names.View(8, 8, (0.5,) * 3, (0.5,) * 3), number)
        boxes[f"seed {seed}, picture {number}, {size}"] = {"boxes": picture.boxes, "flipped": [bool(cut[0, 0, 0]) for cut in cuts]}
    return {"pairs": plans, "drawn": drawn, "crops": boxes, "torch": _epoch_seeds(), "heads": _initial_heads()}


def _learner(seed: int) -> Any:
    model = {"head": "linear", "dim": 2, "hidden": 2, "dropout": 0.0, "text_width": 3, "image_width": 3}
    return names.Learner.to_train(names.Matcher(model), names.Training(seed=seed), "cpu")


def _epoch_seeds() -> dict[str, int]:
    """What torch is seeded with for an epoch, seen behind an epoch without pairs."""
    none = np.zeros(0, np.int64)
    inputs = names.CachedInputs([names.Features(np.zeros((1, 3), np.float16), [], Path("x.npy"))])
    data, found = names.PairBatches(inputs, inputs, none, none), {}
    for seed, number, rank in ((9595, 1, 0), (9595, 2, 0), (9595, 2, 1), (0, 1, 0)):
        _learner(seed).epoch(number, data, rank)
        found[f"seed {seed}, epoch {number}, process {rank}"] = torch.initial_seed()
    return found


def _initial_heads() -> list[str]:
    """The order in which the heads are made decides which random numbers each gets."""
    return [name for name, _ in _learner(0).matcher.named_parameters()]


def flags(_: Path) -> dict[str, Any]:
    """The defaults of a training, of each recipe."""
    published = vars(names.parse_args([]))
    best = vars(names.parse_args(["--recipe", "best"]))
    return {"published": published, "best": {name: value for name, value in best.items() if value != published[name]}}


CALLED = {call.__name__: call for call in (hashes, random_numbers, flags)}
