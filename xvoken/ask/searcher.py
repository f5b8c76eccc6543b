"""An encoder, keys and an index that stay loaded, and answer one query or several at once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xvoken.ask.queries import Query
from xvoken.calibration import CANDIDATES, Calibration
from xvoken.console import log
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.encoders.identity import Identity, identify
from xvoken.errors import UserError
from xvoken.files import hubness as hubness_files
from xvoken.files import keys as key_files
from xvoken.files import phrases as phrase_files
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.safe import fingerprint, sha256_of_lines
from xvoken.machine import one_device
from xvoken.search.hubness import Rows, extended, offsets
from xvoken.search.index import Index, build_joined

DEEPEST = 20_000  # pictures that are looked through for distinct ones, which takes a third of a second; then fewer than k are shown
FETCHED = 4  # times as many pictures as asked for are looked at first where near-duplicates are collapsed
ROUNDED = 1e-6  # what inner products of a picture with its exact copy fall short of 1

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A picture that was found: its rank from 1 on, score, row in the gallery, id `{IMAGE_SET}/{image id}`, file.

    copies: how many near-duplicates stand for it, itself counted in; 1 unless they are collapsed.
    """

    rank: int
    score: float
    row: int
    id: str
    path: str
    copies: int = 1


@dataclass(frozen=True)
class Answer:
    """query: as a user would write it; hits: best first; probability: that the first one is right, None if the model can't tell."""

    query: str
    hits: list[Hit] = field(default_factory=list)
    probability: float | None = None


