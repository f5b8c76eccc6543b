"""SigLIP 2 and a model of open_clip's through the stages: keys, retrieval, evaluation, context, and as towers of a matcher."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from transformers import ByT5Tokenizer

from tests.builder import save_siglip
from tests.dual_builder import TIMM, save_open_clip, save_siglip2
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.identity import tokenizer_facts
from xvoken.errors import UserError
from xvoken.files import keys, vokens
from xvoken.pictures.decode import load_picture

LINES = ["a red circle", "", "blue square &amp; more", "the old tree " * 30]
FAST = ["--num-workers", 1, "--device", "cpu"]


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lines.txt").write_text("\n".join(LINES) + "\n")
    return tmp_path


@pytest.mark.parametrize(("load", "home", "views"), [("open_clip:models/open", "open", 1), ("models/two", "two", 2)])
def test_from_keys_to_context(load, home, views, world, at, script):
    save_open_clip(at / "models/open") if home == "open" else save_siglip2(at / "models/two")
    shared, cache = ["--image-sets", "shapes_valid", *world.roots], ["--cache", at / "cache"]
    script("vokenization.create_image_ids", *shared, "--ids-root", at / "ids")
    extract = ["--load", load, *shared, *FAST, *cache, "--ids-root", at / "ids", "--key-views", views]
    script("vokenization.extract_vision_keys", *extract)
    assert "skipped" in script("vokenization.extract_vision_keys", *extract)
    script("tokenization.tokenize_dataset", at, "lines.txt", load)
    again = ["--load", load, "--image-sets", "shapes_valid", "--corpus", at / "lines.txt", "--topk", 3, *FAST]
    assert "4 lines (1 empty, 1 cut to the tower's length)" in script("vokenization.vokenize_corpus_mp", *again)
    assert "12 captions, 6 images" in script("vokenization.evaluate_retrieval", "--load", load, *shared, *FAST)
    encoder = load_encoder(load, device="cpu")
    read = keys.read(keys.folder(Path("snap/xmatching") / home), "shapes_valid")
    np.testing.assert_allclose(read.keys, encoder.encode_images(read.paths, views=views), atol=3e-3)  # the cache holds 16 bits
    found = vokens.read(vokens.folder(Path("snap/xmatching") / home), "lines.txt", "shapes_valid")
    expected = np.sort(encoder.encode_texts(LINES) @ np.asarray(read.keys).T)[:, ::-1][:, :3]
    rows = [0, 2, 3]
    np.testing.assert_allclose(np.asarray(found.scores)[rows], expected[rows], atol=1e-4)
    describe(load, world.folder / "images", encoder, script)


def describe(load, images, encoder, script):
    """Context files of some pictures: before the projection in the one, what fits best in the other."""
    Path("phrases.txt").write_text("a red circle\nblue square\na green square\n")
    shared = ["--model", load, "--device", "cpu", "--num_workers", 1]
    script("ctx.encode_captions", *shared, "--captions", "phrases.txt")
    script("ctx.build_context", *shared, "--images", images, "--k", 2, "--limit", 3)
    with h5py.File("outputs/image_features/vis_ctx.hdf5") as vis, h5py.File("outputs/retrieved_captions/txt_ctx.hdf5") as txt:
        assert len(vis) == 3 and vis.attrs["fdim"] == encoder.image_width
        for name in vis:
            picture = images / f"{name}.png"
            features = encoder.image.features(encoder.image.view(load_picture(picture))[None])
            np.testing.assert_allclose(vis[name][:], features[0], rtol=1e-4, atol=1e-4)
            best = np.sort(encoder.encode_images([picture]) @ encoder.encode_texts(["a red circle", "blue square", "a green square"]).T)[0]
            np.testing.assert_allclose(txt[f"{name}/whole/scores"][:], best[::-1][:2], atol=1e-4)


def test_as_towers_of_a_matcher(world, at, script):
    save_open_clip(at / "open", vision_cfg=TIMM)
    towers = ["--lang", "open", "--visn", "open_clip:open", "--output", at / "snap", "--cache", at / "cache", "--epochs", 1]
    flags = [flag for flag in world.train_flags(at / "snap") if flag not in world.towers]
    script("xmatching.main", *flags, *towers)
    assert "skipped" in script("xmatching.main", *flags, *towers)
    encoder = load_encoder(at / "snap", device="cpu")
    assert encoder.tokenizer.name_or_path == str(at / "snap/tokenizer") and encoder.encode_texts(LINES).shape == (4, 16)
    script("tokenization.tokenize_dataset", at, "lines.txt", "open")
    assert tokenizer_facts("open").hash == tokenizer_facts(str(at / "snap/tokenizer")).hash
    for flag in ("--level token", "--lang-finetune", "--visn-finetune", "--lang-prompt a"):
        with pytest.raises(UserError, match=rf"{flag.split()[0]}[\w ]*: \S*open is a dual encoder"):
            script("xmatching.main", *flags, *towers, *flag.split(), "--output", at / "other")


def test_a_slow_tokenizer_of_a_dual_encoder(at, script):
    save_siglip(at / "slow")
    for path in (at / "slow").glob("tokenizer*"):
        path.unlink()
    ByT5Tokenizer().save_pretrained("slow")  # slow as SigLIP's own, which needs another library
    script("tokenization.tokenize_dataset", at, "lines.txt", "slow")
    with h5py.File("lines.txt.slow.hdf5") as file:
        assert file["tokens"][:12].tolist() == [byte + 3 for byte in b"a red circle"]
    with pytest.raises(UserError, match="does not say which characters of a line its tokens stand for, which --sentences asks for"):
        from tokenization.tokenize_dataset import TokenizeJob

        TokenizeJob(at / "lines.txt", [0], 10, "slow", 1, sentences="spacy").setup("cpu")
