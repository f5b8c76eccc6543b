"""One interface for every dual encoder: text tower and head, image tower and head, one joint space."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xvoken.console import progress
from xvoken.encoders.frozen import FrozenImage, FrozenText, all_batches, batches_by_length, of_length_one, require_finite, shown
from xvoken.encoders.sources import kind_of
from xvoken.encoders.text import masked_mean
from xvoken.encoders.towers import AnyImageTower, AnyTextTower
from xvoken.errors import UserError
from xvoken.files.safe import matrix
from xvoken.kinds import ENCODERS, made_by
from xvoken.machine import IMAGE_BATCH, PRECISIONS, TEXT_BATCH, lines_on, one_device, resolve_precision
from xvoken.pictures.batches import batches_ahead, on_device, open_pictures
from xvoken.pictures.sources import Member


class TowerSpec(Protocol):
    """How another process builds a tower; what its output depends on besides the weights. name: fit for a file's name."""

    @property
    def name(self) -> str: ...

    @property
    def pool(self) -> str: ...


class TextSpec(TowerSpec, Protocol):
    """layers: counted from the last one, none where there is no choice."""

    @property
    def layers(self) -> tuple[int, ...]: ...

    def build(self) -> AnyTextTower: ...


class ImageSpec(TowerSpec, Protocol):
    """The same of an image tower."""

    def build(self) -> AnyImageTower: ...


