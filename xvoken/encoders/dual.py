"""Dual encoders that others have trained, behind the interface of xvoken.encoders.encoder; each family's module makes a Dual of its files.

Either tower can be had by itself too, for a matcher: --lang and --visn take the same names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvoken.encoders.encoder import Encoder
from xvoken.encoders.frozen import Placed
from xvoken.encoders.heads import OwnHead
from xvoken.encoders.open_names import PREFIX
from xvoken.encoders.sources import kind_of, text_files
from xvoken.encoders.towers import AnyImageTower, AnyTextTower
from xvoken.errors import UserError
from xvoken.kinds import DUALS, base_name, made_by


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


class ProjectionHead(nn.Module):
    """A dual encoder's own projection, if it has one, L2-normalized."""

    def __init__(self, projection: nn.Module | None):
        super().__init__()
        self.projection = projection or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.projection(x), dim=-1)


def own_heads(dual: Dual) -> tuple[OwnHead, OwnHead]:
    """The projections of texts and of pictures as heads of a matcher, whose score is then the dual encoder's own.

    Raises UserError for a projection that is more than a matrix.
    """

    def head(tower: AnyTextTower | AnyImageTower, projection: nn.Module | None) -> OwnHead:
        weight = torch.eye(dual.dim) if projection is None else getattr(projection, "weight", None)
        if not isinstance(weight, Tensor) or weight.shape != (dual.dim, tower.width) or getattr(projection, "bias", None) is not None:
            what = type(projection).__name__
            raise UserError(f"--head own: a projection of this dual encoder is no matrix, but {what}; take --head cca")
        made = OwnHead(tower.width, dual.dim).requires_grad_(False)
        made.projection.weight.copy_(weight)
        return made

    return head(dual.text, dual.text_projection), head(dual.image, dual.image_projection)


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


def load_dual(name: str, towers: Sequence[str], placed: Placed) -> Encoder:
    """Load a dual encoder with the towers asked for; raises UserError."""
    dual = dual_of(name)
    folder = Path(name.removeprefix(PREFIX))
    base = base_name(str(folder.resolve())) if folder.is_dir() else base_name(name)
    return Encoder(
        name=base, hash=dual.hash, dim=dual.dim, max_len=dual.text.max_tokens, tokenizer=dual.tokenizer,
        text_spec=DualTextSpec(name), image_spec=DualImageSpec(base, name), image_width=dual.image.width,
        files=tuple(text_files(name)) or dual.files,
        text_head=ProjectionHead(dual.text_projection), image_head=ProjectionHead(dual.image_projection),
        text=placed.text(dual.text, dual.tokenizer) if "text" in towers else None,
        image=placed.image(dual.image) if "image" in towers else None,
        tokenizer_name=name, home=Path("snap/xmatching") / base, revision=dual.revision,
    )  # fmt: skip


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
