"""Which index a corpus is searched with: what `auto` takes, and what is known of an approximate one already."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.console import say
from xvoken.encoders.identity import Identity, text_size
from xvoken.errors import UserError
from xvoken.files import indexes
from xvoken.files.corpus import Corpus
from xvoken.files.indexes import EFFORT, FEWEST_KEYS
from xvoken.files.safe import fingerprint
from xvoken.kinds import INDEXES


@dataclass(frozen=True)
class Choice:
    """kind: flat (exact) or a kind of xvoken.search.approximate; recall: what an approximate one has to reach."""

    kind: str = "flat"
    recall: float = 0.95

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--index", choices=("auto", *INDEXES), default="auto",
            help="flat: exact; ivf, hnsw, ivfpq: approximate, by faiss, on the CPU also where the towers run on a GPU, kept beside "
            "the keys; auto: exact as long as a line's search takes no more operations than the text tower, else ivf",
        )  # fmt: skip
        parser.add_argument(
            "--index-recall", type=float, default=0.95, metavar="R", help="share of the exact top k that an approximate index has to find"
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace, identity: Identity, corpus: Corpus, number: int) -> "Choice":
        """number: keys in the gallery. Says why, where the kind asked for is not the one taken; raises UserError."""
        if not 0 < args.index_recall <= 1:
            raise UserError(f"--index-recall {args.index_recall}: a share above 0 and at most 1")
        kind = args.index
        if kind == "auto":
            lines = min(len(corpus), args.limit or len(corpus))
            kind = affordable(args.load, identity, int(corpus.offsets[lines]) / max(lines, 1), number)
        if kind in EFFORT and number < FEWEST_KEYS:
            say(f"--index {kind}: exact search instead, an index takes at least {FEWEST_KEYS} keys and there are {number}")
            kind = "flat"
        return cls(kind, args.index_recall)


def affordable(load: str, identity: Identity, tokens: float, number: int) -> str:
    """The kind that auto takes for lines of so many tokens on average; says which and why.

    Counted in operations, not seconds: every machine at work on a corpus has to choose the same.
    """
    tower = text_size(load)
    seen = tower.max_tokens if tower.fixed_length else min(tokens + 2, tower.max_tokens)
    queries = 1 + tokens if identity.level == "token" else 1
    search, encoding = 2 * number * identity.dim * queries, 2 * tower.weights_at_work * seen
    kind = "flat" if search <= encoding else "ivf"
    costs = f"{search:,.0f} operations a line in {number:,} keys, the text tower {encoding:,.0f}"
    name = "exact search (flat)" if kind == "flat" else "approximate search (ivf)"
    say(f"--index auto: {name}, since exact search takes {costs}")
    return kind


def recall_name(choice: Choice, settings: dict[str, Any]) -> str:
    """What a receipt keeps a recall under: all that it depends on besides the index."""
    return fingerprint({**settings, "recall": choice.recall})


def record_of(choice: Choice, receipt: dict[str, Any], name: str) -> dict[str, Any]:
    """kind, id, effort, most, recall, topk, lines, queries."""
    return {"kind": choice.kind, "id": indexes.identity(receipt), **receipt["recall"][name]}


def known_record(choice: Choice, keys: NDArray[np.float32], path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an index that is built and measured already; None where it is not, or of other keys."""
    receipt, name = indexes.read_receipt(path), recall_name(choice, settings)
    if not receipt or name not in receipt["recall"]:
        return None
    if any(receipt.get(key) != value for key, value in indexes.made_of(keys, choice.kind).items()):
        return None
    return record_of(choice, receipt, name)


def tell(choice: Choice, path: Path, record: dict[str, Any]) -> None:
    """Say what an index finds."""
    asked = f"{record['queries']} queries of {record['lines']} lines"
    found = f"recall@{record['topk']} {record['recall']:.3f} against exact search for {asked}"
    say(f"{path}: {EFFORT[choice.kind]} {record['effort']:,} of {record['most']:,}, {found}")
    if record["recall"] < choice.recall:
        say(f"warning: that is all of it, and below --index-recall {choice.recall}; another kind of index may find more")
