"""What was retrieved for the lines of a corpus, read back and held against keys, corpus and snapshot, for the demo's page."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xvoken import commands
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import vokens
from xvoken.files.corpus import same_text
from xvoken.files.safe import quoted


@dataclass
class Line:
    """One line of the corpus: its number, utterances, and (picture, score), best first."""

    number: int
    utterances: list[str]
    found: list[tuple[Path, float]]


@dataclass
class Retrieved:
    """What one matcher retrieved for one corpus from image sets, which are sorted by name as retrieval sorts them."""

    load: Path
    corpus: Path
    sets: list[str]

    def files(self) -> list[Path]:
        """The files that the lines are read from."""
        where, joined = self.load / "vokens", "_".join(self.sets)
        found = [file(where, self.corpus.name, joined) for file in (vokens.hdf5_file, vokens.ids_file)]
        return [self.corpus, *found, *(key_files.keys_file(key_files.folder(self.load), image_set) for image_set in self.sets)]

    def page(self) -> Path:
        """The page of all lines, where vokenization/page.py writes it."""
        return vokens.text_file(self.load / "vokens", self.corpus.name, "_".join(self.sets) + ".page.html")

    def lines(self) -> list[Line]:
        """All lines for which pictures were retrieved; raises UserError if results, corpus and keys do not belong together."""
        return read_lines(self.corpus, self.load, self.sets)


def read_lines(corpus: Path, load: Path, sets: list[str]) -> list[Line]:
    """All lines for which pictures were retrieved; raises UserError if results, corpus and keys do not belong together."""
    where = load / "vokens"
    results = vokens.hdf5_file(where, corpus.name, "_".join(sets))
    retrieve = f"rm {quoted(results)} && {commands.vokenize(load, corpus, ','.join(sets))}"
    made_of = vokens.read_settings(results)
    same_text(corpus, results, made_of.get("corpus"), retrieve)
    same_training(load, results, made_of, retrieve)
    read = vokens.read(where, corpus.name, "_".join(sets))
    indices, scores, ids, rows, numbers = read.indices, read.scores, read.ids, read.rows, read.lines
    read = [key_files.read(key_files.folder(load), image_set) for image_set in sets]
    paths = [Path(path) for part in read for path in part.paths]
    if ids != [f"{image_set}/{i}" for image_set, part in zip(sets, read, strict=True) for i in part.ids]:
        raise UserError(f"{results}: made with other keys than there are now; make it again: {retrieve}")
    lines = []
    for number, text, row, score in zip(numbers.tolist(), rows.texts(corpus), indices, scores, strict=True):
        if row[0] >= 0:
            found = [(paths[r], float(s)) for r, s in zip(row, score, strict=True)]
            lines.append(Line(number + 1, text.split("\t"), found))
    return lines


def same_training(load: Path, made: Path, made_of: dict[str, Any], mend: str) -> None:
    """Raise UserError for a file that was made with another training of the snapshot than the present one."""
    then, now = made_of.get("snapshot_hash"), snapshots.read(load).hash
    if then not in (None, now):
        raise UserError(f"{made}: of another training ({then}) than {load} holds now ({now}); make it again with: {mend}")


def choose(lines: list[Line], best_count: int, random_count: int) -> tuple[list[Line], list[Line]]:
    """The lines with the highest scores, each with another best picture; and a random sample of the others, always the same."""
    best: dict[Path, Line] = {}
    for line in sorted(lines, key=lambda line: -line.found[0][1]):
        best.setdefault(line.found[0][0], line)
    chosen = list(best.values())[:best_count]
    others = [line for line in lines if line not in chosen]
    return chosen, random.Random(0).sample(others, min(random_count, len(others)))
