"""The command: the voken file found by name, by retrieval's words and by its text's hash; what does not belong together is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.worlds import World
from xvoken.errors import UserError
from xvoken.files import vokens


@pytest.fixture
def retrieved(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the snapshot with images for the corpus; the text lies in data/corpus of the current folder."""
    load = tmp_path / "snap"
    shutil.copytree(keyed, load, ignore=shutil.ignore_patterns("eval", "vokens"))  # what other tests left there
    shutil.copytree(world.folder / "corpus", tmp_path / "data/corpus")
    monkeypatch.chdir(tmp_path)
    flags = ["--load", load, "--corpus", "data/corpus/lines.txt", "--image-sets", "shapes_train", "--num-workers", 1]
    script("vokenization.vokenize_corpus_mp", *flags)
    return load


def test_by_name_and_by_the_words_of_retrieval(retrieved: Path, script: Callable[..., str], tmp_path: Path):
    name = retrieved / "vokens/lines.txt.shapes_train"
    page = name.with_name(f"{name.name}.page.html")
    used = len(set(vokens.read_vokens(name).indices.ravel()) - {-1})
    assert f"wrote 21 lines and {used} pictures to {page}" in script("vokenization.page", "--vokens", name)  # the text found by its hash
    html = page.read_text()
    assert "Recall" not in html and "<polyline" in html  # two epochs of training
    asked = ["--load", retrieved, "--corpus", "data/corpus/lines.txt", "--image-sets", "shapes_train"]
    assert "skipped" in script("vokenization.page", *asked, "--vokens-dir", name.parent, "--keys-dir", retrieved / "keys")
    other = ["--output", tmp_path / "a b.html", "--side", 50, "--title", "Mine"]
    assert "wrote 21 lines" in script("vokenization.page", "--vokens", f"{name}.hdf5", *other)
    other = (tmp_path / "a b.html").read_text()
    assert "<title>lines.txt</title>" in html and "<title>Mine</title>" in other and '"title":"Mine"' in other
    assert f'"text":"{tmp_path}/data/corpus/lines.txt"' in other and '"precision":"fp32"' in other
    assert len(list((tmp_path / "a b/thumbs").glob("*/*.webp"))) == used
    shutil.move(retrieved / "BEST.safetensors", tmp_path / "elsewhere")  # as for a model that was not trained here
    assert "wrote" in script("vokenization.page", "--vokens", name)
    assert "<polyline" not in page.read_text()


def test_what_does_not_belong_together(retrieved: Path, script: Callable[..., str], tmp_path: Path):
    name = retrieved / "vokens/lines.txt.shapes_train"
    text = tmp_path / "data/corpus/lines.txt"
    other = tmp_path / "data/other.txt"
    other.write_text("other\n" * 21)
    with pytest.raises(UserError, match=r"lines.txt.shapes_train.hdf5 was made of another text than .*other.txt holds now"):
        script("vokenization.page", "--vokens", name, "--corpus", other)
    text.write_text(text.read_text().upper())
    with pytest.raises(UserError, match=r"say where it is: --corpus FOLDER/lines.txt"):
        script("vokenization.page", "--vokens", name)
    with pytest.raises(
        UserError, match=r"lines.txt.shapes_valid.hdf5 does not exist; make it with: .*\(there are: lines.txt.shapes_train\)"
    ):
        script("vokenization.page", "--load", retrieved, "--corpus", text, "--image-sets", "shapes_valid")
    with pytest.raises(UserError, match="give a voken file as --vokens"):
        script("vokenization.page", "--load", retrieved)
    text.write_text(text.read_text().lower())
    ids = retrieved / "keys/shapes_train.ids"
    ids.write_text("".join(reversed(ids.read_text().splitlines(keepends=True))))
    with pytest.raises(UserError, match=r"shapes_train.ids: not the pictures that were searched; make the voken file again: rm "):
        script("vokenization.page", "--vokens", name)
    ids.unlink()
    with pytest.raises(UserError, match=r"shapes_train.ids does not exist, .*--image-sets shapes_train=FOLDER"):
        script("vokenization.page", "--vokens", name)
