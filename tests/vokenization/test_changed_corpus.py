"""A corpus that is another one than was tokenized: no stage takes what was made of the old text for the new one's."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from scripts.demo_lines import read_lines
from tests.worlds import World
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import keys, vokens
from xvoken.files.safe import sha256_of_file

SETS = ["shapes_train"]


@pytest.fixture
def corpus(world: World, keyed: Path, tmp_path: Path) -> Path:
    """A copy of the tokenized corpus; the snapshot with its keys lies beside it."""
    shutil.copytree(world.folder / "corpus", tmp_path / "corpus")
    shutil.copytree(keyed, tmp_path / "matcher")
    return tmp_path / "corpus/lines.txt"


@pytest.fixture
def retrieve(script: Callable[..., str], corpus: Path) -> Callable[..., str]:
    flags = ["--load", corpus.parents[1] / "matcher", "--corpus", corpus, "--image-sets", *SETS, "--num-workers", 1]
    return lambda *more: script("vokenization.vokenize_corpus_mp", *flags, *more)


def tokens_of(corpus: Path) -> Path:
    return corpus.with_name("lines.txt.tiny-bert.hdf5")


def vokens_of(corpus: Path) -> Path:
    return vokens.hdf5_file(vokens.folder(corpus.parents[1] / "matcher"), corpus.name, SETS[0])


def edit(corpus: Path) -> None:
    corpus.write_text(corpus.read_text().replace("red", "blue"))


def reorder(corpus: Path) -> None:
    corpus.write_text("\n".join(reversed(corpus.read_text().split("\n")[:-1])) + "\n")


def without_attribute(tokens: Path) -> None:
    """As the predecessors wrote tokens."""
    with h5py.File(tokens, "r+") as file:
        del file.attrs["corpus"]


@pytest.mark.parametrize("change", [edit, reorder])
@pytest.mark.parametrize("finished", [False, True])
def test_retrieval_for_another_text(corpus: Path, retrieve: Callable, process: Callable, change: Callable, finished: bool):
    """Before the work and before it is skipped; the commands that the error names, in their order, mend it."""
    old = corpus.read_text()
    if finished:
        retrieve()
    change(corpus)
    with pytest.raises(UserError) as error:
        retrieve()
    assert vokens_of(corpus).exists() == finished
    assert f"{tokens_of(corpus)} was made of another text than {corpus} holds now" in str(error.value)
    *commands, last = re.search("in this order: (.*)", str(error.value))[1].split(", then ")
    assert last == "the same command"
    assert commands[1:] == ([f"rm {vokens_of(corpus)}"] if finished else [])
    new = corpus.read_text()
    corpus.write_text(old)  # the other way out
    assert ("skipped" if finished else "wrote the top 5") in retrieve()
    if finished:
        corpus.write_text(new)
        done = process("bash", "-ec", "\n".join(commands))
        assert done.returncode == 0, done.stderr
        assert "wrote the top 5" in retrieve()
        assert "skipped" in retrieve()


def test_files_of_others_beside_the_corpus(corpus: Path, retrieve: Callable, script: Callable[..., str]):
    """Their names begin as those of its tokens do."""
    retrieve()
    corpus.with_name(f"{corpus.name}.notes.hdf5").write_text("notes")
    corpus.with_name(f"{corpus.name}.dir.hdf5").mkdir()
    edit(corpus)
    for run in (retrieve, lambda: script("scripts.check", vokens_of(corpus), tokens_of(corpus))):
        with pytest.raises(UserError, match=rf"of another text than .* holds now; .*rm {tokens_of(corpus)}") as caught:
            run()
        assert "notes" not in str(caught.value) and "dir.hdf5" not in str(caught.value)


def test_images_of_tokens_that_were_made_again(corpus: Path, retrieve: Callable, script: Callable[..., str], world: World):
    retrieve()
    edit(corpus)
    for path in corpus.parent.glob("lines.txt.tiny-bert*"):
        path.unlink()
    script("tokenization.tokenize_dataset", corpus.parent, corpus.name, world.bert)
    with pytest.raises(
        UserError, match=f"{vokens_of(corpus)} was made with other settings .corpus: .* then, .* now.*rm {vokens_of(corpus)}"
    ):
        retrieve()


def test_tokens_without_a_text_and_of_the_predecessors(corpus: Path, retrieve: Callable):
    retrieve()
    text = corpus.read_text()
    corpus.unlink()
    assert "skipped" in retrieve()
    without_attribute(tokens_of(corpus))
    vokens_of(corpus).unlink()
    retrieve()
    assert vokens.read_settings(vokens_of(corpus))["corpus"] == sha256_of_file(tokens_of(corpus))
    corpus.write_text(text.replace("red", "blue"))
    assert "skipped" in retrieve()
    check(vokens_of(corpus), [tokens_of(corpus)])
    check(tokens_of(corpus))
    assert len(read_lines(corpus, corpus.parents[1] / "matcher", SETS)) == 15


def test_check_of_tokens(corpus: Path, script: Callable[..., str], world: World):
    assert "21 lines" in script("scripts.check", tokens_of(corpus))
    edit(corpus)
    with pytest.raises(UserError) as error:
        script("scripts.check", tokens_of(corpus))
    for part in (
        f"{tokens_of(corpus)} was made of another text than {corpus} holds now; bring the old text back",
        f"tokenize_dataset.py {corpus.parent} lines.txt {world.bert}, then python vokenization/vokenize_corpus_mp.py",
    ):  # fmt: skip
        assert part in str(error.value)
    corpus.unlink()
    assert "21 lines" in script("scripts.check", tokens_of(corpus))


def test_check_of_images_with_their_tokens(corpus: Path, retrieve: Callable, script: Callable[..., str], world: World):
    retrieve()
    for paths in ([vokens_of(corpus)], [vokens_of(corpus), tokens_of(corpus)], [tokens_of(corpus), vokens_of(corpus)]):
        assert "21 lines" in script("scripts.check", *paths)
    edit(corpus)
    with pytest.raises(
        UserError, match=f"{vokens_of(corpus)} was made of another text than {corpus} holds now.*order: rm .*tokenize.*, then rm"
    ):
        script("scripts.check", vokens_of(corpus), tokens_of(corpus))
    for path in corpus.parent.glob("lines.txt.tiny-bert*"):
        path.unlink()
    script("tokenization.tokenize_dataset", corpus.parent, corpus.name, world.bert)
    with pytest.raises(UserError, match=f"{corpus} holds now; .*in this order: rm {vokens_of(corpus)} && python vokenization"):
        script("scripts.check", vokens_of(corpus), tokens_of(corpus))
    corpus.unlink()  # tokens alone say whose they are
    with pytest.raises(UserError, match=f"{vokens_of(corpus)}: .* of other lines than those of {tokens_of(corpus)};"):
        script("scripts.check", vokens_of(corpus), tokens_of(corpus))
    assert "21 lines" in script("scripts.check", vokens_of(corpus))


def test_check_of_two_corpora_with_one_name(corpus: Path, retrieve: Callable, script: Callable[..., str], world: World):
    """As every prepared one is called train.pkl.txt: the images are of one of them."""
    retrieve()
    other = corpus.parent / "other" / corpus.name
    other.parent.mkdir()
    other.write_text("another one\n")
    script("tokenization.tokenize_dataset", other.parent, other.name, world.bert)
    for given in ([tokens_of(other), tokens_of(corpus)], [tokens_of(corpus), tokens_of(other)]):
        assert "21 lines" in script("scripts.check", vokens_of(corpus), *given)
    with pytest.raises(UserError, match=f"{vokens_of(corpus)} was made of another text than {other} holds now"):
        script("scripts.check", vokens_of(corpus), tokens_of(other))


def test_check_of_images_beside_their_corpus(corpus: Path, retrieve: Callable, script: Callable[..., str]):
    """Also of a part of the images: the lines of the whole run's images, which lie beside it too, are no corpus."""
    for more in ([], ["--max-img-num", 7]):
        retrieve("--output", corpus.parent, *more)
    beside = [corpus.parent / f"lines.txt.shapes_train{part}.hdf5" for part in ("", ".7")]
    for path in beside:
        assert "21 lines" in script("scripts.check", path)
    edit(corpus)
    for path in beside:
        with pytest.raises(UserError, match=f"{path} was made of another text than {corpus} holds now"):
            script("scripts.check", path)


