"""The interface of towers: those of a matcher and those of a dual encoder."""

from collections.abc import Iterator
from typing import Protocol, Self

from torch import Tensor, nn

from xvoken.pictures.view import AnyView


class Tower(Protocol):
    """A module from texts or pictures to features; width: size of its output."""

    width: int

    def modules(self) -> Iterator[nn.Module]:
        """As torch.nn.Module.modules."""
        ...

    def to(self, device: str, /) -> Self:
        """As torch.nn.Module.to: moves the tower itself."""
        ...


class AnyTextTower(Tower, Protocol):
    """A text tower.

    max_tokens: the longest input, special tokens counted in; fixed_length: whether every input is padded to max_tokens.
    prompt: text that is put before every sentence, "" for none.
    """

    max_tokens: int
    fixed_length: bool
    prompt: str

    def __call__(self, ids: Tensor, mask: Tensor, /) -> Tensor:
        """ids, mask: int64 (B, T), mask 1 for tokens and 0 for padding -> (B, width), pooled, before the joint space"""
        ...


class TokenTower(AnyTextTower, Protocol):
    """A text tower that can give a vector for each token too."""

    def tokens(self, ids: Tensor, mask: Tensor, /) -> Tensor:
        """ids, mask: int64 (B, T) -> (B, T, width), without pooling"""
        ...


class AnyImageTower(Tower, Protocol):
    """An image tower; model: the network inside."""

    model: nn.Module

    @property
    def view(self) -> AnyView:
        """How a picture becomes `pixels`."""
        ...

    def __call__(self, pixels: Tensor, /) -> Tensor:
        """pixels: (B, 3, H, W), uint8 or float32, as `view` makes them -> (B, width), pooled, before the joint space"""
        ...
