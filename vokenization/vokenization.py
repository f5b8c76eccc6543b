"""Images for every line of a tokenized corpus: the work on one range of lines."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vokenization.segments import Segments, longest, segments
from xvoken.calibration import CANDIDATES, Calibration
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.frozen import require_finite
from xvoken.encoders.lanes import in_lanes
from xvoken.files import hubness
from xvoken.files.corpus import Corpus
from xvoken.files.keys import joined, read_blocks
from xvoken.files.safe import quoted, save_arrays
from xvoken.machine import TEXT_BATCH, lines_on
from xvoken.search.approximate import SavedIndex, open_saved
from xvoken.search.hubness import extended
from xvoken.search.index import build_joined
from xvoken.towers.tokenizer import vocabulary_size
from xvoken.work.jobs import TowerJob

SEARCHED = 512  # queries that a lane searches for at once


@dataclass
class VokenizeJob(TowerJob):
    """Finds the best keys and their scores for ranges of lines; see xvoken.work.jobs.Job.

    most: only the first so many keys (None: all); saved: an approximate index to search instead of all keys;
    hubness: the file of what is taken off the scores (None: nothing); expected: the hash that the model must have;
    least: lines whose best picture is right with a lower probability are left without; of use where the model has a calibration.
    sentences: what is called a line here is a sentence of the corpus.
    segment: lines with more tokens, or more than the tower takes, are cut into segments (0: none is, the tower takes what it can);
    a line has what is found for its first one.
    """

    load: str
    corpus: Path
    tokenizer_name: str
    keys_dir: Path
    image_sets: list[str]
    most: int | None
    topk: int
    backend: str
    precision: str
    batch_size: int = TEXT_BATCH
    workers: int = 1
    saved: SavedIndex | None = None
    expected: str | None = None
    hubness: Path | None = None
    least: float = 0.0
    sentences: bool = False
    segment: int = 0
    OLD_BATCH: ClassVar[int | None] = 64

    def setup(self, device: str) -> None:
        self.setup_encoder(device)
        keys = read_blocks(self.keys_dir, self.image_sets, self.most)
        keys = [joined(keys)] if self.saved else keys
        off = hubness.read(self.hubness) if self.hubness else None
        blocks = keys if off is None else extended(keys, off)
        self.lift = np.float32(0 if off is None else off.mean())  # what a calibration needs added back to the scores
        self.index = open_saved(blocks[0], self.saved) if self.saved else build_joined(blocks, self.backend, device)
        self.calibration = Calibration.from_list(self.encoder.calibration) if self.encoder.calibration else None
        self.searched = min(max(self.topk, CANDIDATES), sum(map(len, keys))) if self.calibration else self.topk

    def setup_encoder(self, device: str) -> None:
        self.batch_size = lines_on(device, self.batch_size)
        self.encoder = load_encoder(self.load, ["text"], device, self.precision, self.expected, self.pace)
        vocabulary = vocabulary_size(self.encoder.tokenizer)
        self.lines = Corpus(self.corpus, self.tokenizer_name, vocabulary=vocabulary, sentences=self.sentences)

    def sample_queries(self, tokens: NDArray[np.int32], offsets: NDArray[np.int64]) -> NDArray[np.float32]:
        """Queries that the index gets for these lines (L, none empty), all of them or a part -> (Q, dim)"""
        return self.encoder.encode_ids(tokens, offsets, self.batch_size)

    def require_finite(self, vectors: NDArray[np.float32], lines: NDArray[np.int64], part: Path, unit: bool = True) -> None:
        """Raise UserError if one of the vectors (n, dim) of these lines (n,) is not finite or, with `unit`, not of length 1."""
        again = f", after: rm -r {quoted(part.parent)}"
        require_finite(vectors, lambda row: f"{self.corpus}: {self.lines.rows.named(int(lines[row]))}", self.precision, again, unit)

    def no_answers(self, lines: int) -> dict[str, NDArray]:
        """What is found for lines: -1 and NaN, as it stays for empty ones; indices and scores (L, k), probability (L,) if there is one."""
        found = {"indices": np.full((lines, self.topk), -1, np.int32), "scores": np.full((lines, self.topk), np.nan, np.float32)}
        return {**found, "probability": np.full(lines, np.nan, np.float32)} if self.calibration else found

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The best k of each query (n, dim): scores and rows (n, k), on all lanes of the process."""
        step = SEARCHED if self.encoder.device == "cpu" else max(1, len(queries))
        blocks = np.split(queries, range(step, len(queries), step))
        scores, rows = zip(*in_lanes(lambda block: self.index.search(block, k), blocks, self.pace), strict=True)
        return np.concatenate(scores), np.concatenate(rows)

    def answer(self, found: dict[str, NDArray], lines: NDArray[np.int64], queries: NDArray[np.float32]) -> None:
        """Search the queries (n, dim) of these lines (n,), and write what is found; lines below the least probability stay without."""
        scores, rows = self.search(queries, self.searched)
        kept = slice(None)
        if self.calibration:
            found["probability"][lines] = sure = self.calibration.probability(scores + self.lift)
            kept = sure >= self.least
        found["scores"][lines[kept]], found["indices"][lines[kept]] = scores[kept, : self.topk], rows[kept, : self.topk]

    def without(self, found: dict[str, NDArray]) -> NDArray[np.int64]:
        """The lines that were left without a picture, for their probability; there are none if the model has no calibration."""
        return np.flatnonzero(found["probability"] < self.least) if self.calibration else np.empty(0, np.int64)

    def segments(self, offsets: NDArray[np.int64]) -> Segments:
        """Lines by their offsets (L + 1,), in segments, where there are any."""
        return segments(offsets, longest(self.frozen(), self.segment))

    def counted(self, found: dict[str, NDArray], pieces: Segments) -> dict[str, int]:
        """How many lines are empty, cut by the tower, in several segments and without a picture, where there can be any of these."""
        counts = pieces.sizes
        segmented = {"segmented": len(np.unique(pieces.lines[~pieces.first]))} if self.segment else {}
        without = {"without": len(self.without(found))} if self.calibration else {}
        return {"empty": int((counts == 0).sum()), "cut": self.frozen().cut(counts), **segmented, **without}

    def frozen(self) -> Any:
        """The tower at work."""
        return self.encoder.text

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        tokens, offsets = self.lines.slab(start, stop)
        pieces, found = self.segments(offsets), self.no_answers(stop - start)
        best, sizes = np.full(len(pieces.lines), -1, np.int32), pieces.sizes
        queries = self.encoder.encode_ids(tokens, pieces.offsets, self.batch_size)
        first, later = np.flatnonzero(pieces.first & (sizes > 0)), np.flatnonzero(~pieces.first)
        if len(first):
            filled = np.flatnonzero(sizes)
            self.require_finite(queries[filled], start + pieces.lines[filled], part)
            self.answer(found, pieces.lines[first], queries[first])
        best[pieces.first] = found["indices"][:, 0]
        if len(later):
            best[later] = np.where(best[pieces.first][pieces.lines[later]] < 0, -1, self.search(queries[later], 1)[1][:, 0])
        in_segments = {"best": best, "sizes": sizes} if self.segment else {}
        save_arrays(part.with_suffix(".npz"), **found, counts=np.diff(offsets), **in_segments)
        return self.counted(found, pieces)