class Searcher:
    """Answers queries from a gallery. Made by `open_searcher`; may be used by several threads.

    load: the model as the user gave it; identity: what is known of it; gallery: None where there are no pictures.
    """

    def __init__(self, load: str, identity: Identity, gallery: Gallery | None, device: str = "cpu", precision: str = "fp32"):
        self.load, self.identity = load, identity
        self.device, self.precision = device, precision
        self.towers: dict[str, Encoder] = {}
        self.calibration: Calibration | None = Calibration.from_list(identity.calibration) if identity.calibration else None
        self.lift = np.float32(0)  # what a calibration needs added back to the scores
        self.phrase_db: phrase_files.CaptionDB | None = None
        self._loading = threading.Lock()
        self.show(gallery)

    def __len__(self) -> int:
        return len(self.gallery) if self.gallery else 0

    def show(self, gallery: Gallery | None) -> None:
        """Answer from this gallery from here on."""
        self.gallery = gallery
        self.plain = self.corrected = _index(gallery.blocks, self.device) if gallery else None

    def encoder(self, tower: str) -> Encoder:
        """The encoder with the tower "text" or "image", loaded when it is first needed."""
        if tower not in self.towers:  # asked before the lock too: who needs a tower that is there must not wait for the other's loading
            with self._loading:
                if tower not in self.towers:
                    self.towers[tower] = load_encoder(self.load, [tower], self.device, self.precision, self.identity.hash)
        return self.towers[tower]

    def take_off(self, numbers: Vectors) -> None:
        """Take a number off each picture's scores (N,) for hubness, where a sentence asks."""
        if self.gallery:
            self.corrected = _index(extended(self.gallery.blocks, numbers), self.device)
            self.lift = np.float32(numbers.mean())

    def vectors(self, queries: Sequence[Query]) -> Vectors:
        """Vectors of the queries: float32 (Q, dim). All sentences are encoded together, and all pictures.

        A sum is brought to length 1. Raises UserError for a picture that can't be used, and for parts that cancel each other out.
        """
        parts = list({id(part): part for query in queries for part in query.parts}.values())  # one may be in all of them
        found: dict[int, Vectors] = {}
        for tower in ("text", "image"):
            asked = [part for part in parts if not isinstance(part.what, int | np.ndarray) and part.is_text == (tower == "text")]
            if asked:
                encoder = self.encoder(tower)
                encode = encoder.encode_texts if tower == "text" else encoder.encode_images
                found.update(zip(map(id, asked), encode([part.what for part in asked]), strict=True))
        for part in parts:
            if isinstance(part.what, int | np.ndarray):
                found[id(part)] = part.what if isinstance(part.what, np.ndarray) else self.row_vector(part.what)
        return np.stack([_total(query, [found[id(part)] for part in query.parts]) for query in queries]).astype(np.float32)

    def row_vector(self, row: int) -> Vectors:
        """The key of a row: float32 (dim,); raises UserError for a row that does not exist."""
        if not self.gallery or not 0 <= row < len(self):
            raise UserError(f"row {row}: there is no such picture; rows go from 0 to {len(self) - 1}")
        return _key(self.gallery, row)

    def search(self, queries: Sequence[Query], k: int = 10, alike: float | None = None) -> list[Answer]:
        """The best k pictures of each query, fewer in a smaller gallery.

        alike: collapse pictures whose keys have an inner product of at least this with one that ranks higher (None: show all). Where
        hardly any are distinct, fewer than k are shown, and copies are counted, among the best DEEPEST pictures alone.
        """
        return self.answers(queries, self.vectors(queries), k, alike)

    def answers(self, queries: Sequence[Query], vectors: Vectors, k: int = 10, alike: float | None = None) -> list[Answer]:
        """As `search`, with the queries' vectors, float32 (Q, dim)."""
        if not self.gallery:
            return [Answer(query.name) for query in queries]
        by_text = np.array([query.of_text_alone for query in queries])
        answers: list[Answer | None] = [None] * len(queries)
        for texts, index in ((True, self.corrected), (False, self.plain)):
            rows = np.flatnonzero(by_text == texts)
            if len(rows) and index is not None:
                found = self._best(index.search, vectors[rows], k, alike)
                for place, best in zip(rows, found, strict=True):
                    answers[place] = self._answer(queries[place], *best)
        return [answer for answer in answers if answer]

    def _best(
        self, search: Callable[[Vectors, int], tuple[Vectors, NDArray[np.int32]]], vectors: Vectors, k: int, alike: float | None
    ) -> list[tuple[Vectors, Vectors, list[int], list[int]]]:
        """Of each query: scores of the pictures looked at, those of the k that are shown, their rows, copies of each."""
        deepest = min(len(self), DEEPEST)
        looked = min(len(self), max(k * (FETCHED if alike is not None else 1), CANDIDATES if self.calibration else 1))
        scores, rows = search(vectors, looked)
        if alike is None:
            return [(line, line[:k], found[:k].tolist(), [1] * min(k, looked)) for line, found in zip(scores, rows, strict=True)]
        answers = []
        for line, found, vector in zip(scores, rows, vectors, strict=True):
            more = looked
            while (kept := self._distinct(found, k, alike)) is None and more < deepest:
                more = min(deepest, more * FETCHED)
                (line,), (found,) = search(vector[None], more)
            shown = kept or self._distinct(found, k, alike, whole=True) or {}
            places = [int(np.flatnonzero(found == row)[0]) for row in shown]
            answers.append((line, line[places], list(shown), list(shown.values())))
        return answers

    def _distinct(self, rows: NDArray[np.int32], k: int, alike: float, whole: bool = False) -> dict[int, int] | None:
        """The first k distinct rows with their copies; None if the rows end before the next one, unless they are the whole."""
        assert self.gallery
        kept: dict[int, int] = {}
        vectors = np.empty((0, self.identity.dim), np.float32)
        for row in rows.tolist():
            key = _key(self.gallery, row)
            same = np.flatnonzero(vectors @ key >= alike - ROUNDED)
            if len(same):
                kept[list(kept)[same[0]]] += 1
            elif len(kept) == k:
                return kept
            else:
                kept[row], vectors = 1, np.concatenate([vectors, key[None]])
        return kept if whole or len(rows) == len(self) else None

    def _answer(self, query: Query, looked: Vectors, scores: Vectors, rows: list[int], copies: list[int]) -> Answer:
        """looked: scores of all the pictures looked at, on which the probability rests, however many of them are shown or collapsed."""
        assert self.gallery
        hits = [
            Hit(rank, float(score), row, self.gallery.ids[row], self.gallery.paths[row], number)
            for rank, (score, row, number) in enumerate(zip(scores, rows, copies, strict=True), 1)
        ]
        sure = None
        if self.calibration and query.of_text_alone and len(looked):
            sure = float(self.calibration.probability(looked[None] + self.lift)[0])
        return Answer(query.name, hits, sure)

    def phrases(self, vectors: Vectors, k: int = 5) -> list[list[tuple[str, float]]]:
        """The best k phrases of the caption database for vectors of pictures (Q, dim), with their scores; raises UserError without one."""
        if not self.phrase_db:
            raise UserError("no phrases are loaded; give a caption database with --phrases FILE")
        captions = self.phrase_db.captions
        scores, rows = self.phrase_index.search(vectors, min(k, len(captions)))
        return [[(str(captions[row]), float(score)) for row, score in zip(*found, strict=True)] for found in zip(rows, scores, strict=True)]

    def load_phrases(self, path: Path) -> None:
        """Read the caption database that `phrases` answers from; raises UserError for one that another model made."""
        self.phrase_db = phrase_files.read(path, self.load, self.identity.name, self.identity.hash, self.identity.dim)
        self.phrase_index = _index([self.phrase_db.keys], self.device)


