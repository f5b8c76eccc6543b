"""SigLIP 2's NaFlex: pixels and vectors against transformers' own processor and model."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from tests.builder import blurred_noise
from tests.dual_builder import save_siglip2
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError

SENTENCES = ["a Red dog", "", "x" * 100, "Café"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_siglip2(tmp_path_factory.mktemp("siglip2") / "model")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    paths = []
    for width, height in ((160, 97), (61, 148), (96, 96), (1, 1), (300, 9), (9, 300)):
        paths.append(folder / f"{width}x{height}.png")
        blurred_noise(width, height, numbers).save(paths[-1])
    return paths


def test_vectors_are_the_librarys_own(model, photos):
    own, processor, tokenizer = (kind.from_pretrained(model) for kind in (AutoModel, AutoImageProcessor, AutoTokenizer))
    encoder = load_encoder(model, device="cpu")
    inputs = processor([Image.open(path) for path in photos], return_tensors="pt")
    with torch.no_grad():
        pictures = own.eval().get_image_features(**inputs).pooler_output
        ids = tokenizer(SENTENCES, padding="max_length", max_length=64, truncation=True, return_tensors="pt")["input_ids"]
        texts = own.get_text_features(input_ids=ids).pooler_output
    np.testing.assert_allclose(encoder.encode_images(photos), torch.nn.functional.normalize(pictures), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(SENTENCES), torch.nn.functional.normalize(texts), atol=1e-5)
    view = encoder.image.view
    packed = torch.stack([view(Image.open(path)) for path in photos])
    assert packed.dtype == torch.uint8 and torch.equal(view.grids(packed), inputs["spatial_shapes"])
    assert len(view.grids(packed).unique(dim=0)) >= 4
    assert torch.equal(view.patches(packed), inputs["pixel_values"])
    assert torch.equal(view.inside(packed), inputs["pixel_attention_mask"].bool())
    again = view.of_pixels(torch.from_numpy(np.array(Image.open(photos[0]))).permute(2, 0, 1)[None])
    assert torch.equal(again[0], packed[0])


def test_views_at_key_time(model, photos):
    encoder = load_encoder(model, ["image"], "cpu")
    one, four = encoder.encode_images(photos[:3]), encoder.encode_images(photos[:3], views=4)
    np.testing.assert_allclose(np.linalg.norm(four, axis=1), 1, atol=1e-5)
    assert abs(four[0] - one[0]).max() > 1e-3  # a long picture; of a square one all views are the same
    np.testing.assert_allclose(four[2], one[2], atol=1e-5)


def test_an_engine_that_holds_one_grid_is_found_out(model, photos):
    pytest.importorskip("openvino")
    from xvoken.machine import Pace

    plain, engine = load_encoder(model, ["image"], "cpu"), load_encoder(model, ["image"], "cpu", pace=Pace(engine="openvino"))
    np.testing.assert_allclose(engine.encode_images(photos), plain.encode_images(photos), atol=1e-4)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("preprocessor_config.json", {"patch_size": 4}, "does not go with its processor"),
        ("preprocessor_config.json", {"max_num_patches": 10**9}, "max_num_patches=1000000000"),
        ("preprocessor_config.json", {"patch_size": 1000}, "patch_size=1000"),
        ("preprocessor_config.json", {"resample": 77}, "resample=77"),
        ("config.json", {"vision_config": {"vision_use_head": False}}, "no pooling|can't be loaded"),
        ("tokenizer_config.json", {"padding_side": "left"}, '"padding_side": "right" into its tokenizer_config.json'),
    ],
)
def test_what_does_not_go_together_is_refused(model, tmp_path, file, change, said):
    (tmp_path / "model").mkdir()
    for path in model.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "model" / file
    config = json.loads(path.read_text())
    for key, value in change.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=said):
        load_encoder(tmp_path / "model", [], "cpu")


def test_a_model_that_sees_more_patches_is_another_one(model, tmp_path):
    shutil.copytree(model, tmp_path / "model")
    path = tmp_path / "model/preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_num_patches": 20}))
    assert load_encoder(tmp_path / "model", [], "cpu").hash != load_encoder(model, [], "cpu").hash
