"""Augmented views of pictures: random crops and flips, the same ones for the same seed."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xvoken.pictures.decode import BrokenPicture, load_picture, reduced
from xvoken.pictures.view import AnyView, Box

RATIO = (3 / 4, 4 / 3)  # least and most width / height of a crop, as in torchvision's RandomResizedCrop


@dataclass(frozen=True)
class Crops:
    """Random resized crops and flips, `count` of each picture, as in Vokenization.

    scale: the smallest share of the picture's area that a crop covers; the largest is 1.
    """

    count: int
    scale: float
    seed: int

    def __call__(self, picture: Image.Image, view: AnyView, number: int) -> Tensor:
        """Crops of picture `number` of its set: uint8 (count, 3, height, width), as `view` has them; equal for equal number and seed."""
        rng = np.random.default_rng([self.seed, number])
        return torch.stack([self._cut(picture, view, rng) for _ in range(self.count)])

    def _cut(self, picture: Image.Image, view: AnyView, rng: np.random.Generator) -> Tensor:
        cut = view.cropped(picture, self._box(*picture.size, rng))
        return cut.flip(-1) if rng.random() < 0.5 else cut

    def _box(self, width: int, height: int, rng: np.random.Generator) -> Box:
        """Left, top, right and bottom of a crop, in pixels."""
        for _ in range(10):
            area = width * height * rng.uniform(self.scale, 1)
            ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                break
        else:  # a very long picture: the largest crop whose ratio is allowed
            w, h = min(width, max(1, round(height * RATIO[1]))), min(height, max(1, round(width / RATIO[0])))
        left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
        return left, top, left + w, top + h


@dataclass
class AugmentedPictures(torch.utils.data.Dataset):
    """Item i: evaluation view and crops of picture `numbers[i]`, uint8 (1 + crops.count, 3, H, W), or why it can't be used (str)."""

    paths: list[str]
    numbers: range
    view: AnyView
    crops: Crops

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Tensor | str:
        number = self.numbers[index]
        try:
            whole = load_picture(self.paths[number])
            # Decoded as `image_features` does it: both store the evaluation view under one name in the cache, so it must be the same.
            plain = load_picture(self.paths[number], self.view.resize) if reduced(whole, self.view.resize) else whole
        except BrokenPicture as error:
            return str(error)
        return torch.cat([self.view(plain)[None], self.crops(whole, self.view, number)])
