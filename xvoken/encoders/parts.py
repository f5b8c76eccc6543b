"""The parts that a matcher's heads are joined of, as its config describes them."""

from dataclasses import dataclass, fields
from typing import Any

from xvoken.encoders.typed import mistyped
from xvoken.errors import UserError
from xvoken.kinds import HEADS


@dataclass(frozen=True)
class Part:
    """A text head and an image head of the same kind, an entry of HEADS, with vectors of `dim` numbers.

    text, image: [start, stop], the columns of the towers' outputs that they are made of; weight: of their inner product in the sum.
    """

    head: str
    dim: int
    text: list[int]
    image: list[int]
    weight: float


def require_parts(parts: list[dict[str, Any]], text_width: int, image_width: int, dim: int) -> None:
    """Raise UserError for JSON that is not that of parts of towers with such outputs, with `dim` numbers in all."""
    for said in parts:
        if said.keys() != {field.name for field in fields(Part)} or mistyped(Part, said):
            raise UserError(f"not a matcher's config (a part of it is {str(said)[:200]})")
        part = Part(**said)
        require_head(part.head)
        for side, (start, stop), width in (("text", _ends(part.text), text_width), ("image", _ends(part.image), image_width)):
            if not start < stop <= width:
                raise UserError(f"not a matcher's config ({side} of its part {part.head}: {part.__dict__[side]}, of {width} columns)")
    if parts and (min(said["weight"] for said in parts) < 0 or not sum(said["weight"] for said in parts)):
        raise UserError("not a matcher's config (the weights of its parts are below 0, or all 0)")
    if parts and sum(said["dim"] for said in parts) != dim:
        raise UserError(f"not a matcher's config (its parts have not {dim} numbers in all)")


def _ends(columns: list[int]) -> tuple[int, int]:
    return (columns[0], columns[1]) if len(columns) == 2 else (0, 0)


def require_head(name: str) -> None:
    """Raise UserError for a kind of head that is not known here."""
    if name not in HEADS:
        raise UserError(f"not a matcher's config of this version (head: {name!r}; known are {', '.join(HEADS)})")
