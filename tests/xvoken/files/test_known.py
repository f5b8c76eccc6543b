"""What is known of a model without loading it is never that of another one."""

import json
import os
import shutil
from pathlib import Path

import h5py
import pytest
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from tests import builder
from xvoken.encoders import identity
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.identity import identify, tokenizer_facts
from xvoken.errors import UserError
from xvoken.files import known as facts_kept
from xvoken.files.known import Start, known, remember


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hashes of ./one and ./two."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    for seed, name in enumerate(("one", "two")):
        builder.save_clip(tmp_path / name, seed=seed)
    hashes = [load_encoder(name, [], "cpu").hash for name in ("one", "two")]
    assert hashes[0] != hashes[1]
    return hashes


def hub_cache(folder: Path, model: str) -> str:
    """A cache of the hub that holds it as owner/name."""
    revision = folder / "models--owner--name/snapshots" / (model * 14)[:40]
    shutil.copytree(model, revision)
    (folder / "models--owner--name/refs").mkdir()
    (folder / "models--owner--name/refs/main").write_text(revision.name)
    return str(folder)


def test_another_cache_of_the_hub(models: list[str], monkeypatch: pytest.MonkeyPatch):
    for model, expected in zip(("one", "two", "one"), (*models, models[0]), strict=True):
        cache = f"hub-{model}"
        if not Path(cache).exists():
            hub_cache(Path(cache).absolute(), model)
        for module in ("huggingface_hub.constants", "huggingface_hub.file_download.constants", "transformers.utils.hub.constants"):
            monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(Path(cache).absolute()))
        assert identify("owner/name").hash == identify("owner/name").hash == expected


def test_a_folder_of_that_name_has_come(models: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", hub_cache(Path("hub").absolute(), "one"))
    assert identify("owner/name").hash == models[0]
    tokenizer_facts("owner/name")
    shutil.copytree("two", "owner/name")
    assert identify("owner/name").hash == models[1]
    (Path("owner/name") / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="can't be loaded from owner/name"):
        tokenizer_facts("owner/name")


def test_a_shard_in_a_folder_of_its_own(models: list[str]):
    model = CLIPModel.from_pretrained("one")
    Path("one/model.safetensors").unlink()
    model.save_pretrained("one", max_shard_size="20KB")
    index = json.loads(Path("one/model.safetensors.index.json").read_text())
    Path("one/shards").mkdir()
    for shard in set(index["weight_map"].values()):
        Path("one", shard).rename(f"one/shards/{shard}")
    index["weight_map"] = {name: f"shards/{shard}" for name, shard in index["weight_map"].items()}
    Path("one/model.safetensors.index.json").write_text(json.dumps(index))
    assert identify("one").hash == models[0]
    shard = next(Path("one/shards").iterdir())
    save_file({name: tensor + 1 for name, tensor in load_file(shard).items()}, "changed", metadata={"format": "pt"})
    with open(shard, "r+b") as file:
        file.write(Path("changed").read_bytes())
    assert identify("one").hash == load_encoder("one", [], "cpu").hash != models[0]


@pytest.mark.parametrize("how", ["link", "folder"])
def test_replaced_while_it_was_loaded(models: list[str], monkeypatch: pytest.MonkeyPatch, how: str):
    """All that is in the new folder is older than the load."""
    Path("now").symlink_to("one")
    if how == "folder":
        Path("now").unlink()
        shutil.copytree("one", "now")
    found_out = identity._identity

    def replacing_it(encoder: object, load: str):
        Path("now").rename("before")
        Path("two").rename("now") if how == "folder" else Path("now").symlink_to("two")
        return found_out(encoder, load)

    monkeypatch.setattr(identity, "_identity", replacing_it)
    assert identify("now").hash == models[0]
    monkeypatch.setattr(identity, "_identity", found_out)
    assert identify("now").hash == models[1]


@pytest.mark.parametrize("text", ["[", "[" * 100_000, "null", '{"key": 1, "facts": {}, "files": {"/": []}}', '"image_wide"'])
def test_what_is_kept_is_damaged_or_foreign(models: list[str], text: str):
    identify("one")
    kept = list(Path("home/xvoken/known").iterdir())
    assert kept
    for file in kept:
        file.write_text(file.read_text().replace('"image_width"', text) if text == '"image_wide"' else text)
    assert identify("one").hash == models[0]


def test_a_pipe_is_not_waited_for(models: list[str]):
    identify("one")
    for file in list(Path("home/xvoken/known").iterdir()):
        file.unlink()
        os.mkfifo(file)
    assert identify("one").hash == models[0]


def test_without_a_home(models: list[str], monkeypatch: pytest.MonkeyPatch):
    """As in a container, for a user that it does not know."""
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda user: (_ for _ in ()).throw(KeyError(user)))
    assert identify("one").hash == models[0]


def test_a_file_whose_name_is_no_text(models: list[str]):
    Path(os.fsdecode(b"one/\xff")).touch()
    assert identify("one").hash == models[0]


def test_nothing_is_kept_of_very_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(facts_kept, "MOST", 10)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/back").symlink_to(tmp_path / "model")  # without end
    remember({"of": "links"}, [tmp_path / "model"], {"a": 1}, Start.now([]))
    assert known({"of": "links"}) is None
    remember({"of": "file"}, [tmp_path], {"a": 1})
    assert known({"of": "file"}) is None


def test_a_model_that_became_another_one_while_a_stage_began(models: list[str], script, monkeypatch: pytest.MonkeyPatch):
    """As its hub may have a newer one: what was found out before is not written over what it makes."""
    Path("phrases.txt").write_text("a dog\n")
    builder.save_pictures(Path("pictures"), {"a": (40, 30)})
    known_before = identify("one")
    shutil.copytree("two", "one", dirs_exist_ok=True)
    for name in ("ctx.encode_captions", "ctx.run"):
        monkeypatch.setattr(f"{name}.identify", lambda load, key_views=None: known_before)
    flags = ["--model", "one", "--device", "cpu", "--num_workers", 1]
    for stage, more in (("ctx.encode_captions", ["--captions", "phrases.txt"]), ("ctx.encode_images", ["--images", "pictures"])):
        with pytest.raises(UserError, match=f"one: has become another model since this run began .{models[0]} then, {models[1]} now"):
            script(stage, *flags, *more)
    assert not [path for path in Path("outputs").rglob("*.hdf5") if h5py.is_hdf5(path)]


def test_a_tokenizer_that_became_another_one(models: list[str], script, monkeypatch: pytest.MonkeyPatch):
    Path("lines.txt").write_text("a dog\n")
    monkeypatch.setattr("tokenization.tokenize_dataset.tokenizer_facts", lambda name: identity.TokenizerFacts("0" * 16, 10))
    with pytest.raises(UserError, match="tokenizer one: has become another one since this run began .0000000000000000 then"):
        script("tokenization.tokenize_dataset", ".", "lines.txt", "one")