def _index(blocks: Sequence[Rows], device: str) -> Index:
    """An exact index for few queries at once. Not faiss, which is faster for one, but four times as slow as torch for thirty."""
    return build_joined(blocks, "torch", device, few=True)


def _key(gallery: Gallery, row: int) -> Vectors:
    """The key of a row of all sets: float32 (dim,)."""
    for block in gallery.blocks:
        if row < len(block):
            return np.array(block[row])
        row -= len(block)
    raise IndexError(row)


def _total(query: Query, vectors: list[Vectors]) -> Vectors:
    """The weighted sum of the parts' vectors, of length 1; of one part with weight 1, its vector as it is."""
    if len(vectors) == 1 and query.parts[0].weight == 1:
        return vectors[0]
    total = np.sum([part.weight * vector for part, vector in zip(query.parts, vectors, strict=True)], 0)
    if (length := np.linalg.norm(total)) < 1e-6:
        raise UserError(f"{query.name}: adds up to nothing")
    return total / length


def open_searcher(
    load: str | Path, image_sets: Sequence[str], keys_dir: Path | None = None, device: str = "auto", precision: str = "fp32",
    hubness: float | None = None, phrases: Path | None = None,
) -> Searcher:  # fmt: skip
    """Read keys and make them ready to be asked; the towers are loaded by the first query that needs them.

    load: a snapshot or a CLIP-like model; image_sets: of its keys, none for an empty gallery; keys_dir: their folder (default: the usual
    one); device, precision: as for `load_encoder`; hubness: how much of it is taken off where a sentence asks (default: what the
    snapshot says), measured in the captions that the snapshot carries; phrases: a caption database, to answer pictures with.
    Raises UserError for keys that are missing, damaged or another model's.
    """
    identity = identify(load)
    where = keys_dir or key_files.folder(identity.home)
    for image_set in image_sets:
        key_files.require(where, image_set, str(load))
    gallery = read_keys(where, image_sets, encoder=identity) if image_sets else None
    searcher = Searcher(str(load), identity, gallery, one_device(device), precision)
    return made_ready(searcher, where, "_".join(sorted(image_sets)), hubness, phrases)


def made_ready(searcher: Searcher, where: Path, sets: str, hubness: float | None, phrases: Path | None) -> Searcher:
    """The searcher with its phrases, and hubness taken off; where, sets: folder and beginning of the file of hubness numbers."""
    if phrases:
        searcher.load_phrases(phrases)
    alpha = searcher.identity.hubness if hubness is None else hubness
    if searcher.gallery and alpha:
        searcher.take_off(_numbers(searcher, searcher.gallery, where, sets, alpha))
    return searcher


def _numbers(searcher: Searcher, gallery: Gallery, where: Path, sets: str, alpha: float) -> Vectors:
    """What is taken off each picture's scores, from the file beside the keys, which is written first where it can be."""
    if not (bank := searcher.encoder("text").bank):
        raise UserError(f"--hubness {alpha:g}: {searcher.identity.name} carries no captions to measure hubness in; take --hubness 0")
    settings = {
        "alpha": alpha, "nearest": hubness_files.NEAREST, "keys": sha256_of_lines(gallery.made_by)[:16], "images": len(gallery),
        "snapshot_hash": searcher.identity.hash, "lines": len(bank.text), "of": "the training's captions",
    }  # fmt: skip
    path = hubness_files.numbers_file(where, sets, fingerprint(settings))
    measured = partial(offsets, gallery.blocks, bank.text.numpy().astype(np.float32), alpha)
    try:
        with hubness_files.missing(path) as todo:
            if todo:
                log.info(f"{path}: measuring the hubness of {len(gallery):,} pictures in {len(bank.text):,} captions of the training")
                hubness_files.write(path, measured(), settings)
        return hubness_files.read(path)
    except OSError as error:
        log.warning(f"{path}: can't be kept ({error.strerror}); hubness is measured again each time")
        return measured()
