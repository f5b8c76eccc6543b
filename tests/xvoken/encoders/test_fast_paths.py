"""Fast paths equal the plain ones: weights cast once, ids to text by table, decoding ahead, decoding at a fraction."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from xvoken.files.tokens import IdText
from xvoken.pictures.batches import Pictures, batches_ahead
from xvoken.pictures.decode import load_picture
from xvoken.pictures.view import View
from xvoken.towers.precision import autocast, cast_weights

VIEW = View(256, 224, (0.0,) * 3, (1.0,) * 3)


def test_weights_cast_once_give_the_same_bits() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LayerNorm(288), nn.Linear(288, 5)
    ).eval()
    x = torch.randn(4, 3, 8, 8)
    with torch.inference_mode(), autocast("cpu", "bf16"):
        plain = model(x)
        assert torch.equal(cast_weights(model, "bf16")(x), plain)
    assert model[5].weight.dtype == torch.bfloat16 and model[4].weight.dtype == torch.float32
    assert cast_weights(nn.Linear(2, 2), "fp32").weight.dtype == torch.float32


@pytest.mark.parametrize("counts", [[0], [3], [0, 0, 2, 0, 1, 5, 0], [1, 1, 1]])
def test_ids_to_text_by_table(counts: list[int]) -> None:
    ids = np.random.default_rng(0).integers(0, 30522, sum(counts), np.int32)
    ids[:1] = 0
    lines = np.split(ids, np.cumsum(counts)[:-1])
    text = IdText(30522).lines(ids, np.array(counts))
    assert text.tobytes() == "".join(" ".join(map(str, line)) + "\n" for line in lines).encode()


def test_decoding_ahead_gives_all_pictures_in_order(tmp_path: Path) -> None:
    paths = []
    for i in range(11):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.new("RGB", (256, 256), (i, 0, 0)).save(paths[-1])
    Path(paths[6]).write_bytes(b"no picture")
    pictures = Pictures(paths, VIEW)
    plain = list(batches_ahead(pictures, 3, None))
    with ThreadPoolExecutor(4) as threads:
        ahead = list(batches_ahead(pictures, 3, threads))
    assert [first for first, _ in ahead] == [0, 3, 6, 9]
    for (first, items), (same_first, same_items) in zip(plain, ahead, strict=True):
        assert first == same_first and len(items) == len(same_items)
        assert all(a == b if isinstance(a, str) else torch.equal(a, b) for a, b in zip(items, same_items, strict=True))
    assert plain[2][1][0] == "not a picture" and plain[3][1][1][0, 0, 0] == 10


@pytest.mark.parametrize(("size", "at_most"), [((1023, 1000), 0.0), ((2400, 1800), 1.0), ((5000, 4200), 1.0)])
def test_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path: Path, size: tuple[int, int], at_most: float) -> None:
    """Mean difference of the view in grey levels of 255: below one; none where the picture is not that large."""
    coarse = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "x.jpg", quality=90)
    whole, part = (VIEW(load_picture(tmp_path / "x.jpg", side)).int() for side in (0, VIEW.resize))
    difference = (whole - part).abs()
    assert difference.float().mean() <= at_most and difference.max() <= 12
    assert load_picture(tmp_path / "x.jpg", VIEW.resize).size[0] >= 2 * VIEW.resize - 8
