"""What image towers of other libraries have in common: tokens (B, T, C) or a map (B, C, h, w) become one vector."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from xvoken.errors import UserError, one_line
from xvoken.kinds import IMAGE_POOLS
from xvoken.pictures.view import AnyView
from xvoken.towers.hashes import name_settings
from xvoken.towers.image import pooling

# What an image processor's JSON file says of its pixels; its other settings differ between versions of transformers.
OF_PIXELS = (
    "crop_pct", "crop_size", "do_center_crop", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "resample",
    "rescale_factor", "size",
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Where the picture's own states are in what a model gives.

    prefix: tokens in front of them, class token and registers; cls: whether the first one is a class token;
    grid: (height, width) of the picture's tokens, None for maps and where it is not known; last: whether a map has its channels last.
    """

    prefix: int = 0
    cls: bool = False
    grid: tuple[int, int] | None = None
    last: bool = False

    def map(self, states: Tensor) -> Tensor:
        """The picture's states: (B, T, C), (B, C, h, w) or (B, h, w, C) -> (B, C, h, w)"""
        if states.ndim == 4:
            return states.permute(0, 3, 1, 2) if self.last else states
        return states[:, self.prefix :].transpose(1, 2).unflatten(2, self.grid or (-1, 1))


class StatesTower(nn.Module):
    """An image tower of a model whose states are pooled by an entry of IMAGE_POOLS; a subclass says what the states are.

    avg, max, grid: of the picture's states, without class token and registers; cls: the class token; both: cls and avg, one after
    another; own: as the model itself does it. view: how a picture becomes the input; width: size of the output.
    A tower's hash names the view's settings too: its files may be changed without its weights.
    """

    def __init__(self, name: str, pool: str, model: Any, view: AnyView):
        """Sends one picture through the model, by which the pool is checked and the width found; raises UserError."""
        super().__init__()
        self.name, self.pool, self.model, self.view = name, pool, model.eval(), view
        size = ""
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # what a model keeps of an inference could not be trained on
            before = torch.get_rng_state()
            try:
                pixels = view.normalize(view(Image.new("RGB", (64, 64), (120, 130, 90)))[None])
                size = " of {}x{} pixels".format(*pixels.shape[2:])
                states = self.states(pixels)
                self.layout, pools = self._layout(states, pixels)
            except Exception as error:  # whatever a config leads to, or a model does with pixels of a size that it does not take
                raise UserError(f"--visn {name}: takes no pictures{size} as its files describe them ({one_line(error)[:160]})") from None
            if not torch.equal(before, torch.get_rng_state()):
                raise UserError(f"--visn {name}: draws random numbers for a picture, such as which patches to hide; take another model")
            if pool not in pools:
                raise UserError(f"--visn-pool {pool}: {name} has {', '.join(pools) or 'none'}")
            try:
                found = self.pooled(states)
            except Exception as error:
                raise UserError(f"--visn-pool {pool}: {name} can't do it ({one_line(error)[:160]})") from None
        if found.ndim != 2 or not found.is_floating_point():
            others = ", ".join(one for one in pools if one != pool)
            raise UserError(f"--visn-pool {pool}: of {name} gives no vector; take {others or 'another model'}")
        self.width = found.shape[1]
        name_settings(self, _told(view))

    def states(self, pixels: Tensor) -> Any:
        """What the model makes of normalized pixels (B, 3, H, W): tokens or a map among it, see `tokens`."""
        raise NotImplementedError

    def tokens(self, states: Any) -> Tensor | None:
        """The tokens (B, T, C) or map (B, C, h, w) in what `states` gives; None if there are none of this kind."""
        raise NotImplementedError

    def own(self, states: Any) -> Tensor | None:
        """The vector (B, width) that the model itself makes of them; None if it makes none."""
        raise NotImplementedError

    def found_layout(self, tokens: Tensor, pixels: Tensor) -> Layout | None:
        """The layout of these tokens or this map of pixels; None if it is not known."""
        raise NotImplementedError

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W), as `view` makes them -> (B, width)"""
        return self.pooled(self.states(self.view.normalize(pixels)))

    def pooled(self, states: Any) -> Tensor:
        """What `states` gives -> (B, width)"""
        if self.pool == "own":
            own = self.own(states)
            assert own is not None, "the pool was checked"
            return own
        tokens, layout = self.tokens(states), self.layout
        assert tokens is not None and layout is not None, "the pool was checked"
        if self.pool == "cls":
            return tokens[:, 0]
        if self.pool == "both":
            return torch.cat([tokens[:, 0], tokens[:, layout.prefix :].mean(1)], 1)
        if self.pool == "avg" and tokens.ndim == 3:
            return tokens[:, layout.prefix :].mean(1)
        return pooling(self.pool)(layout.map(tokens)).flatten(1)

    def _layout(self, states: Any, pixels: Tensor) -> tuple[Layout | None, list[str]]:
        """The layout, and the pools that go with it."""
        tokens, own = self.tokens(states), self.own(states)
        layout = None if tokens is None else self.found_layout(tokens, pixels)
        there = {"own": own is not None, "cls": False, "both": False, "avg": False, "max": False, "grid": False}
        if tokens is not None and layout is not None:
            there |= {"cls": layout.cls, "both": layout.cls, "avg": True, "max": True}
            there["grid"] = layout.grid is not None or tokens.ndim == 4
        return layout, [pool for pool in IMAGE_POOLS if there.get(pool)]


def _told(view: Any) -> dict[str, Any]:
    """The settings of a view that its pixels depend on."""
    said = asdict(view)
    if "config" in said:
        said = {key: said["config"].get(key) for key in OF_PIXELS}
    said = {key: {side: size for side, size in one.items() if size} if isinstance(one, dict) else one for key, one in said.items()}
    return {key: one for key, one in said.items() if one is not None}


def grid_of(count: int, shapes: list[tuple[int, int]], square: bool) -> tuple[int, int] | None:
    """Height and width of so many tokens: the first of these shapes that has as many, or a square of a square picture; else None."""
    for height, width in shapes:
        if height * width == count:
            return height, width
    side = math.isqrt(count)
    return (side, side) if square and count and side * side == count else None
