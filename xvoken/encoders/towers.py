"""What a tower has, whoever made it: a matcher's own, or a model of transformers."""

from collections.abc import Iterator
from typing import Protocol, Self

from torch import Tensor, nn

from xvoken.pictures.view import AnyView


class Tower(Protocol):
    """A module from texts or pictures to features; width: size of its output."""

    width: int

    def modules(self) -> Iterator[nn.Module]: ...

    def to(self, device: str, /) -> Self: ...


class AnyTextTower(Tower, Protocol):
    """ids, mask: int64 (B, T) -> (B, width), pooled, before the joint space.

    max_tokens: the longest input, special tokens counted in; fixed_length: whether every input is to be padded to that.
    """

    max_tokens: int
    fixed_length: bool

    def __call__(self, ids: Tensor, mask: Tensor, /) -> Tensor: ...


class TokenTower(AnyTextTower, Protocol):
    """A text tower that gives its tokens too, without pooling: (B, T, width)."""

    def tokens(self, ids: Tensor, mask: Tensor, /) -> Tensor: ...


class AnyImageTower(Tower, Protocol):
    """pixels: uint8 (B, 3, H, W), as `view` makes them -> (B, width), pooled, before the joint space; model: the network inside."""

    model: nn.Module

    @property
    def view(self) -> AnyView: ...

    def __call__(self, pixels: Tensor, /) -> Tensor: ...
