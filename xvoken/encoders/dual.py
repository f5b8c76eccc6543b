"""Dual encoders behind the interface of xvoken.encoders.encoder."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvoken.encoders.encoder import Encoder
from xvoken.encoders.frozen import Placed
from xvoken.encoders.heads import OwnHead
from xvoken.errors import UserError
from xvoken.kinds import base_name
from xvoken.towers.dual import Dual, DualImageSpec, DualTextSpec, dual_of
from xvoken.towers.interface import AnyImageTower, AnyTextTower
from xvoken.towers.open_names import PREFIX
from xvoken.towers.sources import text_files


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
