"""One interface for both kinds of dual encoders: CLIP where a matcher was, a matcher where CLIP was."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from tests import ctx_fixtures as fixtures
from xvoken import keys, vokens
from xvoken.encoders import load_encoder
from xvoken.messages import UserError
from xvoken.pictures import load_picture


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_clip_retrieves_where_a_matcher_did(world, at, script):
    fixtures.save_clip(at / "models/tiny-clip")
    lines = ["a red circle", "", "blue square", "x " * 60]
    (at / "lines.txt").write_text("\n".join(lines) + "\n")
    shared = ["--image-sets", "shapes_valid", "--ids-root", at / "ids", *world.roots]
    fast = ["--num-workers", 1, "--precision", "fp32", "--device", "cpu"]
    script("vokenization.create_image_ids", *shared)
    script("vokenization.extract_vision_keys", "--load-dir", "models/tiny-clip", *shared, *fast, "--cache", at / "cache")
    script("tokenization.tokenize_dataset", at, "lines.txt", "models/tiny-clip")
    again = ["--load", "models/tiny-clip", "--image-sets", "shapes_valid", "--corpus", at / "lines.txt", "--topk", 3, *fast]
    with pytest.raises(UserError, match="--load-dir models/tiny-clip --image-sets other"):
        script("vokenization.vokenize_corpus_mp", *again, "--image-sets", "other")
    assert "4 lines (1 empty, 1 cut to the tower's length)" in script("vokenization.vokenize_corpus_mp", *again)
    home = Path("snap/xmatching/tiny-clip")
    read = keys.read(keys.folder(home), "shapes_valid")
    model, processor = CLIPModel.from_pretrained("models/tiny-clip").eval(), CLIPImageProcessor.from_pretrained("models/tiny-clip")
    with torch.no_grad():
        for row, path in enumerate(read.paths):
            inputs = processor(images=[load_picture(Path(path))], return_tensors="pt")["pixel_values"]
            out = model.visual_projection(model.vision_model(pixel_values=inputs).pooler_output)[0]
            np.testing.assert_allclose(read.keys[row], out / out.norm(), atol=2e-3)  # the cache holds 16 bits
        tokenizer = AutoTokenizer.from_pretrained("models/tiny-clip")
        indices, scores, _ = vokens.read(vokens.folder(home), "lines.txt", "shapes_valid")
        for number, line in enumerate(lines):
            if not line:
                assert (indices[number] == -1).all()
                continue
            ids = tokenizer([line], truncation=True, max_length=40, return_tensors="pt")["input_ids"]
            out = model.text_projection(model.text_model(input_ids=ids).pooler_output)[0]
            expected = torch.from_numpy(read.keys) @ (out / out.norm())
            np.testing.assert_allclose(scores[number], expected.sort(descending=True).values[:3], atol=1e-4)
            np.testing.assert_allclose(expected[indices[number].astype(int)], scores[number], atol=1e-4)


def test_clip_is_evaluated_as_a_matcher_is(world, at, script):
    fixtures.save_clip(at / "tiny-clip")
    shared = ["--image-sets", "shapes_valid", *world.roots]
    fast = ["--num-workers", 1, "--device", "cpu", "--cache", at / "cache"]
    script("vokenization.create_image_ids", *shared, "--ids-root", at / "ids")
    script("vokenization.extract_vision_keys", "--load", "tiny-clip", *shared, *fast, "--ids-root", at / "ids")
    assert "12 captions, 6 images" in script("vokenization.evaluate_retrieval", "--load", "tiny-clip", *shared, *fast)


def test_clip_without_a_tokenizer_is_refused(at):
    fixtures.save_clip(at / "tiny-clip")
    for path in (at / "tiny-clip").glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="tokenizer tiny-clip: no words in it"):
        load_encoder("tiny-clip")


def test_a_matcher_describes_pictures(world, matcher, at, script):
    (at / "phrases.txt").write_text("a red circle\nblue square\na green square\n")
    shared = ["--model", matcher, "--device", "cpu", "--num_workers", 1]
    script("ctx.encode_captions", *shared, "--captions", "phrases.txt")
    script("ctx.build_context", *shared, "--images", world.folder / "images", "--k", 2, "--limit", 4)
    encoder = load_encoder(str(matcher), text=True, image=True)
    with (
        h5py.File("outputs/image_features/vis_ctx.hdf5") as vis,
        h5py.File("outputs/retrieved_captions/txt_ctx.hdf5") as txt,
        h5py.File("outputs/captions_db/caption_db.hdf5") as db,
        torch.inference_mode(),
    ):
        assert len(vis) == 4 and vis.attrs["fdim"] == 512 and vis.attrs["model_hash"] == encoder.hash
        for name in vis:
            tower, picture = encoder.image_tower, load_picture(world.folder / f"images/{name}.png")
            pooled = tower(tower.view(picture)[None])
            np.testing.assert_allclose(vis[name][:], pooled[0], atol=1e-4)
            best = (encoder.image_head(pooled) @ torch.from_numpy(db["0/keys"][:]).T)[0].sort(descending=True)
            np.testing.assert_allclose(txt[f"{name}/whole/scores"][:], best.values[:2], atol=1e-4)
            phrases = db["0/captions"].asstr()[:]
            assert txt[f"{name}/whole/texts"].asstr()[:].tolist() == [phrases[i] for i in best.indices[:2]]


def test_what_lies_at_the_path_decides(at):
    (at / "bert").mkdir()
    (at / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="a model of type bert; dual encoders known here: clip"):
        load_encoder("bert")
    fixtures.save_clip(at / "clip")
    (at / "clip/model.safetensors").unlink()
    with pytest.raises(UserError, match="it needs config.json, model.safetensors"):
        load_encoder("clip")
    (at / "clip/pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match="only safetensors are read; convert its pytorch_model.bin once"):
        load_encoder("clip")
    with pytest.raises(UserError, match="where the hub is reached, fetch it: hf download openai/clip-vit-base-patch32"):
        load_encoder("openai/clip-vit-base-patch32")
    with pytest.raises(UserError, match="no snapshot at snap/xmatching/none"):
        load_encoder("snap/xmatching/none")
