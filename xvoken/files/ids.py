"""Ids of pictures as `.ids` files hold them.

Readers of `{IMAGE_SET}/{image id}`, Vokenization's among them, expect one slash. So a slash inside an id is written as %2F, and, so that
this can be undone, % as %25. Files of earlier versions and of other tools hold ids as they are; which of both a file holds is said beside
it: by MARK in {IMAGE_SET}.json and in the attributes of a voken file, and by the plain ids inside a keys file.
"""

from collections.abc import Iterable

MARK = {"ids": "percent-encoded"}


def encoded(image_id: str) -> str:
    """The id as it is written: % as %25, a slash as %2F."""
    return image_id.replace("%", "%25").replace("/", "%2F")


def decoded(written: str) -> str:
    """The id that `encoded` has written."""
    return written.replace("%2F", "/").replace("%25", "%")


def mark(ids: Iterable[str]) -> dict[str, str]:
    """MARK where one of the ids is written otherwise than it is, else nothing: such a file is the same in both ways."""
    return MARK if any("/" in i or "%" in i for i in ids) else {}


def is_marked(said: object) -> bool:
    """Whether what is said beside a file holds MARK."""
    return isinstance(said, dict) and said.get("ids") == MARK["ids"]


def stand_for(lines: list[str], ids: list[str]) -> bool:
    """Whether these lines of an `.ids` file stand for the ids, in one way or the other."""
    return lines == ids or lines == list(map(encoded, ids))


def row_id(image_set: str, image_id: str) -> str:
    """The id of a row of several sets' index as it is written: `{IMAGE_SET}/{image id}`, with one slash."""
    return f"{image_set}/{encoded(image_id)}"
