"""Cuts of pictures against what Pillow and the model's own processor make of them by hand."""

import resource
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


def middle(whole: Image.Image) -> Image.Image:
    """What is squeezed: of a picture longer than 64 times its shorter side, that much."""
    width, height = whole.size
    left, top = max(0, (width - 64 * height) // 2), max(0, (height - 64 * width) // 2)
    return whole.crop((left, top, left + min(width, 64 * height), top + min(height, 64 * width)))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_cuts_of_a_view_by_hand(size: tuple[int, int]):
    whole = picture(*size)
    cuts = Cuts(VIEW, CUTS)(whole)
    assert cuts.shape == (4, 3, 32, 32) and cuts.dtype == torch.uint8
    assert cuts[0].equal(VIEW(whole))
    for cut, shown in zip(cuts[1:], [middle(whole), *ends(whole)], strict=True):
        assert np.array_equal(cut.permute(1, 2, 0), shown.resize((32, 32), Image.Resampling.BICUBIC))
    for one, other in ((1, 2), (2, 3)):
        assert cuts[one].equal(cuts[other]) == (size[0] == size[1])
    some = Cuts(VIEW, ("end", "squeezed"))(whole)
    assert some.equal(cuts[[3, 1]])


@pytest.mark.parametrize("save", [save_clip, save_siglip])
def test_cuts_by_the_models_own_processor(tmp_path: Path, save):
    folder = save(tmp_path / "model")
    view = load_encoder(folder, ["image"], "cpu").image.view
    processor = AutoImageProcessor.from_pretrained(folder, backend="torchvision")

    def by_hand(one: Image.Image) -> torch.Tensor:
        return processor(images=[one], do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"][0].to(torch.uint8)

    for size in ((160, 97), (61, 148), (96, 96), (190, 3), (3, 700)):
        whole = picture(*size)
        cuts = Cuts(view, CUTS)(whole)
        squeezed = middle(whole).resize((min(size),) * 2, Image.Resampling.BICUBIC)
        expected = list(map(by_hand, [middle(whole), squeezed, *ends(whole)]))
        assert all(cut.equal(other) for cut, other in zip(cuts, expected, strict=True)), size


@pytest.mark.parametrize("save", [None, save_clip, save_siglip])
def test_cuts_of_decoded_pixels_are_those_of_pillow(tmp_path: Path, save):
    view = load_encoder(save(tmp_path / "model"), ["image"], "cpu").image.view if save else VIEW
    for size in ((160, 97), (61, 148), (96, 96)):
        wholes = [picture(*size), ImageOps.mirror(picture(*size))]
        pixels = torch.stack([torch.from_numpy(np.array(whole)).permute(2, 0, 1) for whole in wholes])
        found, expected = Cuts(view, CUTS).of_pixels(pixels), torch.stack([Cuts(view, CUTS)(whole) for whole in wholes])
        assert found.shape == expected.shape and found.dtype == torch.uint8
        assert (found.int() - expected.int()).abs().max() <= (2 if save else 1), size  # a processor scales what has been scaled and rounded
        assert all(found[:, one].equal(found[:, other]) == (size[0] == size[1]) for one, other in ((1, 2), (2, 3)))


@pytest.mark.parametrize("save", [None, save_clip])
def test_a_very_long_picture_costs_little(tmp_path: Path, save):
    """Scaled whole, it would take 5 GB between the scaling of its width and that of its height."""
    view = load_encoder(save(tmp_path / "model"), ["image"], "cpu").image.view if save else VIEW
    whole = Image.new("RGB", (1, 40_000_000), "red")
    whole.paste("blue", (0, 20_000_000, 1, 40_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cuts = Cuts(view, CUTS)(whole)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB
    assert cuts[1].float().mean((1, 2)).round().tolist() == [128, 0, 128]
    assert [cut[:, 0, 0].tolist() for cut in cuts[2:]] == [[255, 0, 0], [0, 0, 255]]


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
