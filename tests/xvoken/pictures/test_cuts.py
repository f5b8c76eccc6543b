"""Cuts of pictures against what Pillow and the model's own processor make of them by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from transformers import AutoImageProcessor

from tests.builder import save_clip, save_siglip
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError
from xvoken.pictures.batches import Pictures, TorchcodecPictures
from xvoken.pictures.cuts import CUTS, Cuts, first_cuts
from xvoken.pictures.decode import load_picture
from xvoken.pictures.view import View

VIEW = View(40, 32, (0.5,) * 3, (0.5,) * 3, "bicubic")
SIZES = {"landscape": (160, 97), "portrait": (61, 148), "square": (96, 96), "long": (3, 700), "tiny": (1, 1)}


def picture(width: int, height: int) -> Image.Image:
    """Another colour in each place, so that no two cuts of it look alike."""
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def ends(whole: Image.Image) -> list[Image.Image]:
    """The two end squares."""
    width, height = whole.size
    if width > height:
        return [whole.crop((0, 0, height, height)), whole.crop((width - height, 0, width, height))]
    return [whole.crop((0, 0, width, width)), whole.crop((0, height - width, width, height))]


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_cuts_of_a_view_by_hand(size: tuple[int, int]):
    whole = picture(*size)
    cuts = Cuts(VIEW, CUTS)(whole)
    assert cuts.shape == (4, 3, 32, 32) and cuts.dtype == torch.uint8
    assert cuts[0].equal(VIEW(whole))
    assert np.array_equal(cuts[1].permute(1, 2, 0), ImageOps.mirror(Image.fromarray(VIEW(whole).permute(1, 2, 0).numpy())))
    for cut, end in zip(cuts[2:], ends(whole), strict=True):
        assert np.array_equal(cut.permute(1, 2, 0), end.resize((32, 32), Image.Resampling.BICUBIC))
    assert cuts[2].equal(cuts[3]) == (size[0] == size[1])
    some = Cuts(VIEW, ("end", "mirrored"))(whole)
    assert some.equal(cuts[[3, 1]])


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_cuts_by_the_models_own_processor(tmp_path: Path, save):
    folder = save(tmp_path / "model")
    view = load_encoder(folder, ["image"], "cpu").image.view
    processor = AutoImageProcessor.from_pretrained(folder, backend="torchvision")

    def by_hand(one: Image.Image) -> torch.Tensor:
        return processor(images=[one], do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0].to(torch.uint8)

    for size in ((160, 97), (61, 148), (96, 96)):
        whole = picture(*size)
        cuts = Cuts(view, CUTS)(whole)
        expected = [by_hand(whole), by_hand(whole).flip(-1), *map(by_hand, ends(whole))]
        assert all(cut.equal(other) for cut, other in zip(cuts, expected, strict=True)), size


def test_a_large_jpeg_is_decoded_once_at_a_fraction(tmp_path: Path):
    """Its cuts are those of the reduced picture, which is at least twice as large as they are; torchcodec's are the same to the eye."""
    for name, size in {"large": (820, 610), "small": (120, 90)}.items():
        picture(*size).save(tmp_path / f"{name}.jpg", quality=90)
        path = str(tmp_path / f"{name}.jpg")
        view = View(40, 32, (0.5,) * 3, (0.5,) * 3)
        (found,) = Pictures([path], Cuts(view, CUTS))
        assert found.equal(Cuts(view, CUTS)(load_picture(path, 40)))
        assert found[0].equal(Pictures([path], view)[0])
        (fast,) = TorchcodecPictures([path], Cuts(view, CUTS), "cpu").__getitems__([0])
        assert fast.shape == found.shape and (fast.int() - found.int()).abs().float().mean() < 1
        assert (fast.int() - Cuts(view, CUTS)(load_picture(path)).int()).abs().max() <= 1


@pytest.mark.parametrize("number", [0, 5, 2.0, "all"])
def test_a_number_of_views_that_there_is_not(number):
    with pytest.raises(UserError, match=f"{number!r} views of a picture: a whole number from 1 to 4"):
        first_cuts(number)
