"""The files' values against a computation that shares no code with ours: picture by picture, crop by crop, transformers only."""

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F
from transformers import AutoModel, AutoProcessor, AutoTokenizer

from tests import builder
from tests.running import run_script

K = 16


def same_features(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal to 1e-5 of the largest number."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module", params=["clip", "clip_eos2", "siglip"])
def built(request, tmp_path_factory):
    """(folder of the model, working folder with all three files)"""
    work = tmp_path_factory.mktemp(request.param)
    if request.param == "siglip":
        model = builder.save_siglip(work / "model")
    else:
        model = builder.save_clip(work / "model", eos=2 if request.param == "clip_eos2" else None)
    builder.save_pictures(work / "pictures")
    texts = [*builder.phrases(300), "red dog " * 60]  # the last one is longer than any text tower takes
    (work / "phrases.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    said = run_script("encode_captions", work, "--model", model, "--captions", "phrases.txt")
    assert "(1 cut to" in said
    run_script("build_context", work, "--model", model, "--images", "pictures", "--k", str(K))
    return model, work


def crops(picture: Image.Image) -> list[Image.Image]:
    """The predecessor's five and nine crops by torchvision; for a picture too small to cut, the picture itself."""
    w, h = picture.size
    if min(w, h) < 5:
        return [picture] * 15 if w == h == 1 else []
    five = list(F.five_crop(picture, (h * 0.6, w * 0.6)))
    spans = [[(0, int(0.4 * s)), (int(0.3 * s), int(0.7 * s)), (int((1 - 0.4) * s), s)] for s in (h, w)]
    nine = [picture.crop((x0, y0, x1, y1)) for y0, y1 in spans[0] for x0, x1 in spans[1]]
    return [picture, *five, *nine]


@torch.no_grad()
def reference_texts(model, tokenizer, texts):
    """Pooled output and normalized projection of each text, one at a time."""
    siglip = model.config.model_type == "siglip"
    most = model.config.text_config.max_position_embeddings
    features, keys = [], []
    for text in texts:
        inputs = tokenizer([text], padding="max_length" if siglip else False, truncation=True, max_length=most, return_tensors="pt")
        pooled = model.text_model(input_ids=inputs["input_ids"]).pooler_output
        key = pooled if siglip else model.text_projection(pooled)
        features.append(pooled[0])
        keys.append((key / key.norm(dim=-1, keepdim=True))[0])
    return torch.stack(features), torch.stack(keys)


@torch.no_grad()
def reference_image(model, processor, picture):
    pooled = model.vision_model(pixel_values=processor(images=[picture], return_tensors="pt")["pixel_values"]).pooler_output
    key = pooled if model.config.model_type == "siglip" else model.visual_projection(pooled)
    return pooled[0], (key / key.norm(dim=-1, keepdim=True))[0]


@pytest.mark.slow
def test_database_holds_what_the_text_tower_says(built):
    folder, work = built
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = list(dict.fromkeys(line.strip() for line in (work / "phrases.txt").read_text(encoding="utf-8").splitlines()))
    with h5py.File(work / "outputs/captions_db/caption_db.hdf5") as file:
        assert list(file) == [str(i) for i in range(len(file))]
        keys, features = (np.concatenate([file[f"{i}/{name}"][:] for i in range(len(file))]) for name in ("keys", "features"))
        captions = [str(x, "utf-8") for i in range(len(file)) for x in file[f"{i}/captions"][:]]
        assert keys.dtype == features.dtype == np.float32
    assert captions == texts
    expected_features, expected_keys = reference_texts(model, tokenizer, texts)
    same_features(features, expected_features)  # up to 14
    np.testing.assert_allclose(keys, expected_keys, atol=1e-4)


@pytest.mark.slow
def test_both_files_equal_the_reference_for_pictures_of_every_shape(built):
    folder, work = built
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder).image_processor
    texts = list(dict.fromkeys(line.strip() for line in (work / "phrases.txt").read_text(encoding="utf-8").splitlines()))
    text_features, text_keys = reference_texts(model, AutoTokenizer.from_pretrained(folder), texts)
    with (
        h5py.File(work / "outputs/image_features/vis_ctx.hdf5") as vis,
        h5py.File(work / "outputs/retrieved_captions/txt_ctx.hdf5") as txt,
    ):
        assert set(vis) == set(txt) == set(builder.SHAPES)
        assert vis.attrs["fdim"] == model.config.vision_config.hidden_size
        for name in builder.SHAPES:
            picture = Image.open(work / f"pictures/{name}.png").convert("RGB")
            same_features(vis[name][:], reference_image(model, processor, picture)[0])
            shapes = {"whole": (K,), "five": (5, K), "nine": (9, K)}
            found = {view: [txt[f"{name}/{view}/{part}"] for part in ("features", "scores", "texts")] for view in shapes}
            for view, shape in shapes.items():
                assert found[view][0].shape == (*shape, text_features.shape[1]) and found[view][0].dtype == np.float32
                assert found[view][1].shape == found[view][2].shape == shape and found[view][1].dtype == np.float32
            queries = [reference_image(model, processor, crop)[1] for crop in crops(picture)]
            if not queries:
                continue
            products = torch.stack(queries) @ text_keys.T
            scores = products.sort(dim=1, descending=True).values[:, :K]
            ours = np.concatenate([found[view][1][:].reshape(-1, K) for view in shapes])
            np.testing.assert_allclose(ours, scores, atol=1e-4)
            said = np.concatenate([found[view][2].asstr()[:].reshape(-1, K) for view in shapes])
            rows = torch.tensor([[texts.index(text) for text in line] for line in said.tolist()])
            # The same order, up to scores that differ by less than two ways to add up the same numbers do.
            np.testing.assert_allclose(products.gather(1, rows), scores, atol=2e-6)
            assert all(len(set(line)) == K for line in rows.tolist())
            features = np.concatenate([found[view][0][:].reshape(-1, K, text_features.shape[1]) for view in shapes])
            same_features(features, text_features[rows])
