"""The numbers that tokens carry in a voken file, and what they say.

NO_PICTURE marks a token without a picture in each of these kinds; r is the row of a picture in the index.

signed    sentence level: r at the first token of a line (of each of its segments, where lines are cut into them), -r - 1 behind it, as
          Vokenization writes them. Its loader undoes this only in a folder whose path contains "sent". Row 99 gives NO_PICTURE behind a
          first token too, so that it is a first token that says whether there is a picture.
all       sentence level, for readers that know no negative rows: r at every token of the line or segment
first     the same, NO_PICTURE behind the first token of the line or segment
token     token level: the row of each token's own picture
"""

import numpy as np
from numpy.typing import NDArray

NO_PICTURE = -100  # the voken that Vokenization's language-model training, and PyTorch's cross entropy, leave out
SIGNED = "signed"
KINDS = {
    SIGNED: "row r at the first token of a line, -r - 1 behind it",
    "all": "row r at every token of a line",
    "first": f"row r at the first token of a line, {NO_PICTURE} behind it",
}
TOKEN = "token"
IN_FOLDER = 'Vokenization\'s loader (vlm/data.py) reads these right only in a folder whose path contains "sent"'


def kind_of(attributes: dict[str, object], settings: dict[str, object]) -> str | None:
    """The kind of a voken file by what it says of itself; None where it does not say its level, as those of earlier versions."""
    if "level" not in attributes:
        return None
    return TOKEN if attributes["level"] == TOKEN else str(settings.get("vokens", SIGNED))


def line_vokens(best: NDArray[np.int32], counts: NDArray[np.int64], kind: str = SIGNED) -> NDArray[np.int32]:
    """Best row of each line or segment (L,), -1 if it has none, and its number of tokens (L,) -> a voken for each token (counts.sum(),)

    kind: one of KINDS.
    """
    behind = {SIGNED: -best - 1, "all": best, "first": np.full_like(best, NO_PICTURE)}[kind]
    vokens = np.repeat(np.where(best < 0, NO_PICTURE, behind), counts)
    firsts = (np.cumsum(counts) - counts)[counts > 0]
    vokens[firsts] = np.where(best < 0, NO_PICTURE, best)[counts > 0]
    return vokens.astype(np.int32)


def row_of_each(vokens: NDArray[np.int32], starts: NDArray[np.int64], kind: str) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Vokens (n,) of whole lines, where those start that have tokens (L,), kind -> row of each token (n,), -1 without; is it a first one

    The second is where a line or a segment begins, as far as the numbers say: of `all` and `token` only where lines begin.
    """
    first = np.zeros(len(vokens), bool)
    first[starts] = True
    if kind in (SIGNED, "first"):
        first |= vokens >= 0
    if kind in ("all", TOKEN):
        return np.where(vokens < 0, -1, vokens).astype(np.int32), first
    number = np.cumsum(first) - 1
    own = vokens[first]  # NO_PICTURE only where a whole line has none
    return np.where(own < 0, -1, own)[number].astype(np.int32), first


def wrong_voken(vokens: NDArray[np.int32], images: int, kind: str | None, last: int = 0) -> int | None:
    """The place of the first voken (n,) that no file of this kind and so many images holds, None if there is none.

    last: the row before the first of them.
    """
    low = {SIGNED: -images - 1, None: -images - 1}.get(kind, 0)
    bad = (vokens >= images) | ((vokens < low) & (vokens != NO_PICTURE))
    if kind == SIGNED and len(vokens):
        at = np.maximum.accumulate(np.where(vokens >= 0, np.arange(len(vokens)), -1))  # the last row at or before each
        rows = np.where(at < 0, last, vokens[at])
        bad |= (vokens < 0) & (vokens != -rows - 1) & (vokens != NO_PICTURE)
    return int(bad.argmax()) if bad.any() else None
