"""The page of a txt_ctx.hdf5: pictures with their crops drawn in, and the phrases found for each.

Laid out as the page of a voken file; a picture is a line, whose text is its id and its phrases, separated by tabs, so that both are
found by a search. views.N.js holds, of SHOWN pictures, which of these phrases each crop has, with their scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from xvoken.console import progress
from xvoken.errors import UserError
from xvoken.files.context import SLICES, image_ids, read_best
from xvoken.files.safe import fingerprint, sha256_of_file
from xvoken.pages import pictures
from xvoken.pages.chunks import literal, packed, write_chunk
from xvoken.pages.document import assets_hash, data_folder, emptied, remove_others, write_page
from xvoken.pictures.sources import Member

SCRIPTS = ("data.js", "list.js", "app.js", "context.js")
SHOWN = 1 << 8
BEST = 1 << 16


@dataclass
class ContextPage:
    """What a page is made of.

    context: the txt_ctx.hdf5; paths: of pictures, by id; boxes: of the 15 views, left, top, right, bottom as shares of a picture's sides;
    named: what the page says of itself (title, text, model, precision, sets, scores); k: phrases of a view; side: pixels of thumbnails.
    """

    data: ClassVar[bool] = True
    context: Path
    paths: dict[str, Path | Member]
    boxes: Sequence[Sequence[float]]
    named: dict[str, str]
    k: int = 5
    side: int = pictures.SIDE

    @cached_property
    def ids(self) -> list[str]:
        """The pictures, in the page's order; raises UserError if none of them is among the paths."""
        ids = image_ids(self.context)
        if ids and not any(i in self.paths for i in ids):
            raise UserError(f"{self.context}: none of its {len(ids):,} pictures, such as {ids[0]}, is among those that were given")
        return ids

    @cached_property
    def _there(self) -> list[tuple[int, Path | Member, str]]:
        """Number, path and thumbnail's name of the pictures whose path is known."""
        return [(n, self.paths[i], pictures.stamp(self.paths[i], self.side)) for n, i in enumerate(self.ids) if i in self.paths]

    @property
    def holds(self) -> str:
        """What is on the page."""
        return f"{len(self.ids):,} pictures with their phrases"

    @cached_property
    def made_of(self) -> str:
        """The fingerprint of all that the page depends on."""
        thumbs = [(number, name, pictures.address(path)) for number, path, name in self._there]
        read = {"page": assets_hash(), "context": sha256_of_file(self.context), "thumbs": thumbs, "named": self.named, "k": self.k}
        return fingerprint({**read, "boxes": [list(box) for box in self.boxes]})

    def write(self, output: Path) -> None:
        """Write data, thumbnails and the page; logs which pictures can't be shown."""
        folder = data_folder(output)
        chunks = emptied(folder / self.made_of)
        numbers, paths, names = zip(*self._there, strict=True) if self._there else ((), (), ())
        broken = dict.fromkeys(set(range(len(self.ids))) - set(numbers), "not among the pictures given")
        broken |= {numbers[at]: reason for at, reason in pictures.make(paths, names, folder / "thumbs", self.side).items()}
        k = self._write_chunks(chunks, {number: (path, name) for number, path, name in self._there}, broken)
        about = literal(self._about(folder.name, k, len(broken)))
        write_page(output, "data.html", self.made_of, self.named["title"], SCRIPTS, about=about, good="")
        remove_others(folder, self.made_of)
        pictures.keep_only(names, folder / "thumbs")
        pictures.tell_broken([f"{self.ids[number]}: {reason}" for number, reason in sorted(broken.items())])

    def _about(self, folder: str, k: int, broken: int) -> dict[str, Any]:
        return {
            "kind": "context", "data": f"{folder}/{self.made_of}", "thumbs": f"{folder}/thumbs", "lines": len(self.ids), "k": k,
            "broken": broken, "sizes": {"text": SHOWN, "views": SHOWN, "best": BEST}, "named": self.named,
            "views": {name: [view.start, view.stop] for name, view in SLICES.items()}, "boxes": [list(box) for box in self.boxes],
        }  # fmt: skip

    def _write_chunks(self, chunks: Path, there: dict[int, tuple[Path | Member, str]], broken: dict[int, str]) -> int:
        """Texts, views and best scores; returns the number of phrases of a view."""
        best = np.full(len(self.ids), np.nan, np.float32)
        rows, at, k = read_best(self.context, self.k), 0, 0
        with progress(total=len(self.ids), desc="page", unit="pictures") as bar:
            for number, block in enumerate(iter(lambda: list(islice(rows, SHOWN)), [])):
                texts, which, thumbs = [], [], []
                if len({scores.shape for _, _, scores in block} | ({(15, k)} if k else set())) > 1:
                    raise UserError(f"{self.context}: not the same number of phrases for each picture; make it again")
                for image_id, phrases, scores in block:
                    line = {_plain(image_id): 0}
                    which.append([[line.setdefault(_plain(text), len(line)) for text in view] for view in phrases])
                    texts.append("\t".join(line))
                    thumbs.append(pictures.shown_by(*there[at], broken.get(at)) if at in there else {"why": broken[at]})
                    best[at], at, k = scores[0, 0], at + 1, scores.shape[1]
                write_chunk(chunks, "text", number, "\n".join(texts))
                found = {"which": packed(np.array(which, np.int32)), "scores": packed(np.stack([scores for _, _, scores in block]))}
                write_chunk(chunks, "views", number, {**found, "thumbs": thumbs})
                bar.update(len(block))
        for start in range(0, len(best), BEST):
            write_chunk(chunks, "best", start // BEST, {"scores": packed(best[start : start + BEST])})
        return k


def _plain(text: str) -> str:
    """A text without the characters that separate texts here."""
    return text.replace("\t", " ").replace("\n", " ").replace("\r", " ")
