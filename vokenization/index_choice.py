"""The choice of an index for a corpus: what `--index auto` takes, and the kept records of approximate indexes."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """kind: flat (exact) or a kind of xvoken.search.approximate; recall: the recall that an approximate index has to reach."""

    kind: str = "flat"
    recall: float = 0.95

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--index", choices=("auto", *INDEXES), default="auto",
            help="flat: exact search; ivf, hnsw, ivfpq: approximate search by faiss, always on the CPU, with an index kept beside the "
            "keys; auto: flat if a line's search costs no more than the text tower, or an index would not pay for itself; else ivf",
        )  # fmt: skip
        parser.add_argument(
            "--index-recall", type=float, default=0.95, metavar="R", help="share of the exact top k that an approximate index must find"
        )

    @classmethod
    def from_args(cls, args: argparse.Namespace, identity: Identity, corpus: Corpus, number: int) -> "Choice":
        """The choice that the flags make for a gallery of `number` keys. Says why, if it is not the kind that was asked for.

        Raises UserError for a recall outside (0, 1].
        """
        if not 0 < args.index_recall <= 1:
            raise UserError(f"--index-recall {args.index_recall}: must be above 0 and at most 1")
        kind = args.index
        if kind == "auto":
            lines = min(len(corpus), args.limit or len(corpus))
            kind = affordable(args.load, identity, int(corpus.offsets[lines]) / max(lines, 1), number, lines)
        if kind in EFFORT and number < FEWEST_KEYS:
            say(f"--index {kind}: searching exactly instead, as this index needs at least {FEWEST_KEYS} keys and there are {number}")
            kind = "flat"
        return cls(kind, args.index_recall)


def affordable(load: str, identity: Identity, tokens: float, number: int, lines: int) -> str:
    """The kind that auto takes for so many lines of `tokens` tokens on average and `number` keys; says which and why.

    Exact search where it takes no more operations than the text tower, and where an approximate index, built and searched, is not
    expected to take fewer. It compares operations, not seconds, and asks for no files but the model's, so that all machines that work on
    a corpus choose the same kind.
    """
    queries = 1 + tokens if identity.level == "token" else 1
    query, building = indexes.costs(number, identity.dim)
    exact, approximate = (2 * identity.dim * cost for cost in (lines * queries * number, lines * queries * query + building))
    search = 2 * number * identity.dim * queries
    told = f"exact search takes {search:,.0f} operations per line in {number:,} keys"
    of_all = f"for {lines:,} lines {exact:,.0f}, an approximate index, built and searched, as much time as {approximate:,.0f}"
    if exact <= approximate:  # whatever the tower takes, which is not asked for: loading it takes a second
        say(f"--index auto: exact search (flat), since {told}; {of_all}")
        return "flat"
    tower = text_size(load)
    seen = tower.max_tokens if tower.fixed_length else min(tokens + 2, tower.max_tokens)
    encoding = 2 * tower.weights_at_work * seen
    told += f", the text tower {encoding:,.0f}"
    if search <= encoding:
        say(f"--index auto: exact search (flat), since {told}")
        return "flat"
    say(f"--index auto: approximate search (ivf), since {told}; {of_all}")
    return "ivf"


def recall_name(choice: Choice, settings: dict[str, Any]) -> str:
    """The key of a recall in an index's receipt: a hash of all that the recall depends on besides the index."""
    return fingerprint({**settings, "recall": choice.recall})


def record_of(choice: Choice, receipt: dict[str, Any], name: str) -> dict[str, Any]:
    """The record of a measured index: kind, id, effort, most, recall, topk, lines, queries."""
    return {"kind": choice.kind, "id": indexes.identity(receipt), **receipt["recall"][name]}


def known_record(choice: Choice, keys: Any, path: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The record of an index, if it is built and measured already and of these keys (float32 (N, dim) or Extended); else None."""
    receipt, name = indexes.read_receipt(path), recall_name(choice, settings)
    if not receipt or name not in receipt["recall"]:
        return None
    if any(receipt.get(key) != value for key, value in indexes.made_of(keys, choice.kind, settings.get("bank", "")).items()):
        return None
    return record_of(choice, receipt, name)


def tell(choice: Choice, path: Path, record: dict[str, Any]) -> None:
    """Report the recall of an index; warn if it is below the one asked for."""
    asked = f"{record['queries']} queries of {record['lines']} lines"
    found = f"recall@{record['topk']} {record['recall']:.3f} against exact search for {asked}"
    say(f"{path}: {EFFORT[choice.kind]} {record['effort']:,} of {record['most']:,}, {found}")
    if record["recall"] < choice.recall:
        say(f"warning: at its highest effort this index stays below --index-recall {choice.recall}; another kind of index may find more")
    if "cells" in indexes.parameters_of(choice.kind, FEWEST_KEYS, 1) and record["effort"] * indexes.READ_PRICE > record["most"]:
        say("warning: so much of the index has to be read that exact search is likely to be faster, and finds all: --index flat")
