"""Building an approximate index beside the keys, with the least search effort that reaches the recall asked for on a corpus' lines."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vokenization.index_choice import Choice, recall_name, record_of
from vokenization.vokenization import VokenizeJob
from xvoken.encoders.frozen import require_finite
from xvoken.errors import UserError
from xvoken.files.corpus import Corpus
from xvoken.files.indexes import receipt_file
from xvoken.files.locks import sole_writer
from xvoken.files.safe import write_json
from xvoken.search import approximate
from xvoken.search.approximate import ApproximateIndex, SavedIndex, open_saved
from xvoken.search.index import build_index

SAMPLE, NEAR = 256, 64  # lines that recall is measured on; an empty one is replaced by one of the next NEAR lines


def prepare(
    choice: Choice, job: VokenizeJob, corpus: Corpus, keys: NDArray[np.float32], path: Path, settings: dict[str, Any]
) -> dict[str, Any]:
    """Build the index of the keys at `path` and measure its recall on this corpus, unless both are done already; returns its record.

    settings: all that the recall depends on besides the index.
    """
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: can't be written; copy the keys to a folder that can and give it as --keys-dir, or take --index flat")
    with sole_writer(path, wait=True):
        receipt, name = approximate.ensure_index(keys, path, choice.kind), recall_name(choice, settings)
        if name not in receipt["recall"]:
            index = open_saved(keys, SavedIndex(path, choice.kind, 1))
            receipt["recall"][name] = measure(index, job, corpus, settings["lines"], choice.recall)
            write_json(receipt_file(path), receipt)
    return record_of(choice, receipt, name)


def measure(index: ApproximateIndex, job: VokenizeJob, corpus: Corpus, lines: int, target: float) -> dict[str, Any]:
    """Tune an index on a sample of the corpus' lines; returns effort and recall. Raises UserError if all sampled lines are empty."""
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
    """SAMPLE non-empty lines out of the first `lines`, evenly spread (fewer if many are empty): tokens (n,), offsets (L + 1,)"""
    starts, picked = np.unique(np.arange(SAMPLE) * lines // SAMPLE), []
    for start, stop in zip(starts, [*starts[1:], lines], strict=True):
        tokens, offsets = corpus.slab(int(start), min(int(stop), int(start) + NEAR))
        if len(filled := np.flatnonzero(np.diff(offsets))):
            picked.append(tokens[offsets[filled[0]] : offsets[filled[0] + 1]])
    offsets = np.cumsum([0, *map(len, picked)])
    return np.concatenate([np.empty(0, np.int32), *picked]), offsets