def test_check_of_images_with_tokens_of_others(corpus: Path, retrieve: Callable, script: Callable[..., str], world: World):
    """Corpora whose names begin alike."""
    retrieve()
    (corpus.parent / "lines").write_text("another corpus\n")
    script("tokenization.tokenize_dataset", corpus.parent, "lines", world.bert)
    assert "21 lines" in script("scripts.check", vokens_of(corpus), corpus.with_name("lines.tiny-bert.hdf5"))


def test_the_page_of_another_text(corpus: Path, retrieve: Callable, script: Callable[..., str]):
    retrieve()
    load = corpus.parents[1] / "matcher"
    assert read_lines(corpus, load, SETS)[0].utterances == ["a red circle"]
    reorder(corpus)
    flags = ["--load", load, "--corpus", corpus, "--image-sets", *SETS, "--eval-set", "shapes_valid", "--output", load / "page.html"]
    with pytest.raises(UserError) as error:
        script("scripts.demo_page", *flags)
    assert f"{vokens_of(corpus)} was made of another text than {corpus} holds now; bring the old text back" in str(error.value)
    order = ["rm ", "tokenize_dataset.py", f"rm {vokens_of(corpus)}", f"vokenize_corpus_mp.py --load {load} --corpus {corpus} --image-sets"]
    assert re.search(".*".join(map(re.escape, order)), str(error.value))
    assert not (load / "page.html").exists()


