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
from xvoken.encoders.frozen import (
    OF_LENGTH_ONE,
    FrozenImage,
    FrozenText,
    Placed,
    all_batches,
    batches_by_length,
    of_length_one,
    require_finite,
)
from xvoken.encoders.heads import mean_of_views
from xvoken.encoders.running import ALONE
from xvoken.encoders.snapshot import Bank
from xvoken.errors import UserError, shown
from xvoken.files.safe import matrix
from xvoken.kinds import ENCODERS, made_by
from xvoken.machine import IMAGE_BATCH, PRECISIONS, TEXT_BATCH, Pace, lines_on, one_device, resolve_precision
from xvoken.pictures.batches import batches_ahead, on_device, open_pictures
from xvoken.pictures.cuts import Cuts, first_cuts
from xvoken.pictures.sources import Member
from xvoken.towers.interface import AnyImageTower, AnyTextTower
from xvoken.towers.sources import kind_of
from xvoken.towers.text import masked_mean


class TowerSpec(Protocol):
    """What another process builds a tower from."""

    @property
    def name(self) -> str:
        """The tower's name, fit for a file's name."""
        ...

    @property
    def pool(self) -> str:
        """How the tower's states or maps become one vector: an entry of TEXT_POOLS or IMAGE_POOLS."""
        ...


class TextSpec(TowerSpec, Protocol):
    """What another process builds a text tower from."""

    @property
    def layers(self) -> tuple[int, ...]:
        """Hidden layers used, counted from the last one; empty for a tower without this choice."""
        ...

    def build(self) -> AnyTextTower:
        """Load the tower on the CPU, in fp32, without gradients."""
        ...


class ImageSpec(TowerSpec, Protocol):
    """What another process builds an image tower from."""

    def build(self) -> AnyImageTower:
        """Load the tower on the CPU, in fp32, without gradients."""
        ...


