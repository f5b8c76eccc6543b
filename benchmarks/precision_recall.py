"""Whether frozen towers in bf16 make a matcher worse: recall of the same matchers with both, and intervals of the change.

Used by benchmarks/precision.py. Matchers of the recipe `best`, one a seed, or one a fold. The towers' outputs are made once in each
precision, and all matchers take them from there. Pictures are drawn anew with all their captions, and matchers too, the same ones for
both precisions (paired bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from benchmarks.matching_data import Bench, Source, trained
from xmatching.data import PairBatches
from xmatching.folds import Pictures
from xmatching.model import Matcher
from xvoken.console import say
from xvoken.encoders.heads import mean_of_views
from xvoken.encoders.snapshot import Bank
from xvoken.measures import SAMPLES, SEED, Numbers, bounds, drawn, hits_by_picture, recalls
from xvoken.recall import ranks
from xvoken.records import TOP
from xvoken.search.hubness import taken_off

PRECISIONS = ("fp32", "bf16")
WAYS = {"both": ("bf16", "bf16"), "captions": ("bf16", "fp32")}  # precision of captions, of pictures
NAMES = [f"{side} R@{k}" for side in ("text_to_image", "image_to_text") for k in TOP]
FIRST = [name for name in NAMES if name.endswith("R@1")]
ALLOWED = -0.5  # points of R@1 that may be lost at most


@dataclass
class Trial:
    """Pairs to train on, and those to measure on, by precision; the numbers of rows are the same in all."""

    train: dict[str, PairBatches]
    gallery: dict[str, PairBatches]


def only(data: PairBatches, where: Any) -> PairBatches:
    """The marked pairs (C,)."""
    return PairBatches(data.text, data.images, data.text_rows[where], data.image_rows[where], data.others)


def folds(whole: Trial, number: int) -> list[Trial]:
    """The pictures in so many parts drawn by SEED, each held out in turn."""
    rows = whole.train["fp32"].image_rows
    parts = np.array_split(np.random.default_rng(SEED).permutation(np.unique(rows)), number)
    held = [np.isin(rows, part) for part in parts]
    kept = [{name: only(data, ~inside) for name, data in whole.train.items()} for inside in held]
    return [Trial(rest, {n: only(d, inside) for n, d in whole.gallery.items()}) for rest, inside in zip(kept, held, strict=True)]


@torch.inference_mode()
def hits(matcher: Matcher, bank: Bank | None, hubness: float, text: PairBatches, image: PairBatches) -> Numbers:
    """The rows of `hits_by_picture` for captions and pictures whose towers computed in a precision each."""
    matcher.eval()
    captions, pictures = Pictures(text), Pictures(image)
    places = np.arange(len(pictures))
    pairs, owner = captions.pairs(places)
    said = matcher.embed_text(captions.captions(pairs)).float()
    shown = mean_of_views(matcher.embed_image(pictures.views(places)).float())
    less = None
    if bank and hubness:
        less = taken_off(said.numpy(), shown.numpy(), bank.text.float().numpy(), bank.image.float().numpy(), hubness)
    found = [np.column_stack([side.hit(k).numpy() for k in TOP]) for side in ranks(said, shown, owner, less)]
    return hits_by_picture(found[0], owner.numpy(), found[1])


def change(before: list[Numbers], after: list[Numbers], together: bool) -> dict[str, dict[str, Any]]:
    """The mean change of each recall in points and its 95% interval; rows of `hits_by_picture` of each matcher.

    together: whether all matchers were measured on the same pictures, which are then drawn together.
    """
    numbers, samples = np.random.default_rng(SEED), []
    for _ in range(SAMPLES):
        times = drawn(len(before[0]), numbers)
        found = []
        for number in numbers.integers(len(before), size=len(before)):
            times = times if together else drawn(len(before[number]), numbers)
            found.append(recalls(times @ after[number]) - recalls(times @ before[number]))
        samples.append(np.mean(found, 0))
    first, second = (np.mean([recalls(rows.sum(0)) for rows in side], 0) for side in (before, after))
    figures = zip(NAMES, first, second - first, bounds(np.array(samples)).T, strict=True)
    return {n: {"fp32": round(float(f), 2), "change": round(float(c), 3), "interval": b.round(3).tolist()} for n, f, c, b in figures}


def measure(source: Source, seeds: range, in_folds: bool = False) -> dict[str, dict[str, Any]]:
    """The changes by precision of the training's towers, and by way: {"fp32": {"both": {"text_to_image R@1": ...}}}.

    in_folds: a matcher a fold of the source's pictures, held-out ones too, instead of one a seed.
    """
    if in_folds:
        source = replace(source, train=f"{source.train},{source.valid}")
    found = {p: Bench().pairs(source.args("best", ["--precision", p]), held_out=not in_folds) for p in PRECISIONS}
    whole = Trial({p: train for p, (_, train, _) in found.items()}, {p: gallery for p, (_, _, gallery) in found.items()})
    trials = folds(whole, len(seeds)) if in_folds else [whole] * len(seeds)
    results = {}
    for precision in PRECISIONS:
        rows: dict[str, list[Numbers]] = {"fp32": [], **{way: [] for way in WAYS}}
        for seed, trial in zip(seeds, trials, strict=True):
            args = source.args("best", ["--precision", precision, "--seed", str(seed)])
            args.key_views = len(trial.train[precision].others) + 1  # as settled with all pictures, as their outputs are
            made = trained(args, found[precision][0], trial.train[precision])
            for way, (text, image) in {"fp32": ("fp32", "fp32"), **WAYS}.items():
                rows[way].append(hits(*made, trial.gallery[text], trial.gallery[image]))
            say(f"{source.name}{', folds' if in_folds else ''}, trained on {precision}: matcher {seed} of {len(seeds)}")
        results[precision] = {way: change(rows["fp32"], rows[way], not in_folds) for way in WAYS}
    return results


def harmless(results: dict[str, dict[str, dict[str, Any]]]) -> bool:
    """Whether both sides in bf16 lose at most ALLOWED points of R@1, by the lower bounds, on all data and in both directions."""
    found = [made["both"][name]["interval"][0] for trained_on in results.values() for made in trained_on.values() for name in FIRST]
    return min(found) > ALLOWED


def print_table(results: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A line for each recall: in fp32, and the change with its interval for each way and precision of the training."""
    for data, trained_on in results.items():
        for precision, made in trained_on.items():
            for way, figures in made.items():
                print(f"{data}, trained on {precision}, {way} in bf16 - fp32, points")
                for name, one in figures.items():
                    low, high = one["interval"]
                    print(f"  {name:<20}{one['fp32']:8.2f}{one['change']:+8.3f}  95% from {low:+.3f} to {high:+.3f}")
