"""The two data sets that recipes are measured on, and a training on them that leaves no files but the cache."""

import hashlib
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from xmatching.data import PairBatches
from xmatching.metric import validate
from xmatching.model import Matcher
from xmatching.pairs import Towers, load_pairs
from xmatching.param import HEAD_FLAGS, parse_args
from xmatching.training import Learner, Training
from xvoken.image_sets import Roots, read_captioned
from xvoken.messages import UserError

ROOT = Path(__file__).resolve().parents[1]
COCO_SAMPLE = ROOT.parent / "shared/coco_sample"
TOWERS = ["--lang", "minilm", "--visn", "efficientnet_lite2"]


@dataclass(frozen=True)
class Source:
    """flags: where the data lies; valid: the held-out set; both as xmatching/main.py takes them."""

    name: str
    flags: tuple[str, ...]
    valid: str

    def args(self, recipe: str, more: list[str]) -> Namespace:
        return parse_args(["--recipe", recipe, *TOWERS, *self.flags, "--valid-imgs", self.valid, *more])


def sources(coco: Path = COCO_SAMPLE, demo: Path = ROOT / "data/demo") -> list[Source]:
    """The demo's pictures and, where it is present, the sample of COCO."""
    if not (demo / "lxmert/openmoji_train.json").exists():
        raise UserError(f"{demo}: no demo data; make it with: python scripts/demo_data.py {demo}")
    root = ("--lxmert-root", f"{demo}/lxmert", "--image-root", f"{demo}/images", "--train-imgs", "openmoji_train")
    found = [Source("openmoji", (*root, "--train-langs", "openmoji", "--valid-langs", "openmoji"), "openmoji_heldout")]
    if (coco / "lxmert/mscoco_train.json").exists():
        root = ("--lxmert-root", f"{coco}/lxmert", "--coco-root", f"{coco}/mscoco/images", "--train-imgs", "mscoco_train")
        found.append(Source("coco_sample", root, "mscoco_minival"))
    return found


class Bench:
    """Loads pairs once for each combination of towers and views, and trains on them."""

    def __init__(self) -> None:
        self.loaded: dict[str, tuple[Towers, PairBatches, PairBatches]] = {}

    def pairs(self, args: Namespace, held_out: bool) -> tuple[Towers, PairBatches, PairBatches]:
        """Towers, training pairs, and either the held-out pairs or the training pairs without augmentation."""
        data = (args.train_imgs, args.valid_imgs if held_out else None, args.text_pool, args.visn_pool, args.lang_layers)
        key = hashlib.sha256(repr((*data, args.views, args.crop_scale)).encode()).hexdigest()
        if key not in self.loaded:
            towers, roots = Towers(args), Roots.of(args)
            train = [read_captioned(name, args.train_langs, roots, args.limit) for name in args.train_imgs]
            other = [read_captioned(name, args.valid_langs, roots, args.limit) for name in args.valid_imgs] if held_out else train
            self.loaded[key] = towers, load_pairs(args, towers, train, augment=True), load_pairs(args, towers, other, augment=False)
        return self.loaded[key]


def train_and_measure(args: Namespace, towers: Towers, train: PairBatches, gallery: PairBatches) -> dict[str, Any]:
    """The record of xvoken.recall.evaluate after the last epoch."""
    torch.manual_seed(args.seed)
    config = {**towers.config(), **{name: getattr(args, name) for name in HEAD_FLAGS}}
    learner = Learner.of(Matcher(config), Training.of(args), "cpu")
    for epoch in range(1, args.epochs + 1):
        learner.epoch(epoch, train)
    return validate(learner.matcher, gallery, "cpu")
