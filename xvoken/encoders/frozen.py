"""Frozen towers on a device: the one place where tower, engine, padding, precision and TF32 meet."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from xvoken.encoders.lanes import in_lanes
from xvoken.encoders.running import ALONE, Run, computing
from xvoken.errors import UserError
from xvoken.machine import Pace
from xvoken.towers.image import for_inference
from xvoken.towers.interface import AnyImageTower, AnyTextTower
from xvoken.towers.padding import Padding, pad_lines, with_prompt
from xvoken.towers.precision import cast_weights, upload
from xvoken.towers.tokenizer import tokenize


def batches_by_length(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Rows (positions in `lengths`) of batches of like length, rows of length 0 left out; longest first, so that lanes end together."""
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] > 0]
    for start in reversed(range(0, len(order), batch_size)):
        yield order[start : start + batch_size]


def all_batches(lengths: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """As `batches_by_length`, before a last batch of the rows of length 0: a text without tokens becomes [CLS][SEP] and has a vector."""
    yield from batches_by_length(lengths, batch_size)
    yield np.flatnonzero(lengths == 0)


OF_LENGTH_ONE = 0.99  # a shorter vector has not length 1: where a head overflows, the length is NaN or 0, or that of the other parts


def of_length_one(vectors: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which rows of (n, d) have length 1, as heads make them: bool (n,)."""
    return np.linalg.norm(vectors, axis=1) > OF_LENGTH_ONE


def require_finite(vectors: NDArray[np.floating], name: Callable[[int], str], precision: str, mend: str = "", unit: bool = False) -> None:
    """Raise UserError if a row of the texts' vectors (n, d) is not finite or, with `unit`, not of length 1.

    Such texts are not left out, as pictures are: a model that fails on one text can't be trusted with the others. They are not
    kept either: a NaN score would rank above all others. name: what a row is called; mend: what else the user has to do.
    """
    sound = np.isfinite(vectors).all(1)
    if unit:
        sound &= of_length_one(vectors)
    if len(bad := np.flatnonzero(~sound)):
        others = f" and of {len(bad) - 1} more" if len(bad) > 1 else ""
        lower = "" if precision == "fp32" else ", or take --precision fp32"
        raise UserError(f"{name(int(bad[0]))}: the model's output for it{others} is not finite; leave it out{lower}{mend}")


EXAMPLE_TOKENS = 24  # of a made-up sentence


class _Frozen:
    """What a frozen text and a frozen image tower have in common. SIZES: of batches, which a trial takes, see xvoken.work.trial."""

    SIZES: ClassVar[tuple[int, ...]] = ()
    free: ClassVar[tuple[int, ...]] = (0,)
    run: Run

    @property
    def pace(self) -> Pace:
        """How it is computed on a CPU."""
        return self.run.pace

    def example(self, batch_size: int) -> tuple[Tensor, ...]:
        """Made-up inputs of the tower."""
        raise NotImplementedError

    def probe(self) -> tuple[Tensor, ...]:
        """Inputs of another batch size, and another length where it is free."""
        raise NotImplementedError

    def seconds(self, batch_size: int, pace: Pace) -> float:
        """How long one batch of made-up items in each lane takes, all at once."""
        inputs = self.example(batch_size)
        function = self.run.function("forward", inputs, self.free, self.probe)

        def one(_: int) -> None:
            with computing(self.device, self.precision):
                function(*inputs)

        began = time.perf_counter()
        list(in_lanes(one, range(pace.lanes), pace))
        return time.perf_counter() - began

    @property
    def tower(self) -> Any:
        """The tower itself."""
        return self.run.tower

    @property
    def device(self) -> str:
        """Where it is computed."""
        return self.run.device

    @property
    def precision(self) -> str:
        """What it is computed in: fp32 or bf16."""
        return self.run.precision


class FrozenText(_Frozen):
    """A frozen text tower and its tokenizer, on a device.

    tower: ids, mask -> features, see xvoken.towers.text.TextTower; its weights are cast in place for the precision.
    max_tokens: the longest input, special tokens counted in; by default, and at most, that of the tower, and always that of a tower of
    fixed length.
    """

    SIZES = (8, 16, 32, 64)
    free = (0, 1)  # dimensions of the input that differ between batches

    def __init__(
        self, tower: AnyTextTower, tokenizer: PreTrainedTokenizerBase, device: str = "cpu", precision: str = "fp32",
        max_tokens: int | None = None, pace: Pace = ALONE,
    ):  # fmt: skip
        self.tokenizer, self.width, self.prompt = tokenizer, tower.width, tower.prompt
        self.run = Run(tower, cast_weights, device, precision, pace)
        longest = tower.max_tokens if tower.fixed_length else min(max_tokens or tower.max_tokens, tower.max_tokens)
        self.padding = Padding.for_tokenizer(tokenizer, longest, tower.fixed_length, tower.prompt)

    def example(self, batch_size: int) -> tuple[Tensor, ...]:
        """Ids and mask, int64 (B, T)."""
        tokens = self.padding.max_tokens if self.padding.fixed else min(self.padding.max_tokens, EXAMPLE_TOKENS)
        ids = torch.full((batch_size, tokens), (*self.padding.behind[-1:], *self.padding.before, self.padding.pad)[0])
        return ids, torch.ones_like(ids)

    def probe(self) -> tuple[Tensor, ...]:
        """Ids and mask of three sentences of other lengths, by which a compiled tower is held against torch."""
        tokens, offsets = self.tokenize(["two dogs", "a man on a red bicycle rides past an old house by the sea", "snow"])
        return pad_lines(tokens, offsets[:-1], np.diff(offsets), self.padding)

    def tokenize(self, sentences: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Token ids without special ones, one sentence after another: (N,), and offsets (len(sentences) + 1,)."""
        return tokenize(self.tokenizer, sentences)

    def cut(self, lengths: NDArray[np.int64]) -> int:
        """How many texts will be cut; lengths: tokens of each text (n,), without special ones."""
        return int((lengths + self.padding.specials > self.padding.max_tokens).sum())

    def features(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Batches of lines (rows of offsets) -> rows (B,), features (B, width) on the device; empty batches are left out.

        A GPU may still be computing the output: ask for all batches before copying the first one back, so that it never waits.
        """
        for rows, out, _ in self._through("forward", tokens, offsets, batches):
            yield rows, out

    def states(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """As `features`, for every token: rows (B,), states (B, T, width), mask int64 (B, T), special tokens counted in."""
        return self._through("tokens", tokens, offsets, batches)

    def _through(
        self, name: str, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batches: Iterable[NDArray[np.int64]]
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Batches through this function of the tower: rows (B,), its output, mask int64 (B, T)."""
        tokens, offsets, padding = with_prompt(self.tokenizer, self.prompt, self.padding, tokens, offsets)
        lengths = np.diff(offsets)
        function = self.run.function(name, self.example(2), self.free, self.probe)

        def one(rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Tensor, Tensor]:
            ids, mask = (upload(tensor, self.device) for tensor in pad_lines(tokens, offsets[rows], lengths[rows], padding))
            with computing(self.device, self.precision):
                return rows, function(ids, mask), mask

        return in_lanes(one, filter(len, batches), self.run.pace)


def _noise(width: int, height: int) -> Image.Image:
    """A picture of random pixels, the same every time."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


class FrozenImage(_Frozen):
    """A frozen image tower on a device.

    tower: pixels -> features, see xvoken.towers.image.ImageTower; changed in place for the precision. view: how a picture becomes pixels.
    """

    SIZES = (1, 2, 4, 8, 16)
    free = (0,)

    def __init__(self, tower: AnyImageTower, device: str = "cpu", precision: str = "fp32", pace: Pace = ALONE):
        self.view, self.width = tower.view, tower.width
        self.run = Run(tower, for_inference, device, precision, pace)

    def example(self, batch_size: int) -> tuple[Tensor, ...]:
        """Pixels (B, 3, H, W), as the tower's view makes them."""
        like = self.view(_noise(640, 480))
        return (like.expand(batch_size, *like.shape).contiguous(),)

    def probe(self) -> tuple[Tensor, ...]:
        """Three pictures of other ratios, by which a compiled tower is held against torch."""
        return (torch.stack([self.view(_noise(*size)) for size in ((320, 240), (240, 320), (200, 200))]),)

    def features(self, pixels: Tensor) -> Tensor:
        """pixels: as `view` makes them (B, 3, H, W), on any device -> (B, width) on the tower's device; a GPU may still be computing it"""
        function = self.run.function("forward", (pixels[:1],), self.free, self.probe)
        with computing(self.device, self.precision):
            return function(upload(pixels, self.device))

    def features_of_views(self, pixels: Tensor) -> Tensor:
        """As `features`, of V views of each picture: uint8 (B, V, 3, H, W) -> (B, V, width)

        A batch a view, of the same pictures: a view's features are the same bits whichever others are computed with it.
        """
        return torch.stack([self.features(pixels[:, view].contiguous()) for view in range(pixels.shape[1])], 1)


@dataclass(frozen=True)
class Placed:
    """Where the towers of an encoder are put, and how they are computed there."""

    device: str
    precision: str
    pace: Pace = ALONE

    def text(self, tower: AnyTextTower, tokenizer: PreTrainedTokenizerBase) -> FrozenText:
        """The text tower, ready for use."""
        return FrozenText(tower, tokenizer, self.device, self.precision, pace=self.pace)

    def image(self, tower: AnyImageTower) -> FrozenImage:
        """The image tower, ready for use."""
        return FrozenImage(tower, self.device, self.precision, self.pace)
