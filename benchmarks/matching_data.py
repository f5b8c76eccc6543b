"""The data sets that recipes are measured on, and a training on them that leaves no files but the cache."""

import hashlib
import json
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import worlds
from xmatching.data import PairBatches
from xmatching.finished import read_sets
from xmatching.joined import bank_of, fit, joined_learner
from xmatching.metric import validate
from xmatching.model import Matcher
from xmatching.pairs import Towers, load_pairs
from xmatching.param import parse_args
from xmatching.settings import Training, is_fitted, model_of
from xmatching.training import Learner
from xvoken.encoders.snapshot import Bank
from xvoken.errors import UserError
from xvoken.towers.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
COCO_SAMPLE, DEMO = ROOT.parent / "shared/coco_sample", ROOT / "data/demo"


@dataclass(frozen=True)
class Source:
    """Captioned pictures, and the towers to use for them. roots: flags of all stages for the data's folders; train, valid: image sets;
    langs: source of the sentences; towers, more: flags of xmatching/main.py."""

    name: str
    roots: tuple[str, ...]
    train: str
    valid: str
    langs: str = "mscoco"
    towers: tuple[str, ...] = ("--lang", "minilm", "--visn", "efficientnet_lite2")
    more: tuple[str, ...] = ()

    @property
    def flags(self) -> list[str]:
        """Flags of xmatching/main.py."""
        sets = ["--train-imgs", self.train, "--valid-imgs", self.valid, "--train-langs", self.langs, "--valid-langs", self.langs]
        return [*self.towers, *self.roots, *sets, *self.more]

    def args(self, recipe: str, more: list[str]) -> Namespace:
        return parse_args(["--recipe", recipe, *self.flags, *more])


def sources() -> list[Source]:
    """The demo's pictures and, if it is on this machine, the sample of COCO."""
    if not (DEMO / "lxmert/openmoji_train.json").exists():
        raise UserError(f"{DEMO}: no demo data; make it with: python scripts/demo_data.py {DEMO}")
    roots = ("--lxmert-root", f"{DEMO}/lxmert", "--image-root", f"{DEMO}/images")
    found = [Source("openmoji", roots, "openmoji_train", "openmoji_heldout", "openmoji")]
    return [*found, coco_sample()] if COCO_SAMPLE.is_dir() else found


def coco_sample() -> Source:
    """200 photos of COCO; raises UserError if they are not on this machine."""
    if not COCO_SAMPLE.is_dir():
        raise UserError("../shared/coco_sample is not on this machine; --small runs without it")
    roots = ("--lxmert-root", f"{COCO_SAMPLE}/lxmert", "--coco-root", f"{COCO_SAMPLE}/mscoco/images")
    return Source("coco_sample", roots, "mscoco_train", "mscoco_minival")


def small_source(folder: Path) -> Source:
    """For --small: a few photos with captions, towers and a cache of its own, all in `folder`."""
    paths = sorted(Path(path).stem for path in worlds.photos(folder / "photos", 12, (96, 72)))
    (folder / "lxmert").mkdir()
    for name, ids in (("small_train", paths[:8]), ("small_valid", paths[8:])):
        rows = [{"img_id": i, "sentf": {"mscoco": [f"photo number {int(i)}", f"the {int(i)}th one"]}} for i in ids]
        (folder / "lxmert" / f"{name}.json").write_text(json.dumps(rows))
    text, image = worlds.text_tower(folder, 4, 64), worlds.image_tower(folder, "resnet18")
    load_tokenizer("minilm").save_pretrained(text.name)
    roots = ("--lxmert-root", f"{folder}/lxmert", "--image-root", f"{folder}/photos")
    towers = ("--lang", text.name, "--visn", image.name, "--visn-weights", image.weights)
    more = ("--cache", f"{folder}/cache", "--num-workers", "1", "--epochs", "2")
    return Source("small", roots, "small_train", "small_valid", towers=towers, more=more)


class Bench:
    """Loads pairs once for each combination of towers and views, and trains on them."""

    def __init__(self) -> None:
        self.loaded: dict[str, tuple[Towers, PairBatches, PairBatches]] = {}

    def pairs(self, args: Namespace, held_out: bool) -> tuple[Towers, PairBatches, PairBatches]:
        """Returns towers, training pairs, and either the held-out pairs or the training pairs without augmentation."""
        train, valid = read_sets(args)  # also settles --key-views auto
        data = (args.train_imgs, args.valid_imgs if held_out else None, args.text_pool, args.visn_pool, args.lang_layers, args.key_views)
        key = hashlib.sha256(repr((*data, args.views, args.crop_scale)).encode()).hexdigest()
        if key not in self.loaded:
            towers = Towers.from_args(args)
            pairs = load_pairs(args, towers, args.level, train, augment=True)
            self.loaded[key] = towers, pairs, load_pairs(args, towers, args.level, valid if held_out else train, augment=False)
        return self.loaded[key]


def train_and_measure(args: Namespace, towers: Towers, train: PairBatches, gallery: PairBatches) -> dict[str, Any]:
    """Train, and return the record of xvoken.recall.evaluate after the last epoch."""
    model, bank, hubness = trained(args, towers, train)
    return validate(model, gallery, "cpu", bank, hubness)


def trained(args: Namespace, towers: Towers, train: PairBatches) -> tuple[Matcher, Bank | None, float]:
    """A matcher after the last epoch; its bank, None without one, and how much hubness in it is taken off."""
    torch.manual_seed(args.seed)
    model, training = model_of(args, towers.text_facts(), towers.image_facts()), Training.from_args(args)
    if is_fitted(args.head):
        joined = fit(args, towers, model, training, train)
        training, chosen = replace(training, epochs=joined.epochs), joined.chosen
        learner = joined_learner(joined.model, training, "cpu")
        learner.whole.load_state_dict(joined.matcher.state_dict())
    else:
        learner, chosen = Learner.to_train(Matcher(model), training, "cpu"), None
    for epoch in range(1, training.epochs + 1):
        learner.epoch(epoch, train)
    return learner.whole, bank_of(learner.whole, train, chosen), chosen["model"]["hubness"] if chosen else 0.0
