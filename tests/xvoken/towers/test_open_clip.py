"""open_clip's models: vectors, pixels and tokens against the library's own, and what of a stranger's folder is refused."""

import json
import pickle
import time
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.builder import blurred_noise
from tests.dual_builder import (
    BERT_TEXT,
    COCA,
    RESNET,
    SIGLIP_TEXT,
    TEXT,
    TIMM,
    VISION,
    open_config,
    save_bert_config,
    save_open_clip,
)
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.compiled import Compiled
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.identity import identify, tokenizer_facts
from xvoken.errors import UserError
from xvoken.kinds import base_name
from xvoken.machine import Pace
from xvoken.pictures.decode import load_picture
from xvoken.pictures.open_view import open_clip_view
from xvoken.towers.hashes import weights_hash
from xvoken.towers.open_clip import OpenTextTower
from xvoken.towers.sources import image_kind, kind_of, text_files, text_kind
from xvoken.towers.tokenizer import load_tokenizer, special_ids, token_lists, tokenizer_hash, vocabulary_size

SENTENCES = ["a red Dog &amp; the car", "on  THE <b>tree</b>, dont_ask!", "", "the old blue house near a small cat " * 9, "café"]
KINDS = {
    "vit": {"quick_gelu": True},
    "resnet": {"vision_cfg": RESNET, "init_logit_bias": -10},
    "siglip": {"vision_cfg": TIMM, "text_cfg": SIGLIP_TEXT, "custom_text": True, "init_logit_bias": -10, "nonscalar_logit_scale": True},
    "bert": {"text_cfg": BERT_TEXT},
    "coca": COCA,
}
PREPROCESS = {
    "vit": {},
    "resnet": {"interpolation": "bilinear", "mean": [0, 0, 0], "std": [1, 1, 1]},
    "siglip": {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3},
    "bert": {"resize_mode": "longest", "fill_color": 127},
    "coca": {"interpolation": "random"},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    sizes = [(160, 97), (61, 148), (96, 96), (20, 9), (301, 33)]
    pictures = [blurred_noise(*size, numbers) for size in sizes]
    paths = [folder / f"{number}.png" for number in range(len(pictures))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    return paths


@pytest.fixture
def at(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_the_librarys_own(kind, at, photos):
    save_bert_config(at / "tiny-bert")
    save_open_clip(at / "model", PREPROCESS[kind], **KINDS[kind])
    model, _, preprocess = open_clip.create_model_and_transforms("local-dir:model")
    model, tokenizer = model.eval(), open_clip.get_tokenizer("local-dir:model")
    with torch.no_grad():
        texts = model.encode_text(tokenizer(SENTENCES), normalize=True)
        pictures = model.encode_image(torch.stack([preprocess(Image.open(path)) for path in photos]), normalize=True)
    encoder = load_encoder("model", device="cpu")
    assert encoder.dim == 24 and encoder.max_tokens == tokenizer.context_length
    np.testing.assert_allclose(encoder.encode_texts(SENTENCES), texts, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(photos), pictures, atol=1e-5)
    assert abs(encoder.encode_texts(SENTENCES[:2]) @ encoder.encode_texts(SENTENCES[:2]).T)[0, 1] < 0.999
    rounded = load_encoder("model", device="cpu", precision="bf16")
    ids, pixels = torch.randint(5, 60, (3, encoder.max_tokens)), torch.stack([encoder.image.view(load_picture(path)) for path in photos])
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rounded.image.tower(pixels), encoder.image.tower(pixels))
        assert torch.equal(rounded.text.tower(ids, ids > 0), encoder.text.tower(ids, ids > 0))
    assert encoder.text.padding.fixed == (kind in ("siglip", "coca"))
    # Before a plain projection, where a tower ends in one.
    widths = {"vit": (32, 48), "resnet": (32, 24), "siglip": (24, 24), "bert": (24, 48), "coca": (32, 24)}
    assert (encoder.text.width, encoder.image_width) == widths[kind]


@pytest.mark.parametrize(
    "said",
    [
        {"size": 32}, {"size": 32, "interpolation": "bilinear"}, {"size": (32, 20)}, {"size": (20, 32), "interpolation": "bilinear"},
        {"size": 32, "resize_mode": "squash"}, {"size": (24, 32), "resize_mode": "squash"}, {"size": 32, "resize_mode": "longest"},
        {"size": (24, 32), "resize_mode": "longest", "fill_color": 200, "interpolation": "bilinear"},
    ],
)  # fmt: skip
def test_pixels_are_the_librarys_own(said, photos):
    cfg = PreprocessCfg(**said)
    theirs, view = image_transform_v2(cfg, is_train=False), open_clip_view(vars(cfg), "x")
    for path in photos:
        picture = load_picture(path)
        own, expected = view(picture), theirs(picture)
        assert own.dtype == torch.uint8
        torch.testing.assert_close(view.normalize(own[None])[0], expected, atol=1e-6, rtol=0)
        decoded = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        assert (view.of_pixels(decoded)[0].int() - own.int()).abs().max() <= 2  # Pillow rounds between its two passes
        assert view.cropped(picture, (0, 0, 9, 9)).shape == own.shape
        assert view.squeezed(picture).shape == view.squeezed_of_pixels(decoded)[0].shape == own.shape


def test_a_long_picture_is_seen_without_much_memory():
    view = open_clip_view(vars(PreprocessCfg(32)), "x")
    assert view(Image.new("RGB", (1, 20_000), "red")).unique().tolist() == [0, 255]


@pytest.mark.parametrize(
    "wrong",
    [{"size": 10**9}, {"size": "32"}, {"size": [32]}, {"mean": [0.5]}, {"mean": ["a"] * 3}, {"std": [0, 1, 1]}, {"std": float("nan")},
     {"interpolation": "lanczos"}, {"resize_mode": []}, {"fill_color": 300}, {"mode": "L"}],
)  # fmt: skip
def test_settings_that_no_picture_can_be_made_with(wrong):
    with pytest.raises(UserError, match=f"preprocess_cfg has what pictures can't be made with: {next(iter(wrong))}="):
        open_clip_view({**vars(PreprocessCfg(32)), **wrong}, "x")


def test_a_tokenizer_needs_no_weights():
    own = load_tokenizer("open_clip:ViT-B-32")
    for name in ("open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:ViT-B-32-quickgelu/openai"):
        assert tokenizer_facts(name).hash == tokenizer_hash(own) == tokenizer_facts("open_clip:RN50").hash
    assert base_name(name) == "ViT-B-32-quickgelu-openai" and base_name("open_clip:hf-hub:some/model") == "model"
    assert vocabulary_size(own) == 49408 and special_ids(own) == ((49406,), (49407,))
    whole = open_clip.get_tokenizer("ViT-B-32")(SENTENCES)
    for ids, row in zip(own(SENTENCES)["input_ids"], whole.tolist(), strict=True):
        assert ids[:76] == row[: min(len(ids), 76)] and not any(row[len(ids) :])
    assert token_lists(own, SENTENCES) == [ids[1:-1] for ids in own(SENTENCES)["input_ids"]]
    assert "<start_of_text>" in own.all_special_tokens and own("a")["input_ids"] == own(["a"])["input_ids"][0]


@pytest.mark.parametrize("text", [TEXT, SIGLIP_TEXT, BERT_TEXT], ids=["simple", "canonicalize", "strip_sep"])
def test_a_tokenizer_is_kept_and_sent(text, at):
    save_bert_config(at / "tiny-bert")
    save_open_clip(at / "model", text_cfg=text)
    own = load_tokenizer("model")
    longest, sentences = text["context_length"], [*SENTENCES[:1], *SENTENCES[2:3], "the_tree"]
    padded = [ids + [own.pad_token_id] * (longest - len(ids)) for ids in own(sentences)["input_ids"]]
    assert open_clip.get_tokenizer("local-dir:model")(sentences).tolist() == padded
    snapshots.write_tokenizer(at / "snap", own)
    assert snapshots.has_tokenizer(at / "snap")
    for again in (load_tokenizer("snap/tokenizer"), pickle.loads(pickle.dumps(own))):
        assert tokenizer_hash(again) == tokenizer_hash(own) and again(SENTENCES) == own(SENTENCES) and again.settings == own.settings


@pytest.mark.parametrize(
    "change",
    [{"format": "other"}, {"trust_remote_code": True}, {"bpe_path": "/etc/passwd"}, {"context_length": "9"}, {"clean": 1}, {"clean": "x"}],
)
def test_a_kept_tokenizer_that_a_stranger_wrote(change, at):
    said = {"format": "xvoken-open_clip-tokenizer-1", "transformers": False, "context_length": 77}
    (at / "open_clip_tokenizer.json").write_text(json.dumps(said))
    assert load_tokenizer(str(at))("a")["input_ids"] == [49406, 320, 49407]
    (at / "open_clip_tokenizer.json").write_text(json.dumps({**said, **change}))
    with pytest.raises(UserError, match="not a tokenizer of open_clip's as xvoken writes it|Invalid clean function"):
        load_tokenizer(str(at))


def test_words_are_forgotten_before_they_fill_the_memory(monkeypatch):
    own = load_tokenizer("open_clip:ViT-B-32")
    before = own(SENTENCES)
    monkeypatch.setattr("xvoken.towers.open_tokenizer.WORDS", 3)
    assert own(SENTENCES) == before and own(["<start_of_text> dog"]) and len(own.own.cache) < 10


def test_names(at):
    save_open_clip(at / "model")
    for name in ("model", "open_clip:model"):
        assert (kind_of(name), image_kind(name), text_kind(name)) == ("open_clip", "dual", "dual")
        assert text_files(name)[1:] == [at / "model"]
        assert identify(name).home == Path("snap/xmatching/model")
    assert (kind_of("open_clip:RN50"), image_kind("open_clip:RN50"), kind_of("RN50")) == ("open_clip", "dual", "matcher")
    (at / "model/config.json").write_text('{"architecture": "resnet"}')  # as timm's repositories have
    assert kind_of("model") == "open_clip"
    (at / "model/config.json").write_text('{"model_type": "clip"}')  # as LAION's repositories have: transformers takes them, as ever
    assert (kind_of("model"), kind_of("open_clip:model")) == ("clip", "open_clip")


@pytest.fixture
def built_in(at, monkeypatch):
    """A small model in open_clip's tables, with weights by the tag `mine` in the hub's cache and in the file mine.safetensors."""
    model = save_open_clip(at / "tiny-folder", {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3})
    (at / "package/model_configs").mkdir(parents=True)
    (at / "package/version.py").touch()
    (at / "package/model_configs/tiny.json").write_text(json.dumps(open_config()))
    monkeypatch.setattr("xvoken.towers.open_names.package", lambda: at / "package")
    monkeypatch.setattr("xvoken.towers.open_clip.package", lambda: at / "package")
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", open_config())
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", {"mine": open_clip.pretrained._slpcfg(hf_hub="some/tiny/")})
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(at / "hub"))
    revision = at / "hub/models--some--tiny/snapshots/abc"
    revision.mkdir(parents=True)
    (at / "hub/models--some--tiny/refs").mkdir()
    (at / "hub/models--some--tiny/refs/main").write_text("abc")
    for path in (at / "tiny-folder/open_clip_model.safetensors", at / "tiny-folder/open_clip_config.json"):
        (revision / path.name).write_bytes(path.read_bytes())
    (at / "mine.safetensors").write_bytes(path.with_name("open_clip_model.safetensors").read_bytes())
    return model


def test_a_built_in_model_by_tag_by_file_and_from_the_hub(built_in, at, photos):
    by_folder = load_encoder("tiny-folder", device="cpu")
    for name in ("open_clip:tiny/mine", "open_clip:hf-hub:some/tiny"):
        by_tag = load_encoder(name, device="cpu")
        np.testing.assert_array_equal(by_tag.encode_images(photos), by_folder.encode_images(photos))  # the tag says how to see
        assert by_tag.hash == by_folder.hash and {at / "hub/models--some--tiny" / part for part in ("refs/main", "snapshots/abc")} < {
            *by_tag.files
        }
    by_file = load_encoder(f"open_clip:tiny/{at}/mine.safetensors", device="cpu")
    assert by_file.name == "tiny-mine.safetensors" and by_tag.name == "tiny"
    assert by_file.hash == load_encoder("open_clip:tiny/mine.safetensors", [], "cpu").hash != by_tag.hash  # it sees otherwise
    assert abs(by_file.encode_images(photos) - by_folder.encode_images(photos)).max() > 1e-3  # a file says nothing of it: open_clip's usual
    with pytest.raises(UserError, match="weights of open_clip's are read from .safetensors"):
        load_encoder("open_clip:tiny/tiny-folder/open_clip_config.json", [], "cpu")


@pytest.mark.parametrize("name", ["open_clip:tiny/mine", "open_clip:tiny/mine.safetensors", "open_clip:hf-hub:some/tiny", "tiny-folder"])
def test_what_is_known_of_a_model_is_kept(name, built_in, at, monkeypatch):
    time.sleep(0.02)  # files of this instant could still change without a trace
    found, tokens = identify(name), tokenizer_facts(name)
    with monkeypatch.context() as gone:
        for loader in ("encoders.encoder.load_encoder", "towers.tokenizer.load_tokenizer", "towers.open_names._fetched"):
            gone.setattr(f"xvoken.{loader}", None)
        assert (identify(name), tokenizer_facts(name)) == (found, tokens)
    for path in (*(at / "hub").rglob("*.safetensors"), at / "mine.safetensors", at / "tiny-folder/open_clip_model.safetensors"):
        tensors = load_file(path)
        save_file({**tensors, "logit_scale": tensors["logit_scale"] + 1}, path)
    assert identify(name).hash != found.hash


def test_safetensors_are_taken_where_there_is_a_choice(at, photos):
    model = save_open_clip(at / "model")
    before = load_encoder("model", device="cpu").hash
    (at / "model/open_clip_pytorch_model.bin").write_bytes(b"pickled")
    (at / "model/training.bin").write_bytes(b"pickled")
    assert load_encoder("model", [], "cpu").hash == before
    (at / "model/open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model model: can't be loaded from model/open_clip_pytorch_model.bin"):
        load_encoder("model", [], "cpu")
    torch.save(
        {"state_dict": {f"module.{name}": tensor for name, tensor in model.state_dict().items()}}, "model/open_clip_pytorch_model.bin"
    )
    assert load_encoder("model", [], "cpu").hash == before  # as a training of open_clip's writes it
    torch.save({"state_dict": Path("x"), "large": torch.zeros(10**6)}, "model/open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="can't be loaded .*Weights only load failed"):
        load_encoder("model", [], "cpu")
    (at / "model/open_clip_pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="model model: no file of weights in it"):
        load_encoder("model", [], "cpu")


@pytest.mark.parametrize("change", [{"model_cfg": open_config(quick_gelu=True)}, {"preprocess_cfg": {"resize_mode": "squash"}}])
def test_an_edited_config_is_another_model(change, at):
    save_open_clip(at / "model")
    before, path = load_encoder("model", ["image"], "cpu"), at / "model/open_clip_config.json"
    assert weights_hash(before.image.tower) == weights_hash(load_encoder("model", ["image"], "cpu").image.tower)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    after = load_encoder("model", ["image"], "cpu")
    assert after.hash != before.hash and weights_hash(after.image.tower) != weights_hash(before.image.tower)


def test_weights_that_lack_something_are_refused(at):
    save_open_clip(at / "model")
    path = at / "model/open_clip_model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "visual.proj"}, path)
    with pytest.raises(UserError, match=r"can't be loaded from .*visual.proj.* is it the model's own file\?"):
        load_encoder("model", [], "cpu")


STRANGE = {
    "layers": {"vision_cfg": {**VISION, "layers": 10**9}},
    "context_length": {"text_cfg": {**TEXT, "context_length": 10**6}},
    "mlp_ratio: nan": {"vision_cfg": {**VISION, "mlp_ratio": float("nan")}},
    "can hold": {"vision_cfg": {**VISION, "width": 48 * 1024}},
    "for //: 'str'": {"vision_cfg": {**VISION, "width": "48"}},
    "are to be objects": {"text_cfg": "none"},
    "unexpected keyword": {"other": 1},
    "got str": {"embed_dim": "24"},
    "size mismatch": {"embed_dim": 8},
    "hf_model_name": {"text_cfg": {**BERT_TEXT, "hf_model_name": "../../etc"}},
    "hf_tokenizer_name": {"text_cfg": {**TEXT, "hf_tokenizer_name": "/etc"}},
    "timm_model_name": {"vision_cfg": {**TIMM, "timm_model_name": "local-dir:/etc"}},
    "tokenizer_kwargs: trust_remote_code=True": {"text_cfg": {**SIGLIP_TEXT, "tokenizer_kwargs": {"trust_remote_code": True}}},
    "bpe_path": {"text_cfg": {**TEXT, "tokenizer_kwargs": {"bpe_path": "/etc/passwd"}}},
    "tokenizer_mode": {"text_cfg": {**SIGLIP_TEXT, "tokenizer_mode": "clips"}},
    "Invalid clean function": {"text_cfg": {**TEXT, "tokenizer_kwargs": {"clean": "other"}}},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "model"
    save_open_clip(folder)
    return folder


@pytest.mark.parametrize("said", STRANGE)
def test_a_strangers_config(said, plain):
    (plain / "open_clip_config.json").write_text(json.dumps({"model_cfg": open_config(**STRANGE[said]), "preprocess_cfg": {}}))
    with pytest.raises(UserError, match=said) as caught:
        load_encoder(plain, [], "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "{}", "{", "[" * 100_000, '{"model_cfg": []}', '{"model_cfg": {"vision_cfg": {}}}', "\xff"])
def test_a_file_that_is_no_config(text, plain):
    (plain / "open_clip_config.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"open_clip_config.json is not a config of open_clip"):
        load_encoder(plain, [], "cpu")


def test_a_tower_that_knows_too_few_words(at):
    save_open_clip(at / "model", text_cfg={**TEXT, "vocab_size": 1000})
    with pytest.raises(UserError, match=r"its text tower knows 1000 tokens, fewer than its tokenizer has \(49408\)"):
        load_encoder("model", [], "cpu")


@pytest.mark.parametrize("side", ["vision", "text"])
def test_a_tower_without_pooling(side, at, photos):
    save_open_clip(at / "model", **{f"{side}_cfg": {**(VISION if side == "vision" else TEXT), "pool_type": "none"}})
    encoder = load_encoder("model", device="cpu")
    with pytest.raises(UserError, match="model model: a tower of it gives no vector, but .* its config has no pooling"):
        encoder.encode_images(photos[:2]) if side == "vision" else encoder.encode_texts(SENTENCES)


def test_code_of_a_text_tower_never_runs(at):
    save_bert_config(at / "tiny-bert")
    save_open_clip(at / "model", text_cfg=BERT_TEXT)
    path = at / "tiny-bert/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoModel": "payload.Model"}}))
    with pytest.raises(UserError, match="its text tower tiny-bert needs Python code of its own"):
        load_encoder("model", [], "cpu")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("open_clip:ViT-B-32", r"weights is neither a tag .* nor a file; open_clip:ViT-B-32/TAG with one of: .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/laion", r"laion is neither a tag of ViT-B-32 nor a file; .*laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/openai", r"trained with QuickGELU, which ViT-B-32 has not; take open_clip:ViT-B-32-quickgelu/openai$"),
        ("open_clip:ViT-B-31/openai", r"open_clip knows no model 'ViT-B-31'; among those it knows: ViT-B-16"),
        ("open_clip:../../x/y", r"open_clip knows no model '..'"),
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", r"can't be had from the hub .* laion/CLIP-ViT-B-32-laion2B-s34B-b79K --local-dir"),
        ("open_clip:hf-hub:some/model", r"can't be had from the hub .* some/model --local-dir models/model; then give .*:models/model$"),
        ("open_clip:hf-hub:../etc", r"can't be had from the hub"),
    ],
)  # fmt: skip
def test_names_that_mean_nothing_here(name, said, at):
    with pytest.raises(UserError, match=said) as caught:
        load_encoder(name, [], "cpu")
    assert "\n" not in str(caught.value)


def test_without_open_clip(at, monkeypatch):
    save_open_clip(at / "model")
    find = __import__("importlib").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == "open_clip" else find(name, *more))
    for load in (lambda: load_encoder("model", [], "cpu"), lambda: load_tokenizer("open_clip:ViT-B-32")):
        with pytest.raises(UserError, match=r"open_clip_torch, which is missing; pip install -e '.\[open_clip\]' -c constraints.txt$"):
            load()


def test_an_engine_computes_the_same(at, photos):
    pytest.importorskip("openvino")
    save_open_clip(at / "model")
    plain, engine = load_encoder("model", device="cpu"), load_encoder("model", device="cpu", pace=Pace(engine="openvino"))
    np.testing.assert_allclose(engine.encode_texts(SENTENCES), plain.encode_texts(SENTENCES), atol=1e-5)
    np.testing.assert_allclose(engine.encode_images(photos), plain.encode_images(photos), atol=1e-5)
    assert {type(run) for tower in (engine.text, engine.image) for run in tower.run.compiled.values()} == {Compiled}


def test_a_short_input_is_what_a_padded_one_is(at):
    """As the library pads all to one length, and the causal tower is given less."""
    model = save_open_clip(at / "model", text_cfg={**TEXT, "pool_type": "eos", "eos_id": 49407}).eval()
    tokenizer = load_tokenizer("model")
    tower = load_encoder("model", ["text"], "cpu")
    assert isinstance(tower.text.tower, OpenTextTower) and not tower.text.padding.fixed
    with torch.no_grad():
        expected = model.encode_text(open_clip.get_tokenizer("local-dir:model")(SENTENCES), normalize=True)
    np.testing.assert_allclose(tower.encode_texts(SENTENCES), expected, atol=1e-5)
    assert len(tokenizer(SENTENCES)["input_ids"][2]) == 2