@dataclass(repr=False)
class Encoder:
    """A dual encoder ready for use: a matcher's snapshot, or a CLIP-like model of transformers. Made by `load_encoder`.

    name: written into the files that are made with it; hash: 16 hex digits that name its weights; dim: size of the joint space.
    text, image: the towers, None if they were not asked for; text_head, image_head: from their features to the joint space.
    max_len: the longest caption in training, in tokens, special ones counted in (for CLIP-like models, the tower's longest input).
    level: "sentence", or "token" for a matcher that was trained on every token of a caption by itself.
    key_views: how many views of a picture its vector is the mean of, unless another number is asked for: see xvoken/pictures/cuts.py.
    tokenizer_name: the text tower's name before any training, which names its tokenizer too: a trained tower's folder holds none.
    hubness: how much of their hubness is taken off scores by default (0: nothing, as for CLIP-like models); bank: the vectors in which a
    snapshot measures it, None without.
    calibration: as Calibration.to_list gives it, None if the model has none; see xvoken.calibration.
    home: folder for the files made with it; revision: the hub's commit, or ""; files: the files and folders it was read from.
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
    key_views: int = 1
    hubness: float = 0.0
    bank: Bank | None = None
    calibration: list[float] | None = None
    files: tuple[Path, ...] = ()
    device: str = "cpu"
    made_with: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickled as the arguments of `load_encoder`: another process loads the towers itself, they are not sent."""
        return load_encoder, self.made_with

    def __repr__(self) -> str:
        return f"<xvoken.Encoder {self.name} ({self.hash}): {self.dim} dimensions, {self.level} level, on {self.device}>"

    @property
    def max_tokens(self) -> int:
        """The longest text in tokens, special ones counted in; longer texts are cut. Raises UserError without a text tower."""
        return self._needs("text").padding.max_tokens

    @torch.inference_mode()
    def text_vectors(self, features: Tensor) -> Tensor:
        """Features of the text tower (..., width), on any device -> vectors of length 1, float32 (..., dim)"""
        return self.text_head(features.to(self.device).float())

    @torch.inference_mode()
    def image_vectors(self, features: Tensor) -> Tensor:
        """Features of the image tower (..., width), on any device -> vectors of length 1, float32 (..., dim)"""
        return self.image_head(features.to(self.device).float())

    @torch.inference_mode()
    def mean_vectors(self, features: Tensor) -> Tensor:
        """Features of V views of each picture (..., V, width), on any device -> the mean of their vectors, of length 1: float32 (..., dim)

        With one view these are its vectors to the bit. NaN where the head overflows for a view, else the others alone would be the mean.
        """
        if features.shape[-2] == 1:
            return self.image_vectors(features[..., 0, :])
        vectors = self.image_vectors(features)
        sound = (vectors.norm(dim=-1) > OF_LENGTH_ONE).all(-1, keepdim=True)
        return mean_of_views(vectors).masked_fill(~sound, torch.nan)

    def encode_ids(
        self, tokens: NDArray[np.int32], offsets: NDArray[np.int64], batch_size: int, empty: bool = False
    ) -> NDArray[np.float32]:
        """Lines tokens[offsets[i] : offsets[i + 1]], without special tokens -> float32 (L, dim), each of length 1

        tokens: (n,); offsets: (L + 1,). empty: whether lines without tokens get a vector too; otherwise their rows are left uninitialized.
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

        batch_size: texts a batch (default: by device). Texts longer than `max_tokens` are cut; an empty text has a vector too.
        For a matcher on token level, a text's vector is the mean of its tokens' vectors, so that its score is the mean of their
        scores; its length is below 1. Raises xvoken.Error where the model's output is not finite.
        """
        tower, texts = self._needs("text"), _listed(texts, "texts")
        if wrong := [i for i, text in enumerate(texts) if not isinstance(text, str)]:
            raise UserError(f"text {wrong[0]} is not a str but {type(texts[wrong[0]]).__name__}")
        for i, text in enumerate(texts):
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"text {i} is not valid Unicode: character {error.start} is half a surrogate pair") from None
        size = _batch(batch_size) or lines_on(self.device, TEXT_BATCH)
        vectors = np.empty((len(texts), self.dim), np.float32)
        with progress(total=len(texts), desc="texts", unit="text", disable=not show_progress) as bar:
            for start in range(0, len(texts), 64 * size):  # within a slab, lines of similar length share a batch
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
        show_progress: bool = False, views: int | None = None,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Vectors of pictures: float32 (len(pictures), dim), each of length 1.

        pictures: paths, Pillow images or members of a tar; they are turned upright, transparency becomes white.
        batch_size: pictures a batch (default: by device). on_error: what to do with a picture that can't be used: "raise"
        xvoken.Error, which names the picture and the reason, or "nan", which fills its row with NaN.
        views: from 1 to 4 (default: the encoder's `key_views`): a vector is the mean over so many views of the picture, brought to
        length 1: the centre that the tower takes by itself, the picture squeezed to a square, and the squares at its two ends.
        Keys on disk differ from these vectors by about 0.001: their features were rounded to 16 bits between tower and head.
        """
        if on_error not in ("raise", "nan"):
            raise UserError(f'on_error={on_error!r}: "raise" or "nan" was expected')
        tower, pictures = self._needs("image"), _listed(pictures, "pictures")
        wrong = next((i for i, picture in enumerate(pictures) if not isinstance(picture, str | Path | Image.Image | Member)), None)
        if wrong is not None:
            what = f"neither a path nor a Pillow image but {type(pictures[wrong]).__name__}"
            raise UserError(f"picture {wrong} is {what}; convert an array with PIL.Image.fromarray(array)")
        cuts = Cuts(tower.view, first_cuts(self.key_views if views is None else views))
        size, threads = on_device(self.device, _batch(batch_size) or IMAGE_BATCH, 1)
        vectors = np.full((len(pictures), self.dim), np.nan, np.float32)
        with progress(total=len(pictures), desc="pictures", unit="img", disable=not show_progress) as bar, threads or nullcontext():
            for first, items in batches_ahead(open_pictures(pictures, cuts, "pillow", self.device), size, threads):
                good = [i for i, item in enumerate(items) if not isinstance(item, str)]
                if good:
                    found = self.mean_vectors(tower.features_of_views(torch.stack([items[i] for i in good])))
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
        """Inner products of vectors, (T, dim) and (P, dim) -> float32 (T, P); cosines, as the vectors have length 1

        Raises UserError for arrays of other shapes or of different dim.
        """
        texts, pictures = matrix(texts, "texts"), matrix(pictures, "pictures")
        if texts.shape[1] != pictures.shape[1]:
            raise UserError(f"texts have {texts.shape[1]} dimensions, pictures {pictures.shape[1]}: both must come from one encoder")
        return texts @ pictures.T

    def _needs(self, tower: str) -> Any:
        found = getattr(self, tower)
        if found is None:
            raise UserError(f'{self.name}: loaded without its {tower} tower; give it in load_encoder(..., towers=("text", "image"))')
        return found


def _listed(given: Any, what: str) -> list[Any]:
    """The items as a list; a single text or path is refused: Python would take it for a sequence of letters."""
    if isinstance(given, str | Path | Image.Image):
        raise UserError(f"a list of {what} was expected, this is a single {type(given).__name__}: put it in brackets")
    try:
        return list(given)
    except TypeError:
        raise UserError(f"a list of {what} was expected, this is {type(given).__name__}") from None


def _batch(size: Any) -> int | None:
    """The size, unless it is invalid: below 1, no batch would be computed and the rows would stay uninitialized."""
    if size is not None and (not isinstance(size, int | np.integer) or size < 1):
        raise UserError(f"batch_size={size!r}: a whole number of at least 1 was expected")
    return size


def _named(picture: Any, number: int) -> str:
    return f"number {number}" if isinstance(picture, Image.Image) else str(picture)


def load_encoder(
    load: str | Path, towers: Sequence[str] = ("text", "image"), device: str = "auto", precision: str = "fp32",
    expected: str | None = None, pace: Pace = ALONE,
) -> Encoder:  # fmt: skip
    """Load an encoder with the towers asked for; the files at `load` decide which kind of encoder it is.

    load: a matcher's snapshot (folder or .safetensors file), a folder or hub id of a CLIP or SigLIP model, or an open_clip: name.
    towers: "text", "image", both or none; device: auto (a GPU, else the CPU), cpu, cuda, or a GPU's number;
    precision: of the towers, fp32, bf16, or auto for bf16 where the device has the units for it.
    expected: the hash that it must have, if one is known: a model that was replaced meanwhile is refused; pace: see xvoken.machine.Pace.
    Raises xvoken.Error when `load` is neither, or when a tower's weights are not those that the heads were trained on.
    """
    towers = _listed(towers, "towers")
    if unknown := {str(tower) for tower in towers} - {"text", "image"}:
        raise UserError(f'towers={towers!r}: "text" and "image" are known, {unknown.pop()!r} is not')
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision!r}: not one of {', '.join(PRECISIONS)}")
    device, load = one_device(device), str(load)
    encoder = made_by(ENCODERS[kind_of(load)])(load, towers, Placed(device, resolve_precision(precision, device), pace))
    if expected not in (None, encoder.hash):
        change = f"({expected} then, {encoder.hash} now)"
        raise UserError(f"{load}: has become another model since this run began {change}; run the same command again")
    encoder.device, encoder.made_with = device, (load, tuple(towers), device, precision, None, pace)
    for head in (encoder.text_head, encoder.image_head):
        head.to(device)
    return encoder
