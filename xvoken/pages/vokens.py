"""The page of a voken file: all lines of a corpus with the pictures that were found for them.

NAME.page.html               the page; it is written last
NAME.page/FINGERPRINT/       its data: text.N.js, found.N.js, best.N.js: TEXT lines, the pictures of FOUND, the best scores of BEST;
                             pictures.N.js, the pictures that lines use, the most used first; uses.N.js, the lines that use them
NAME.page/thumbs/            their thumbnails
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from xvoken.console import progress
from xvoken.errors import UserError
from xvoken.files import vokens
from xvoken.files.image_sets import sets_of
from xvoken.files.rows import Rows, read_rows
from xvoken.files.safe import fingerprint, sha256_of_file
from xvoken.pages import pictures
from xvoken.pages.chunks import literal, packed, write_chunk
from xvoken.pages.credits import read_credits
from xvoken.pages.document import assets_hash, data_folder, emptied, remove_others, write_page
from xvoken.pictures.sources import Member

SCRIPTS = ("data.js", "list.js", "app.js", "vokens.js")
TEXT = 1 << 14  # lines in a chunk of texts, a multiple of FOUND: a search reads all of them, and each file costs some milliseconds
FOUND = 1 << 12
BEST = 1 << 16
PICTURES = 1 << 8
USES = 1 << 16  # lines in a chunk of uses, or more where one picture has more
AT_ONCE = USES << 7  # uses that are sorted at once: about 200 MB


@dataclass
class Usage:
    """How often pictures were found; rows: those that were, the most used first.

    lines, firsts: int64, one of each row of `rows`: lines that have it, and lines that have it as their best.
    """

    rows: NDArray[np.int64]
    lines: NDArray[np.int64]
    firsts: NDArray[np.int64]
    total: int
    answered: int
    k: int

    def slots(self, gallery: int) -> NDArray[np.int32]:
        """Row of the gallery -> its place in `rows`: int32 (gallery + 1,); -1 for unused ones, and for row -1, no picture."""
        slots = np.full(gallery + 1, -1, np.int32)
        slots[self.rows] = np.arange(len(self.rows), dtype=np.int32)
        return slots


@dataclass
class VokenPage:
    """What a page is made of.

    hdf5: the voken file; ids, paths: of each row of the index; text: the corpus; side: pixels of thumbnails; credits: CSV files;
    named: what the page says of itself (title, text, model, precision, sets, scores); good: HTML that says how good the matcher is, or "".
    """

    data: ClassVar[bool] = True
    hdf5: Path
    ids: list[str]
    paths: list[Path | Member]
    text: Path
    named: dict[str, str]
    side: int = pictures.SIDE
    credits: list[Path] = field(default_factory=list)
    good: str = ""

    @cached_property
    def usage(self) -> Usage:
        """How often pictures were found, counted in one pass; raises UserError for rows beyond the ids."""
        every, first = (np.zeros(len(self.ids), np.int64) for _ in range(2))
        total = answered = k = 0
        for start, indices, _ in vokens.slabs(self.hdf5):
            if indices.max(initial=-1) >= len(self.ids) or indices.min(initial=0) < -1:
                raise UserError(f"{self.hdf5}: has rows beyond its {len(self.ids):,} ids; make both again with: {vokens.MAKE}")
            every += np.bincount(indices[indices >= 0], minlength=len(self.ids))
            first += np.bincount(best := indices[:, 0][indices[:, 0] >= 0], minlength=len(self.ids))
            total, answered, k = start + len(indices), answered + len(best), indices.shape[1]
        rows = np.argsort(-every, kind="stable")[: int((every > 0).sum())]
        return Usage(rows, every[rows], first[rows], total, answered, k)

    @cached_property
    def thumbs(self) -> list[str]:
        """The thumbnail's name of each used picture."""
        return [pictures.stamp(self.paths[row], self.side) for row in self.usage.rows]

    @property
    def holds(self) -> str:
        """What is on the page."""
        return f"{self.usage.total:,} {self._rows.noun}s and {len(self.usage.rows):,} pictures"

    @cached_property
    def made_of(self) -> str:
        """The fingerprint of all that the page depends on."""
        read = [sha256_of_file(path) for path in (self.hdf5, self.text, *self.credits)]
        shown = {"ids": [self.ids[row] for row in self.usage.rows], "thumbs": self.thumbs, "named": self.named, "good": self.good}
        shown["addresses"] = [pictures.address(self.paths[row]) for row in self.usage.rows]
        return fingerprint({"page": assets_hash(), "files": read, **shown})

    def write(self, output: Path) -> None:
        """Write data, thumbnails and the page; logs which pictures can't be shown."""
        folder = data_folder(output)
        chunks = emptied(folder / self.made_of)
        broken = pictures.make([self.paths[row] for row in self.usage.rows], self.thumbs, folder / "thumbs", self.side)
        self._write_lines(chunks)
        self._write_pictures(chunks, broken)
        self._write_uses(chunks)
        write_page(
            output, "data.html", self.made_of, self.named["title"], SCRIPTS,
            about=literal(self._about(folder.name, len(broken))), good=self.good,
        )  # fmt: skip
        remove_others(folder, self.made_of)
        pictures.keep_only(self.thumbs, folder / "thumbs")
        pictures.tell_broken([f"{self.ids[self.usage.rows[slot]]}: {reason}" for slot, reason in broken.items()])

    def _about(self, folder: str, broken: int) -> dict[str, Any]:
        """What the page's script has to know before it loads anything."""
        usage = self.usage
        noun = {} if self._rows.plain else {"noun": "sentence" if self._rows.sentences else "kept line"}
        return {
            "kind": "vokens", "data": f"{folder}/{self.made_of}", "thumbs": f"{folder}/thumbs", "lines": usage.total, "k": usage.k,
            "answered": usage.answered, "gallery": len(self.ids), "pictures": len(usage.rows), "broken": broken,
            "top": int(usage.lines[:10].sum()), "places": int(usage.lines.sum()), "sure": self._sure is not None,
            "sizes": {"text": TEXT, "found": FOUND, "best": BEST, "pictures": PICTURES}, "named": self.named,
            **noun,
        }  # fmt: skip

    @cached_property
    def _sure(self) -> NDArray[np.float32] | None:
        return vokens.read_probability(self.hdf5)

    @cached_property
    def _rows(self) -> Rows:
        return read_rows(self.hdf5, vokens.MAKE)

    def _write_lines(self, chunks: Path) -> None:
        """The texts, the pictures of each line, and the best scores by which lines are sorted."""
        slots, texts = self.usage.slots(len(self.ids)), self._rows.texts(self.text)
        best = np.full(self.usage.total, np.nan, np.float32)
        with progress(total=self.usage.total, desc="page", unit="lines") as bar:
            for start, indices, scores in vokens.slabs(self.hdf5, TEXT):
                lines = list(islice(texts, len(indices)))
                write_chunk(chunks, "text", start // TEXT, "\n".join(lines))
                for at in range(0, len(lines), FOUND):
                    rows, values = slots[indices[at : at + FOUND]], scores[at : at + FOUND].astype(np.float32)
                    places = self._rows.arrays(start + at, start + at + len(rows)).get("line")
                    where = {} if places is None else {"lines": packed(places.astype(np.int32))}
                    write_chunk(chunks, "found", (start + at) // FOUND, {"rows": packed(rows), "scores": packed(values), **where})
                best[start : start + len(lines)] = scores[:, 0]
                bar.update(len(lines))
        for start in range(0, len(best), BEST):
            sure = {} if self._sure is None else {"sure": packed(self._sure[start : start + BEST])}
            write_chunk(chunks, "best", start // BEST, {"scores": packed(best[start : start + BEST]), **sure})

    def _write_pictures(self, chunks: Path, broken: dict[int, str]) -> None:
        """Of each used picture its id, file, thumbnail, counts, the place of its uses, and its credit.

        The id is told with its set where there are several sets.
        """
        usage, shards = self.usage, self._shards()
        ids = [self.ids[row].partition("/")[2] for row in usage.rows]
        several = len(sets_of(self.ids)) > 1
        credit: dict[str, dict[str, str]] = {}
        for path in self.credits:
            credit |= read_credits(path, ids)
        for start in range(0, len(ids), PICTURES):
            block = [
                {
                    "id": self.ids[usage.rows[slot]] if several else ids[slot],
                    **pictures.shown_by(self.paths[usage.rows[slot]], self.thumbs[slot], broken.get(slot)),
                    "lines": int(usage.lines[slot]), "firsts": int(usage.firsts[slot]), "uses": shards[slot].tolist(),
                    **({"credit": credit[ids[slot]]} if ids[slot] in credit else {}),
                }
                for slot in range(start, min(start + PICTURES, len(ids)))
            ]  # fmt: skip
            write_chunk(chunks, "pictures", start // PICTURES, block)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Where each picture's uses would start if all of them stood in one array: int64 (pictures,)"""
        return np.cumsum(self.usage.lines) - self.usage.lines

    def _shards(self) -> NDArray[np.int64]:
        """Where the uses of each picture stand: number of the chunk, and place in it: int64 (pictures, 2)"""
        number = self._starts // USES
        return np.stack([number, self._starts - self._starts[np.searchsorted(number, number)]], 1)

    def _write_uses(self, chunks: Path) -> None:
        """The lines of each picture, ascending, one picture after another; each pass over the file sorts about AT_ONCE of them."""
        bounds = [*np.flatnonzero(np.diff(self._starts // AT_ONCE, prepend=-1)).tolist(), len(self._starts)]
        slots, number = self.usage.slots(len(self.ids)), self._starts // USES
        for first, last in pairwise(bounds):
            pairs = []
            for start, indices, _ in vokens.slabs(self.hdf5):
                used = slots[indices]
                where = np.nonzero((used >= first) & (used < last))
                pairs.append((used[where], (start + where[0]).astype(np.int32)))
            used, lines = (np.concatenate(part) for part in zip(*pairs, strict=True))
            lines, shard = lines[np.argsort(used, kind="stable")], np.repeat(number[first:last], self.usage.lines[first:last])
            for at in np.unique(shard):
                write_chunk(chunks, "uses", int(at), packed(lines[np.searchsorted(shard, at) : np.searchsorted(shard, at, "right")]))
