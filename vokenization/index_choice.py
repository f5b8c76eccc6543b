"""Which index a corpus is searched with: what `auto` takes, and how hard an approximate one is searched."""

import argparse
import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from vokenization.vokenization import VokenizeJob
from xvoken.console import say
from xvoken.encoders.batches import require_finite
from xvoken.encoders.encoder import Encoder
from xvoken.errors import UserError
from xvoken.files import indexes
from xvoken.files.corpus import Corpus
from xvoken.files.indexes import EFFORT
from xvoken.files.keys import Gallery
from xvoken.files.locks import sole_writer
from xvoken.files.safe import fingerprint, write_json
from xvoken.search import approximate
from xvoken.search.approximate import ApproximateIndex, SavedIndex, open_saved
from xvoken.search.index import build_index

INDEXES = ("auto", "flat", *EFFORT)
SAMPLE, NEAR = 256, 64  # lines that recall is measured on; how far an empty one's stand-in may lie behind it


@dataclass(frozen=True)
class Choice:
    """kind: flat (exact) or a kind of xvoken.search.approximate; recall: what an approximate one has to reach."""

    kind: str = "flat"
    recall: float = 0.95

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--index", choices=INDEXES, default="auto",
            help="flat: exact; ivf, hnsw, ivfpq: approximate, by faiss, on the CPU also where the towers run on a GPU, kept beside "
            "the keys; auto: exact as long as a line's search takes no more operations than the text tower, else ivf",
        )  # fmt: skip
        parser.add_argument(
            "--index-recall", type=float, default=0.95, metavar="R", help="share of the exact top k that an approximate index has to find"
        )

    @classmethod
    def of(cls, args: argparse.Namespace, encoder: Encoder, corpus: Corpus, number: int) -> "Choice":
        """number: keys in the gallery. Says why, where the kind asked for is not the one taken; raises UserError."""
        if not 0 < args.index_recall <= 1:
            raise UserError(f"--index-recall {args.index_recall}: a share above 0 and at most 1")
        kind = args.index
        if kind == "auto":
            lines = min(len(corpus), args.limit or len(corpus))
            kind = affordable(encoder, int(corpus.offsets[lines]) / max(lines, 1), number)
        if kind in EFFORT and number < indexes.FEWEST_KEYS:
            say(f"--index {kind}: exact search instead, an index takes at least {indexes.FEWEST_KEYS} keys and there are {number}")
            kind = "flat"
        return cls(kind, args.index_recall)


def affordable(encoder: Encoder, tokens: float, number: int) -> str:
    """The kind that auto takes for lines of so many tokens on average; says which and why.

    Counted in operations, not seconds: every machine at work on a corpus has to choose the same.
    """
    tower = encoder.text_spec.build()
    seen = tower.max_tokens if tower.fixed_length else min(tokens + 2, tower.max_tokens)
    queries = 1 + tokens if encoder.level == "token" else 1
    search, encoding = 2 * number * encoder.dim * queries, 2 * weights_at_work(tower) * seen
    kind = "flat" if search <= encoding else "ivf"
    costs = f"{search:,.0f} operations a line in {number:,} keys, the text tower {encoding:,.0f}"
    name = "exact search (flat)" if kind == "flat" else "approximate search (ivf)"
    say(f"--index auto: {name}, since exact search takes {costs}")
    return kind


def weights_at_work(tower: nn.Module) -> int:
    """Parameters that each token is multiplied with: all but the embeddings, which are looked up."""
    modules = (module for module in tower.modules() if not isinstance(module, nn.Embedding))
    return sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))


def prepare(
    choice: Choice, job: VokenizeJob, corpus: Corpus, gallery: Gallery, sets: str, settings: dict[str, Any]
) -> tuple[SavedIndex, dict[str, Any]]:
    """Build or find the index beside the keys, and measure or find its recall on this corpus; says what it is.

    settings: all that the recall depends on besides the index. Returns the index and its record: kind, id, effort,
    most, recall, topk, lines, queries.
    """
    path = indexes.index_file(job.keys_dir, sets, choice.kind)
    if not os.access(job.keys_dir, os.W_OK):
        raise UserError(f"{path}: can't be written; copy the keys to where it can, and give that folder as --keys-dir; or --index flat")
    with sole_writer(path, wait=True):
        keys = gallery.vectors
        receipt = approximate.ensure_index(keys, path, choice.kind)
        name = fingerprint({**settings, "recall": choice.recall})
        if name not in receipt["recall"]:
            index = open_saved(keys, SavedIndex(path, choice.kind, 1))
            receipt["recall"][name] = measure(index, job, corpus, settings["lines"], choice.recall)
            write_json(indexes.receipt_file(path), receipt)
    record = {"kind": choice.kind, "id": indexes.identity(receipt), **receipt["recall"][name]}
    asked = f"{record['queries']} queries of {record['lines']} lines"
    found = f"recall@{record['topk']} {record['recall']:.3f} against exact search for {asked}"
    say(f"{path}: {EFFORT[choice.kind]} {record['effort']:,} of {record['most']:,}, {found}")
    if record["recall"] < choice.recall:
        say(f"warning: that is all of it, and below --index-recall {choice.recall}; another kind of index may find more")
    return SavedIndex(path, choice.kind, record["effort"]), record


def measure(index: ApproximateIndex, job: VokenizeJob, corpus: Corpus, lines: int, target: float) -> dict[str, Any]:
    """Tune an index on a sample of the corpus' own lines; raises UserError where all of them are empty."""
    tokens, offsets = sample_lines(corpus, lines)
    if not len(tokens):
        raise UserError(f"{corpus.path}: no line with tokens to measure the recall of --index {index.kind} on; take --index flat")
    encoding = replace(job)  # the job itself is sent to the workers, without a model
    encoding.setup_encoder("cpu")
    queries = encoding.sample_queries(tokens, offsets)
    require_finite(queries, lambda row: f"{corpus.path}: a line of it", job.precision)
    exact = build_index(index.keys, job.backend, "cpu").search(queries, job.topk)[0]
    reached = approximate.tune(index, queries, exact, target)
    return {
        "effort": index.effort, "most": index.most, "recall": round(reached, 4), "topk": job.topk,
        "lines": len(offsets) - 1, "queries": len(queries),
    }  # fmt: skip


def sample_lines(corpus: Corpus, lines: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """SAMPLE non-empty ones of the first lines, evenly spread (fewer where many are empty): tokens (n,), offsets (L + 1,)"""
    starts, picked = np.unique(np.arange(SAMPLE) * lines // SAMPLE), []
    for start, stop in zip(starts, [*starts[1:], lines], strict=True):
        tokens, offsets = corpus.slab(int(start), min(int(stop), int(start) + NEAR))
        if len(filled := np.flatnonzero(np.diff(offsets))):
            picked.append(tokens[offsets[filled[0]] : offsets[filled[0] + 1]])
    offsets = np.cumsum([0, *map(len, picked)])
    return np.concatenate([np.empty(0, np.int32), *picked]), offsets
