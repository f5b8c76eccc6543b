"""Building an approximate index beside the keys, with the least search effort that reaches the recall asked for on a corpus' lines."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from vokenization.index_choice import Choice, recall_name, record_of
from vokenization.sentences import sample_lines
from vokenization.vokenization import VokenizeJob
from xvoken.encoders.frozen import require_finite
from xvoken.errors import UserError
from xvoken.files.corpus import Corpus
from xvoken.files.indexes import receipt_file
from xvoken.files.locks import sole_writer
from xvoken.files.safe import require_writable, write_json
from xvoken.search import approximate
from xvoken.search.approximate import ApproximateIndex, SavedIndex, open_saved
from xvoken.search.hubness import Rows
from xvoken.search.index import build_index

SAMPLE = 256  # lines that recall is measured on


def prepare(choice: Choice, job: VokenizeJob, corpus: Corpus, keys: Rows, path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Build the index of the keys at `path` and measure its recall on this corpus, unless both are done already; returns its record.

    settings: all that the recall depends on besides the index.
    """
    require_writable(path, "--index flat")
    with sole_writer(path, wait=True):
        receipt, name = approximate.ensure_index(keys, path, choice.kind, settings.get("bank", "")), recall_name(choice, settings)
        if name not in receipt["recall"]:
            index = open_saved(keys, SavedIndex(path, choice.kind, 1))
            receipt["recall"][name] = measure(index, job, corpus, settings["lines"], choice.recall)
            write_json(receipt_file(path), receipt)
    return record_of(choice, receipt, name)


def measure(index: ApproximateIndex, job: VokenizeJob, corpus: Corpus, lines: int, target: float) -> dict[str, Any]:
    """Tune an index on a sample of the corpus' lines; returns effort and recall. Raises UserError if all sampled lines are empty."""
    tokens, offsets = sample_lines(corpus, lines, SAMPLE)
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