@dataclass(repr=False)
class Encoder:
    """A dual encoder ready for use: a matcher's snapshot, or a CLIP-like model of transformers. Made by `load_encoder`.

    name: what its files say made them; hash: 16 hex digits of its weights; dim: size of the joint space.
    text, image: the towers, None if they were not asked for; text_head, image_head: from their features to the joint space.
    max_len: the longest caption of its training, in tokens, special ones counted in (of CLIP-like models, the tower's length).
    level: "sentence", or "token" for a matcher that was trained on every token of a caption by itself.
    tokenizer_name: what was given as the text tower's name, whose tokenizer it is: a trained tower's folder holds none.
    home: folder for what is made with it; revision: the hub's commit, where there is one; files: that all of this follows from.
    """

    name: str
    hash: str
    dim: int
    max_len: int
    tokenizer: PreTrainedTokenizerBase
    text_spec: TextSpec
    image_spec: ImageSpec
    image_width: int
    text_head: nn.Module
    image_head: nn.Module
    text: FrozenText | None = None
    image: FrozenImage | None = None
    tokenizer_name: str = ""
    home: Path = Path()
    revision: str = ""
    level: str = "sentence"
    files: tuple[Path, ...] = ()
    device: str = "cpu"
    made_with: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """For another process, which loads it by itself: towers are not sent."""
        return load_encoder, self.made_with

    def __repr__(self) -> str:
        return f"<xvoken.Encoder {self.name} ({self.hash}): {self.dim} dimensions, {self.level} level, on {self.device}>"

    @property
    def max_tokens(self) -> int:
        """The longest text, in tokens, special ones counted in; longer ones are cut."""
        return self._needs("text").padding.max_tokens

    @torch.inference_mode()
    def text_vectors(self, features: Tensor) -> Tensor:
        """Features of the text tower (..., width), on any device -> vectors of length 1, float32 (..., dim)"""
        return self.text_head(features.to(self.device).float())

    @torch.inference_mode()
    def image_vectors(self, features: Tensor) -> Tensor:
        """Features of the image tower (..., width), on any device -> vectors of length 1, float32 (..., dim)"""
        return self.image_head(features.to(self.device).float())

    def encode_ids(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batch_size: int, empty: bool = False
    ) -> NDArray[np.float32]:
        """Token ids without special ones (n,) of lines that start at offsets (L + 1,) -> their vectors (L, dim)

        empty: also of lines without tokens, whose rows are left as they are otherwise.
        """
        lengths = np.diff(offsets)
        vectors = np.empty((len(lengths), self.dim), np.float32)
        batches = (all_batches if empty else batches_by_length)(lengths, batch_size)
        encoded = self._needs("text").features(tokens, offsets, batches)
        for rows, found in [(rows, self.text_vectors(features)) for rows, features in encoded]:
            vectors[rows] = found.cpu().numpy()
        return vectors

    def encode_texts(self, texts: Sequence[str], batch_size: int | None = None, show_progress: bool = False) -> NDArray[np.float32]:
        """Vectors of texts: float32 (len(texts), dim), each of length 1.

        batch_size: texts a batch (default: by device). Texts longer than `max_tokens` are cut; an empty one has a vector too.
        Of a matcher on token level: the mean of its tokens' vectors, which is shorter than 1, as its score is the mean of theirs.
        Raises xvoken.Error where the model's output is not finite.
        """
        tower, texts = self._needs("text"), _listed(texts, "texts")
        if wrong := [i for i, text in enumerate(texts) if not isinstance(text, str)]:
            raise UserError(f"text {wrong[0]} is no str but {type(texts[wrong[0]]).__name__}")
        for i, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"text {i} is no Unicode (character {error.start})") from None
        size = _batch(batch_size) or lines_on(self.device, TEXT_BATCH)
        vectors = np.empty((len(texts), self.dim), np.float32)
        with progress(total=len(texts), desc="texts", unit="text", disable=not show_progress) as bar:
            for start in range(0, len(texts), 64 * size):  # lines of similar length go together, some batches at a time
                slab = texts[start : start + 64 * size]
                tokens, offsets = tower.tokenize(slab)
                if self.level == "token":
                    for rows, states, mask in tower.states(tokens, offsets, all_batches(np.diff(offsets), size)):
                        vectors[start + rows] = masked_mean(self.text_vectors(states), mask).cpu().numpy()
                else:
                    vectors[start : start + len(slab)] = self.encode_ids(tokens, offsets, size, empty=True)
                bar.update(len(slab))
        require_finite(vectors, lambda row: f"text {shown(texts[row])}", tower.precision, unit=self.level == "sentence")
        return vectors

    def encode_images(
        self, pictures: Sequence[str | Path | Image.Image | Member], batch_size: int | None = None, on_error: str = "raise",
        show_progress: bool = False,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Vectors of pictures: float32 (len(pictures), dim), each of length 1.

        pictures: files, or pictures of Pillow's; both are turned upright, transparency becomes white.
        batch_size: pictures a batch (default: by device). on_error: of a picture that can't be used, "raise" xvoken.Error,
        which names it and says why, or make its row "nan".
        Keys on disk were rounded to 16 bits between tower and head, so that theirs differ from these by about 0.001.
        """
        if on_error not in ("raise", "nan"):
            raise UserError(f'on_error={on_error!r}: "raise" or "nan" was expected')
        tower, pictures = self._needs("image"), _listed(pictures, "pictures")
        wrong = next((i for i, picture in enumerate(pictures) if not isinstance(picture, str | Path | Image.Image | Member)), None)
        if wrong is not None:
            what = f"no file and no picture of Pillow's but {type(pictures[wrong]).__name__}"
            raise UserError(f"picture {wrong} is {what}; of an array: PIL.Image.fromarray(array)")
        size, threads = on_device(self.device, _batch(batch_size) or IMAGE_BATCH, 1)
        vectors = np.full((len(pictures), self.dim), np.nan, np.float32)
        with progress(total=len(pictures), desc="pictures", unit="img", disable=not show_progress) as bar, threads or nullcontext():
            for first, items in batches_ahead(open_pictures(pictures, tower.view, "pillow", self.device), size, threads):
                good = [i for i, item in enumerate(items) if not isinstance(item, str)]
                if good:
                    found = self.image_vectors(tower.features(torch.stack([items[i] for i in good])))
                    vectors[[first + i for i in good]] = found.cpu().numpy()
                for i, item in enumerate(items):
                    if on_error == "raise" and isinstance(item, str):
                        raise UserError(f"picture {_named(pictures[first + i], first + i)}: {item}")
                bar.update(len(items))
        bad = np.flatnonzero(~of_length_one(vectors))
        vectors[bad] = np.nan
        if len(bad) and on_error == "raise":
            raise UserError(f"picture {_named(pictures[bad[0]], bad[0])}: the model's output for it is not finite")
        return vectors

    @staticmethod
    def similarity(texts: NDArray[np.float32], pictures: NDArray[np.float32]) -> NDArray[np.float32]:
        """Inner products of vectors, (T, dim) and (P, dim) -> float32 (T, P); cosines, as the vectors have length 1"""
        texts, pictures = matrix(texts, "texts"), matrix(pictures, "pictures")
        if texts.shape[1] != pictures.shape[1]:
            raise UserError(f"texts of {texts.shape[1]} dimensions, pictures of {pictures.shape[1]}: those of one encoder were expected")
        return texts @ pictures.T

    def _needs(self, tower: str) -> Any:
        found = getattr(self, tower)
        if found is None:
            raise UserError(f'{self.name}: loaded without its {tower} tower; give it in load_encoder(..., towers=("text", "image"))')
        return found


def _listed(given: Any, what: str) -> list[Any]:
    """A single text or path is a sequence too, of letters."""
    if isinstance(given, str | Path | Image.Image):
        raise UserError(f"a list of {what} was expected, this is a single {type(given).__name__}: put it in brackets")
    try:
        return list(given)
    except TypeError:
        raise UserError(f"a list of {what} was expected, this is {type(given).__name__}") from None


def _batch(size: Any) -> int | None:
    """A size that makes no sense would leave rows as they were found in memory."""
    if size is not None and (not isinstance(size, int | np.integer) or size < 1):
        raise UserError(f"batch_size={size!r}: a whole number of at least 1 was expected")
    return size


def _named(picture: Any, number: int) -> str:
    return f"number {number}" if isinstance(picture, Image.Image) else str(picture)


def load_encoder(
    load: str | Path, towers: Sequence[str] = ("text", "image"), device: str = "auto", precision: str = "fp32", expected: str | None = None
) -> Encoder:
    """Load what `load` names, with the towers asked for; what lies there decides.

    load: a matcher's snapshot (folder or .safetensors file), else a folder or hub id of a CLIP or SigLIP model of transformers.
    towers: "text", "image", both or none; device: auto (a GPU, else the CPU), cpu, cuda, or a GPU's number;
    precision: of the towers, fp32, bf16, or auto for bf16 where the device has the units for it.
    expected: its hash, where that is known already: a model that has become another one meanwhile, here or at its hub, is refused.
    Raises xvoken.Error when there is neither, or when a tower is not the one that the heads were trained on.
    """
    towers = _listed(towers, "towers")
    if unknown := {str(tower) for tower in towers} - {"text", "image"}:
        raise UserError(f'towers={towers!r}: "text" and "image" are known, {unknown.pop()!r} is not')
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: not one of {', '.join(PRECISIONS)}")
    device = one_device(device)
    load = str(load)
    encoder = made_by(ENCODERS[kind_of(load)])(load, towers, device, resolve_precision(precision, device))
    if expected not in (None, encoder.hash):
        change = f"({expected} then, {encoder.hash} now)"
        raise UserError(f"{load}: has become another model since this run began {change}; run the same command again")
    encoder.device, encoder.made_with = device, (load, tuple(towers), device, precision)
    for head in (encoder.text_head, encoder.image_head):
        head.to(device)
    return encoder