def test_the_page_of_other_keys_and_of_another_training(corpus: Path, retrieve: Callable, script: Callable[..., str], world: World):
    """Keys of the same number, in another order; and recalls of a snapshot that was trained again since."""
    load = corpus.parents[1] / "matcher"
    retrieve()
    evaluate = ["--load", load, "--image-sets", "shapes_valid", *world.roots, "--num-workers", 1]
    script("vokenization.evaluate_retrieval", *evaluate)
    page = ["scripts.demo_page", "--load", load, "--corpus", corpus, "--image-sets", *SETS, "--eval-set", "shapes_valid"]
    page += ["--output", load / "page.html"]
    assert "wrote the page" in script(*page)
    record = load / "eval/shapes_valid.json"
    record.write_text(record.read_text().replace('"snapshot_hash": "', '"snapshot_hash": "0'))
    with pytest.raises(UserError, match=f"{record}: of another training .*; make it again with: python vokenization/evaluate_retrieval.py"):
        script(*page)
    record.write_text(record.read_text().replace('"snapshot_hash": "0', '"snapshot_hash": "'))
    read = keys.read(load / "keys", SETS[0])
    settings = keys.read_settings(load / "keys", SETS[0])
    turned = [np.array(read.keys[::-1])], read.ids[::-1], read.paths[::-1]
    keys.write(load / "keys", SETS[0], *turned, [], settings, {"snapshot_hash": read.attributes["snapshot_hash"]})
    with pytest.raises(
        UserError, match=f"{vokens_of(corpus)}: made with other keys than there are now; make it again: rm {vokens_of(corpus)} && "
    ):
        script(*page)
    vokens_of(corpus).unlink()
    retrieve()
    assert "wrote the page" in script(*page)
