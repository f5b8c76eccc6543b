"""A dual encoder alone, and adapted to captions of a kind that it was not trained on: recall and seconds by the number of captions.

    python benchmarks/adapting.py [--small]

No CLIP model can be fetched here, so one is made: MiniLM and EfficientNet-Lite2, frozen, with a matrix behind each, trained on the captions
of one set by InfoNCE as CLIP is. It knows far less than CLIP does, and of pictures unlike its own next to nothing. Then it is adapted to
the other set, and to further pictures of its own set, where its own score is the better start.

reads   the demo's data and ../shared/coco_sample (if present), never their held-out sets
prints  text to image R@1, R@5 and the sum of the six recalls on pictures carved from the training parts, the share of its own score, and
        the seconds that the adapting took, the towers' outputs being there; the mean over carvings; the last line is one JSON object
"""

import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.few_captions import SHARE, fewer
from benchmarks.matching_data import Bench, Source, small_source, sources, trained
from benchmarks.measure import machine, make_parser, threads
from xmatching.data import PairBatches, carve
from xmatching.metric import validate
from xmatching.model import Matcher
from xmatching.pairs import Towers
from xmatching.recipes import ADAPT_TRAINED
from xmatching.settings import Training, model_of
from xmatching.training import Learner
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.heads import OwnHead
from xvoken.records import rsum
from xvoken.towers.dual import Dual

CAPTIONS = (100, 300, 1000)
DIM = 256  # of the made encoder's joint space
WAYS = {  # --head, and whether hubness is taken off
    "own score alone": ("own", False),
    "own,cca": ("own,cca", False),
    "own,linear": ("own,linear", False),
    "cca": ("cca", False),
    "own, hubness chosen": ("own", True),
    "own,cca, hubness chosen (--recipe adapt)": ("own,cca", True),
}


@dataclass(frozen=True)
class Case:
    """A set to train the dual encoder on, and one to adapt it to; half: both are halves of one set."""

    name: str
    taught: Source
    own: Source
    half: bool = False


def cases(found: list[Source]) -> list[Case]:
    across = [Case(f"{one.name} to {other.name}", one, other) for one in found for other in found if one is not other]
    return [*across, Case(f"half of {found[0].name} to the other", found[0], found[0], half=True)]


def args_of(source: Source) -> Namespace:
    """The flags for the towers' outputs; heads and hubness are set by hand: --head own asks for a dual encoder that has a name."""
    return source.args("best", ["--head", "cca", "--lang-layers", "1", "--visn-pool", "avg", "--key-views", "1", "--epochs", "0"])


def halves(data: PairBatches) -> list[PairBatches]:
    """The pairs of every second picture, and those of the others."""
    odd = data.image_rows % 2 == 1
    return [replace(data, text_rows=data.text_rows[part], image_rows=data.image_rows[part]) for part in (~odd, odd)]


def taught(args: Namespace, towers: Towers, data: PairBatches) -> Dual:
    """A dual encoder of these towers with projections trained on these pairs."""
    model = replace(model_of(args, towers.text_facts(), towers.image_facts()), head="own", dim=DIM)
    torch.manual_seed(0)
    learner = Learner.to_train(Matcher(model), Training.from_args(settings(args, "linear", False)), "cpu")
    for epoch in range(1, learner.training.epochs + 1):
        learner.epoch(epoch, data)
    text, image = (learner.matcher.heads[side].projection for side in ("text_head", "image_head"))
    return Dual(towers.text, towers.image, text, image, DIM, towers.tokenizer, "")


def settings(args: Namespace, head: str, hubness: bool) -> Namespace:
    """The flags with --head, and those that --recipe adapt brings with it."""
    more = ADAPT_TRAINED if "linear" in head else {"epochs": 0}
    return Namespace(**{**vars(args), **more, "head": head, "hubness": None if hubness else 0.0})


def adapted(args: Namespace, towers: Towers, way: str, few: PairBatches, gallery: PairBatches) -> dict[str, float]:
    """Recall by one way, the share of the dual encoder's own score, and seconds."""
    began = time.perf_counter()
    matcher, bank, hubness = trained(settings(args, *WAYS[way]), towers, few)
    took, head = time.perf_counter() - began, matcher.heads["text_head"]
    own = sum(factor**2 for factor, part in zip(head.factors, head.heads, strict=True) if isinstance(part, OwnHead))
    record = validate(matcher, gallery, "cpu", bank, hubness)
    return {"R1": record["text_to_image"]["R1"], "R5": record["text_to_image"]["R5"], "rsum": rsum(record), "own": own, "seconds": took}


def measure(bench: Bench, case: Case, carvings: int, numbers: tuple[int, ...]) -> dict[str, Any]:
    """The figures of all ways by the number of captions."""
    source, own = args_of(case.taught), args_of(case.own)
    towers, first, _ = bench.pairs(source, held_out=False)
    towers, train, evaluation = bench.pairs(own, held_out=False)
    if case.half:
        (first, train), evaluation = halves(train), halves(evaluation)[1]
    towers.dual = taught(source, towers, first)
    found: dict[str, Any] = {}
    for captions in numbers:
        figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for seed in range(carvings):
            kept, gallery = carve(train, evaluation, SHARE, seed)
            few = fewer(kept, captions, seed)
            for way, rows in figures.items():
                rows.append(adapted(own, towers, way, few, gallery))
        for way, rows in figures.items():
            mean = {name: round(statistics.mean(row[name] for row in rows), 2) for name in rows[0]}
            found.setdefault(f"{len(few.text_rows)} captions", {})[way] = mean
            say(f"{case.name}, {len(few.text_rows)} captions, {way}: {mean}")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("A dual encoder alone, and adapted to one's own captions.")
    parser.add_argument("--carvings", type=int, default=3, help="number of different carved parts that are measured on")
    args = parser.parse_args(argv)
    bench, results = Bench(), {}
    with tempfile.TemporaryDirectory() as folder, threads(1):
        for case in cases([small_source(Path(folder))] if args.small else sources()):
            size = (1, (0,)) if args.small else (args.carvings, CAPTIONS)
            results[case.name] = measure(bench, case, *size)
    print(f"{'adapted to':<50}{'way':<44}{'R@1':>7}{'R@5':>7}{'rsum':>8}{'own':>7}{'seconds':>9}")
    for name, rows in results.items():
        for captions, ways in rows.items():
            for way, row in ways.items():
                figures = f"{row['R1']:7.1f}{row['R5']:7.1f}{row['rsum']:8.1f}{row['own']:7.2f}{row['seconds']:9.1f}"
                print(f"{f'{name}, {captions}':<50}{way:<44}{figures}")
    print(json.dumps({"stage": "adapting", "machine": machine(), "carvings": args.carvings, "results": results}))


if __name__ == "__main__":
    run_main(main)
