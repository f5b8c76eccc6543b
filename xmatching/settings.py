"""The settings that trained weights depend on, as a snapshot keeps them. Imports no torch: they tell whether a training is finished."""

import math
from argparse import Namespace
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from xmatching.chitchat import other_lines
from xmatching.kinds import SCHEDULES
from xvoken.encoders.snapshot import ModelConfig
from xvoken.files.image_sets import CaptionedSet
from xvoken.files.safe import sha256_of_lines
from xvoken.kinds import HEADS, full_name, made_by


@dataclass
class Training:
    """The settings besides model and data that the trained weights depend on; the defaults are the published recipe.

    ridge, power, part_weights, hubness: None for what is chosen on pictures held out of the training ones.
    """

    loss: str = "paired_hinge"
    margin: float = 0.5
    temperature: float = 0.07
    hinge_warmup: int = 1
    batch_size: int = 512
    optim: str = "adam"
    lr: float = 1e-3
    tower_lr: float = 2e-5
    weight_decay: float = 0.0
    schedule: str = "constant"
    epochs: int = 25
    clip: float = 5.0
    seed: int = 9595
    lang_finetune: bool = False
    visn_finetune: bool = False
    train_precision: str = "fp32"
    views: int = 0
    crop_scale: float = 0.08
    limit: int | None = None
    ridge: float | None = None
    power: float | None = None
    part_weights: list[float] | None = None
    early_stop: bool = False
    hubness: float | None = 0.0
    momentum: float = 0.0
    warmup_ratio: float = 0.05

    @classmethod
    def from_args(cls, args: Namespace) -> "Training":
        return cls(**{field.name: getattr(args, field.name) for field in fields(cls)})

    def learning_rate(self, step: int, steps: int) -> float:
        """Factor on the learning rates at `step` (from 0) of `steps`."""
        return made_by(SCHEDULES[self.schedule])(step, steps, self.warmup_ratio)


def constant(step: int, steps: int, warmup: float) -> float:
    return 1.0


def cosine(step: int, steps: int, warmup: float) -> float:
    """A linear rise over the first share `warmup` of the steps, and half a cosine down to 0."""
    rise = min(1.0, (step + 1) / (warmup * steps)) if warmup else 1.0
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def linear(step: int, steps: int, warmup: float) -> float:
    """A linear rise from 0 over the first share `warmup` of the steps, and a linear fall to 0, as in Vokenization (--optim bert)."""
    rising = int(steps * warmup)
    return step / rising if step < rising else max(0.0, (steps - step) / max(1, steps - rising))


@dataclass(frozen=True)
class TextFacts:
    """The fields of a ModelConfig for which the text tower has to be loaded, and max_tokens, the longest input that it takes."""

    lang_hash: str
    text_width: int
    tokenizer: str
    max_tokens: int


@dataclass(frozen=True)
class ImageFacts:
    """The fields of a ModelConfig for which the image tower has to be loaded."""

    visn_hash: str
    image_width: int


def said_of(text: TextFacts, image: ImageFacts) -> dict[str, Any]:
    """The facts as fields of a ModelConfig."""
    found = {**asdict(text), **asdict(image)}
    del found["max_tokens"]
    return found


def model_of(args: Namespace, text: TextFacts, image: ImageFacts) -> ModelConfig:
    """The ModelConfig that follows from the flags and the towers."""
    found = said_of(text, image)
    longest = min(args.max_len or text.max_tokens, text.max_tokens)
    found |= {"lang": full_name(args.lang), "lang_layers": list(args.lang_layers), "max_len": longest}
    # What a training chooses, and the number of classes, are put in later: xmatching/joined.py, xmatching/zeroshot.py.
    found |= {"classes": 0, "parts": [], "hubness": 0.0, "calibration": None}
    names = [field.name for field in fields(ModelConfig)]
    return ModelConfig(**{name: found[name] if name in found else getattr(args, name) for name in names})


def is_fitted(head: str) -> bool:
    """Whether one of the heads in the value of --head comes about without training."""
    return any(HEADS[name].made != "trained" for name in head.split(","))


def describe(args: Namespace, model: ModelConfig, training: Training, sets: list[CaptionedSet], precision: str | None) -> dict[str, Any]:
    """The config of a snapshot; runs with different configs are different trainings. precision: of frozen towers, None without them."""
    return {
        "model": asdict(model),
        "training": {
            **asdict(training), "load": args.load and Path(args.load).name,
            "data": {part.name: {"images": len(part.ids), "captions": len(part.captions)} for part in sets},
            "captions": sha256_of_lines(f"{part.ids[picture]}\t{sentence}" for part in sets for picture, sentence in part.captions)[:16],
            "precision": precision,
            "other_lines": sha256_of_lines(other_lines(args.other_lines))[:16] if is_fitted(args.head) else None,
        },
    }  # fmt: skip
