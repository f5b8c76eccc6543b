"""One interface for both kinds of dual encoders: CLIP where a matcher was, a matcher where CLIP was."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, SiglipModel

from tests import builder
from xvoken.cache.texts import text_features
from xvoken.encoders.encoder import load_encoder
from xvoken.errors import UserError
from xvoken.files import keys, vokens
from xvoken.machine import IMAGE_BATCH, Compute
from xvoken.pictures.decode import load_picture


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_clip_retrieves_where_a_matcher_did(world, at, script):
    builder.save_clip(at / "models/tiny-clip")
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
        read_back = vokens.read(vokens.folder(home), "lines.txt", "shapes_valid")
        indices, scores = read_back.indices, read_back.scores
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
    builder.save_clip(at / "tiny-clip")
    shared = ["--image-sets", "shapes_valid", *world.roots]
    fast, cache = ["--num-workers", 1, "--device", "cpu"], ["--cache", at / "cache"]
    script("vokenization.create_image_ids", *shared, "--ids-root", at / "ids")
    script("vokenization.extract_vision_keys", "--load", "tiny-clip", *shared, *fast, *cache, "--ids-root", at / "ids")
    assert "12 captions, 6 images" in script("vokenization.evaluate_retrieval", "--load", "tiny-clip", *shared, *fast)


def test_siglip_is_evaluated_with_the_padding_that_it_was_trained_with(world, at, script):
    """Against transformers' own way: every text padded to the model's length, its padding looked at."""
    model = SiglipModel.from_pretrained(builder.save_siglip(at / "siglip")).eval()
    tokenizer = AutoTokenizer.from_pretrained("siglip")
    colours = ["red", "blue", "green", "black"]
    shared = ["--image-sets", "shapes_valid", *world.roots]
    fast, cache = ["--num-workers", 1, "--device", "cpu", "--precision", "fp32"], ["--cache", at / "cache"]
    script("vokenization.create_image_ids", *shared, "--ids-root", at / "ids")
    script("vokenization.extract_vision_keys", "--load", "siglip", *shared, *fast, *cache, "--ids-root", at / "ids")
    assert "12 captions, 6 images" in script("vokenization.evaluate_retrieval", "--load", "siglip", *shared, *fast)
    encoder = load_encoder("siglip", ["text"], "cpu")
    sentences = ["a red dog", *colours, "a big old car near the house and a tree under the blue sky with the cat"]
    compute = Compute(cache=at / "cache")
    found = text_features(encoder.text_spec, encoder.text.tower, encoder.tokenizer, sentences, encoder.max_len, compute, "x")
    inputs = tokenizer(sentences, padding="max_length", truncation=True, max_length=12, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        np.testing.assert_allclose(found.rows, model.text_model(input_ids=inputs).pooler_output, rtol=2e-3, atol=2e-3)


def test_a_resnet_is_the_same_in_bf16_for_keys_and_for_context(world, matcher, at, script):
    shared = ["--image-sets", "shapes_valid", *world.roots, "--ids-root", at / "ids"]
    script("vokenization.create_image_ids", *shared)
    fast = ["--num-workers", 1, "--device", "cpu", "--precision", "bf16", "--cache", at / "cache", "--output", at / "keys"]
    script("vokenization.extract_vision_keys", "--load", matcher, *shared, *fast)
    again = ["--device", "cpu", "--num_workers", 1, "--precision", "bf16", "--batch_size", IMAGE_BATCH]
    script("ctx.encode_images", "--model", matcher, "--images", world.folder / "images", *again)
    ids = (at / "ids/shapes_valid.ids").read_text().split()
    rows = np.load(next((at / "cache").glob("shapes_valid-*.npy")))
    with h5py.File("outputs/image_features/vis_ctx.hdf5") as vis:
        for name, row in zip(ids, rows, strict=True):
            np.testing.assert_allclose(vis[name][:], row, rtol=1e-3, atol=1e-3)


def test_a_matcher_cuts_phrases_where_it_cuts_lines(world, at, script):
    """At the tower's length; the length of training's captions is only that of recall, which is measured as in training."""
    script("xmatching.main", *world.train_flags(at / "m", "--max-len", 5, "--epochs", 1))
    long = ["a red circle and a blue square", "a red circle and a green square"]  # alike in their first three tokens
    (at / "phrases.txt").write_text("\n".join(long) + "\n")
    flags = ["--model", at / "m", "--device", "cpu", "--num_workers", 1, "--captions", "phrases.txt"]
    assert "(0 cut to the tower's length)" in script("ctx.encode_captions", *flags)
    with h5py.File("outputs/captions_db/caption_db.hdf5", "r+") as db:
        assert abs(db["0/features"][0] - db["0/features"][1]).max() > 1e-3
        settings = json.loads(db.attrs["settings"])
        settings.pop("cut")  # as files of earlier versions
        db.attrs["settings"] = json.dumps(settings)
    again = script("ctx.encode_captions", *flags)
    assert "skipped" in again and "was made by a version that cut phrases at 5 tokens" in again


def test_a_text_without_a_vector_ends_retrieval_and_evaluation(world, at, script):
    """Its score would stand above all others, or nowhere."""
    tensors = load_file(builder.save_clip(at / "clip") / "model.safetensors")
    tensors["text_model.final_layer_norm.weight"][3] = torch.inf
    save_file(tensors, at / "clip/model.safetensors", {"format": "pt"})
    (at / "lines.txt").write_text("\na red circle\nblue square\n")
    shared = ["--image-sets", "shapes_valid", *world.roots]
    fast = ["--num-workers", 1, "--device", "cpu"]
    script("vokenization.create_image_ids", *shared, "--ids-root", at / "ids")
    script("vokenization.extract_vision_keys", "--load", "clip", *shared, *fast, "--ids-root", at / "ids", "--cache", at / "cache")
    script("tokenization.tokenize_dataset", at, "lines.txt", "clip")
    output = "is not finite; leave it out, or take --precision fp32, after: rm -r"
    with pytest.raises(UserError, match=f"lines.txt: line 2: the model's output for it and of 1 more {output}"):
        again = ["--image-sets", "shapes_valid", *fast, "--corpus", at / "lines.txt", "--precision", "bf16", "--topk", 2]
        script("vokenization.vokenize_corpus_mp", "--load", "clip", *again)
    with pytest.raises(UserError, match='text "a .*": the model\'s output for it and of 11 more is not finite; leave it out$'):
        script("vokenization.evaluate_retrieval", "--load", "clip", *shared, *fast, "--precision", "fp32")


def test_clip_without_a_tokenizer_is_refused(at):
    builder.save_clip(at / "tiny-clip")
    for path in (at / "tiny-clip").glob("*token*"):
        path.unlink()
    with pytest.raises(UserError, match="tokenizer tiny-clip: no words in it"):
        load_encoder("tiny-clip", [], "cpu")


def test_a_matcher_describes_pictures(world, matcher, at, script):
    (at / "phrases.txt").write_text("a red circle\nblue square\na green square\n")
    shared = ["--model", matcher, "--device", "cpu", "--num_workers", 1]
    script("ctx.encode_captions", *shared, "--captions", "phrases.txt")
    script("ctx.build_context", *shared, "--images", world.folder / "images", "--k", 2, "--limit", 4)
    encoder = load_encoder(str(matcher), ["text", "image"], "cpu")
    with (
        h5py.File("outputs/image_features/vis_ctx.hdf5") as vis,
        h5py.File("outputs/retrieved_captions/txt_ctx.hdf5") as txt,
        h5py.File("outputs/captions_db/caption_db.hdf5") as db,
        torch.inference_mode(),
    ):
        assert len(vis) == 4 and vis.attrs["fdim"] == 512 and vis.attrs["model_hash"] == encoder.hash
        for name in vis:
            tower, picture = encoder.image.tower, load_picture(world.folder / f"images/{name}.png")
            pooled = tower(tower.view(picture)[None])
            np.testing.assert_allclose(vis[name][:], pooled[0], atol=1e-4)
            best = (encoder.image_head(pooled) @ torch.from_numpy(db["0/keys"][:]).T)[0].sort(descending=True)
            np.testing.assert_allclose(txt[f"{name}/whole/scores"][:], best.values[:2], atol=1e-4)
            phrases = db["0/captions"].asstr()[:]
            assert txt[f"{name}/whole/texts"].asstr()[:].tolist() == [phrases[i] for i in best.indices[:2]]


def test_what_lies_at_the_path_decides(at):
    (at / "bert").mkdir()
    (at / "bert/config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="its type is bert; the dual encoders that can be loaded: clip"):
        load_encoder("bert", [], "cpu")
    builder.save_clip(at / "clip")
    (at / "clip/model.safetensors").unlink()
    with pytest.raises(UserError, match="its folder needs config.json, model.safetensors"):
        load_encoder("clip", [], "cpu")
    (at / "clip/pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(UserError, match="only safetensors are read; convert its pytorch_model.bin once"):
        load_encoder("clip", [], "cpu")
    with pytest.raises(UserError, match="on a machine that reaches the hub, fetch it: hf download openai/clip-vit-base-patch32"):
        load_encoder("openai/clip-vit-base-patch32", [], "cpu")
    with pytest.raises(UserError, match="no snapshot at snap/xmatching/none"):
        load_encoder("snap/xmatching/none", [], "cpu")
