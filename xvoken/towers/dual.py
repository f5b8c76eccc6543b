"""Dual encoders that others have trained: each family's module makes a Dual of its files.

Either tower can be had by itself too, for a matcher: --lang and --visn take the same names.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from xvoken.errors import UserError
from xvoken.kinds import DUALS, made_by
from xvoken.towers.interface import AnyImageTower, AnyTextTower
from xvoken.towers.sources import kind_of


@dataclass
class Dual:
    """A dual encoder as its family's module loads it: on the CPU, in fp32, without gradients.

    text_projection, image_projection: from the towers' outputs to the joint space of `dim` numbers; None where they end in it.
    hash: of all weights; revision: the hub's commit, or ""; files: what it was loaded from, where its name alone does not say it.
    """

    text: AnyTextTower
    image: AnyImageTower
    text_projection: nn.Module | None
    image_projection: nn.Module | None
    dim: int
    tokenizer: Any
    hash: str
    revision: str = ""
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class DualTextSpec:
    """What another process builds the text tower from; name: as --load takes it."""

    name: str
    layers: ClassVar[tuple[int, ...]] = ()  # no choice: the tower has one pooled output
    pool: ClassVar[str] = "cls"

    def build(self) -> AnyTextTower:
        """Load the tower on the CPU, in fp32, without gradients; raises UserError if it can't be loaded."""
        return dual_of(self.name).text


@dataclass(frozen=True)
class DualImageSpec:
    """What another process builds the image tower from; load: as --load takes it; name: fit for a file's name."""

    name: str
    load: str
    pool: ClassVar[str] = "avg"

    def build(self) -> AnyImageTower:
        """Load the tower on the CPU, in fp32, without gradients; raises UserError if it can't be loaded."""
        return dual_of(self.load).image


def dual_of(name: str) -> Dual:
    """Load both towers of a dual encoder; raises UserError for anything else."""
    return made_by(DUALS[kind_of(name)])(name)


def text_tower(name: str, layers: tuple[int, ...], pool: str, prompt: str) -> AnyTextTower:
    """The text tower of a dual encoder for a matcher: its one pooled output, whatever the layers and the pooling."""
    if prompt:
        raise UserError(f"--lang {name}: the text tower of a dual encoder takes no prompt of its own; write it into the sentences")
    return dual_of(name).text


def image_tower(name: str, weights: str | None, pool: str) -> AnyImageTower:
    """The image tower of a dual encoder for a matcher: its one pooled output, whatever the pooling."""
    if weights:
        raise UserError(f"--visn-weights {weights}: the weights of {name} lie in its folder; leave it out")
    if pool not in ("own", "avg"):  # avg: what others have where nothing is said
        raise UserError(f"--visn-pool {pool}: {name} has one pooled output, own; leave it out")
    return dual_of(name).image
