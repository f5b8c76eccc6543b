"""hdf5 files of strangers: no reader follows what points out of the file or elsewhere in it, or believes what claims too much."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import builder
from tests.running import run_script
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import context as context_files
from xvoken.files import corpus, keys, tokens, vokens
from xvoken.files import phrases as caption_db
from xvoken.files.context import Context
from xvoken.files.hdf5 import open_hdf5

SECRET = b"the password of the shop is swordfish. "
DIM = 4


def unit(*shape: int) -> np.ndarray:
    return np.full((*shape, DIM), DIM**-0.5, np.float32)


def write_keys(folder: Path) -> Path:
    keys.write(folder, "s", [unit(3)], ["a", "b", "c"], ["x", "y", "z"], [], {}, {})
    return keys.keys_file(folder, "s")


def write_tokens(folder: Path) -> Path:
    (folder / "part").write_bytes(b"7 8\n9\n")
    (folder / "c.txt").write_text("x y\nz\n")
    part = tokens.Part(folder / "part", np.array([7, 8, 9], np.int32), np.array([2, 1]))
    tokens.write(folder / "c.txt", "t", [part], {}, lambda lines, tokens: None)
    return corpus.tokens_file(folder / "c.txt", "t")


def write_vokens(folder: Path) -> Path:
    part = {"indices": np.zeros((2, 1), np.int32), "scores": np.ones((2, 1), np.float32), "counts": np.array([2, 1])}
    path = vokens.hdf5_file(folder, "c", "s")
    vokens.write(vokens.text_file(folder, "c", "s"), [part], 2, 3, 1, ["a"], {}, {})
    vokens.write_ids(vokens.ids_file(folder, "c", "s"), ["s/a"])
    return path


def write_captions(folder: Path) -> Path:
    caption_db.write(folder / "db.hdf5", [(unit(2), unit(2), ["one", "two"])], {})
    return folder / "db.hdf5"


def write_visual(folder: Path) -> Path:
    context_files.write_visual(folder / "vis_ctx.hdf5", [("a", unit()), ("b", unit())], DIM, [], {})
    return folder / "vis_ctx.hdf5"


def write_textual(folder: Path) -> Path:
    found = caption_db.CaptionDB(unit(2), unit(2), np.array(["one", "two"], object), "x")
    rows = [(name, np.zeros((15, 1), np.int32), np.ones((15, 1), np.float32)) for name in "ab"]
    context_files.write_textual(folder / "txt_ctx.hdf5", rows, found, [], {})
    return folder / "txt_ctx.hdf5"


def read_all(context: Context) -> list[dict]:
    return [context[i] for i in range(len(context))]


# The file, what in it is put elsewhere, and what reads it.
READERS: dict[str, tuple[Callable[[Path], Path], str, Callable[[Path], object]]] = {
    "keys": (write_keys, "keys", lambda path: keys.read(path.parent, "s")),
    "keys, checked": (write_keys, "keys", check),
    "ids of keys, checked": (write_keys, "ids", check),
    "tokens": (write_tokens, "tokens", lambda path: corpus.Corpus(path.parent / "c.txt", "t").slab(0, 2)),
    "tokens, checked": (write_tokens, "tokens", check),
    "indices": (write_vokens, "indices", lambda path: vokens.read(path.parent, "c", "s")),
    "scores": (write_vokens, "scores", lambda path: list(vokens.slabs(path))),
    "vokens, checked": (write_vokens, "indices", check),
    "captions, checked": (write_captions, "0/captions", check),
    "keys of captions, checked": (write_captions, "0/keys", check),
    "visual, checked": (write_visual, "a", check),
    "visual, as a dataset": (
        write_visual,
        "a",
        lambda path: read_all(Context(write_textual(path.parent), image_ids=["b", "a"], visual=path)),
    ),
    "textual, checked": (write_textual, "a/whole/texts", check),
    "scores of textual, checked": (write_textual, "b/nine/scores", check),
    "textual, as a dataset": (write_textual, "a/whole/texts", lambda path: read_all(Context(path))),
    "features of textual, as a dataset": (write_textual, "b/nine/features", lambda path: read_all(Context(path, "nine"))),
}


def external_storage(file: h5py.File, name: str, other: Path) -> None:
    """The dataset's bytes are those of a text file."""
    then = file[name]
    text = h5py.check_string_dtype(then.dtype) is not None
    shape, dtype = then.shape, h5py.string_dtype("ascii", len(SECRET)) if text else then.dtype
    del file[name]
    file.create_dataset(name, shape, dtype, external=[(str(other.with_suffix(".txt")), 0, h5py.h5f.UNLIMITED)])


def external_link(file: h5py.File, name: str, other: Path) -> None:
    del file[name]
    file[name] = h5py.ExternalLink(other, name)


def external_group(file: h5py.File, name: str, other: Path) -> None:
    """Not the dataset is elsewhere, but the group that it lies in."""
    external_link(file, name.split("/")[0], other)


def soft_link(file: h5py.File, name: str, other: Path) -> None:
    file.move(name, f"{name}_moved")
    file[name] = h5py.SoftLink(f"/{name}_moved")


def soft_link_outside(file: h5py.File, name: str, other: Path) -> None:
    """By way of an external link."""
    del file[name]
    file[f"{name}_way"] = h5py.ExternalLink(other, "/")
    file[name] = h5py.SoftLink(f"/{name}_way/{name}")


def virtual(file: h5py.File, name: str, other: Path) -> None:
    shape, dtype = file[name].shape, file[name].dtype
    layout = h5py.VirtualLayout(shape, dtype)
    layout[...] = h5py.VirtualSource(str(other), name, shape, dtype)
    del file[name]
    file.create_virtual_dataset(name, layout)


KINDS = [external_storage, external_link, external_group, soft_link, soft_link_outside, virtual]


def put_elsewhere(path: Path, name: str, kind: Callable[[h5py.File, str, Path], None]) -> None:
    """Rewrite a good file so that `name` lies elsewhere: in a copy of the file, or in a text file beside it."""
    other = shutil.copy(path, path.parent / "other.h5")
    other.with_suffix(".txt").write_bytes(SECRET * 100)
    with h5py.File(path, "r+") as file:
        kind(file, name, other)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_what_lies_elsewhere_is_not_followed(tmp_path: Path, reader: str, kind: Callable[[h5py.File, str, Path], None]):
    write, name, read = READERS[reader]
    path = write(tmp_path)
    read(path)
    put_elsewhere(path, name, kind)
    with pytest.raises(UserError, match="points (out of|elsewhere in) the file") as caught:
        read(path)
    assert path.name in str(caught.value) and "remove it" in str(caught.value)
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_text_of_another_file_comes_into_the_context(tmp_path: Path, kind: Callable[[h5py.File, str, Path], None]):
    builder.save_clip(tmp_path / "model")
    builder.save_pictures(tmp_path / "pictures", {"a": (40, 40)})
    (tmp_path / "phrases.txt").write_text("red dog\nblue cat\n")
    run_script("encode_captions", tmp_path, "--model", "model", "--captions", "phrases.txt")
    db = tmp_path / "outputs/captions_db/caption_db.hdf5"
    put_elsewhere(db, "0/captions", kind)
    flags = ["--model", "model", "--images", "pictures", "--k", 2, "--batch_size", 1]
    said = run_script("retrieve_captions", tmp_path, *flags, code=2)
    assert said.startswith("error: ") and "caption_db.hdf5: /0" in said and "the file" in said
    secrets = {db.parent / "other.txt"}
    for path in set(tmp_path.rglob("*")) - secrets:
        assert path.is_dir() or b"swordfish" not in path.read_bytes(), path


@pytest.mark.parametrize(
    "storage",
    [
        pytest.param({}, id="never written"),
        pytest.param({"chunks": (1024, DIM), "compression": "gzip"}, id="packed"),
        pytest.param(None, id="a number changed in the file"),
    ],
)
def test_rows_that_are_not_there(tmp_path: Path, storage: dict | None):
    """2^40 of them, which nothing may make room for."""
    path, rows = write_keys(tmp_path), 1 << 40
    if storage is None:
        content = path.read_bytes()
        assert content.count(shape := struct.pack("<QQ", 3, DIM)) >= 1
        path.write_bytes(content.replace(shape, struct.pack("<QQ", rows, DIM)))
    else:
        with h5py.File(path, "r+") as file:
            del file["keys"]
            file.create_dataset("keys", (rows, DIM), np.float32, **storage)
    for read in (check, lambda path: keys.read(path.parent, "s")):
        with pytest.raises(
            UserError, match=r"s.hdf5: (/keys claims 17,592,186,044,416 bytes, of which only|has no dataset `keys`).*remove it"
        ):
            read(path)


def test_packed_keys_are_read(tmp_path: Path):
    """As others may have written them; all alike, so that they pack as well as anything can."""
    path, same = write_keys(tmp_path), unit(200_000)
    with h5py.File(path, "r+") as file:
        del file["keys"]
        file.create_dataset("keys", data=same, chunks=(50_000, DIM), compression="gzip", compression_opts=9)
        assert file["keys"].id.get_storage_size() < same.nbytes / 500
    assert np.array_equal(keys.read_vectors(tmp_path, "s")[0], same)


def test_a_file_may_be_a_link_itself(tmp_path: Path):
    """Data is linked to from where it is needed, by the user himself."""
    (tmp_path / "data").mkdir()
    path = write_textual(tmp_path / "data")
    (tmp_path / "txt_ctx.hdf5").symlink_to(path)
    assert len(read_all(Context(tmp_path / "txt_ctx.hdf5"))) == 2


def written(path: Path, change: Callable[[h5py.File], object]) -> Path:
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def replaced(name: str, data: object, **options: object) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data, **options)

    return change


@pytest.mark.parametrize("value", [np.arange(3), h5py.Empty("f4"), b"\xff\xfe"], ids=["an array", "nothing", "not UTF-8"])
@pytest.mark.parametrize("name", ["settings", "sha256", "snapshot_hash"])
def test_attributes_of_other_types(tmp_path: Path, name: str, value: object):
    path = written(write_keys(tmp_path), lambda file: file.attrs.__setitem__(name, value))
    with pytest.raises(UserError, match=f"{path}: its attribute {name} is not one text or number"):
        keys.read(tmp_path, "s")
    written(path, lambda file: file.attrs.__setitem__("mean of the pictures", value))  # somebody's own
    written(path, lambda file: file.attrs.__delitem__(name))
    assert len(keys.read(tmp_path, "s").keys) == 3


@pytest.mark.parametrize("value", ["{", "[1]", "3", "[" * 100_000, 7])
def test_settings_that_are_none(tmp_path: Path, value: object):
    written(write_keys(tmp_path), lambda file: file.attrs.__setitem__("settings", value))
    with pytest.raises(UserError, match="its attribute settings is not a JSON object, as a stage writes it; remove it, then"):
        keys.read_settings(tmp_path, "s")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.where(np.eye(3, DIM), np.nan, unit(3)), "the key of row 0 is not finite"),
        (unit(3) > 0, "no dataset `keys` of 2 dimensions and of floats"),
        (unit(3).astype(complex), "no dataset `keys` of 2 dimensions and of floats"),
        (np.array([[b"a"] * DIM] * 3), "no dataset `keys` of 2 dimensions and of floats"),
        (np.zeros((3, DIM), [("a", "f4")]), "no dataset `keys` of 2 dimensions and of floats"),
    ],
)
def test_keys_that_are_none(tmp_path: Path, data: np.ndarray, message: str):
    written(write_keys(tmp_path), replaced("keys", data))
    with pytest.raises(UserError, match=message):
        keys.read(tmp_path, "s")


@pytest.mark.parametrize("ids", [np.array([b"a", b"b", b"\xff"], object), np.array("a", object)], ids=["not UTF-8", "scalar"])
def test_ids_that_are_none(tmp_path: Path, ids: np.ndarray):
    written(write_keys(tmp_path), replaced("ids", ids, dtype=h5py.string_dtype()))
    if ids.ndim:
        with pytest.raises(UserError, match=r"s.ids: its ids differ from those in"):
            keys.read(tmp_path, "s")
    else:  # no list of ids: the file of others that has none
        assert keys.read(tmp_path, "s").ids == ["a", "b", "c"]


def test_tokens_that_are_none(tmp_path: Path):
    path = write_tokens(tmp_path)
    for wrong in (-1, 9):
        written(path, replaced("tokens", np.array([7, 8, wrong], np.int32)))
        read = corpus.Corpus(tmp_path / "c.txt", "t", vocabulary=9)
        assert read.slab(0, 1)[0].tolist() == [7, 8]
        with pytest.raises(UserError, match=f"token id {wrong}, the tokenizer has ids below 9; make it again"):
            read.slab(0, 2)
        read.file.close()
    written(path, replaced("tokens", np.array([7, 8, 9.5])))
    with pytest.raises(UserError, match="no dataset `tokens` of 1 dimensions and of whole numbers"):
        corpus.Corpus(tmp_path / "c.txt", "t")


def test_captions_that_are_none(tmp_path: Path):
    for change in (replaced("0/captions", [1, 2]), replaced("0/keys", unit()), replaced("0/features", ["a", "b"])):
        path = written(write_captions(tmp_path), change)
        with pytest.raises(UserError, match="group 0 does not hold keys, features and captions of one length"):
            check(path)


def test_a_dataset_that_nothing_was_written_to(tmp_path: Path):
    """HDF5 stores nothing of it, and gives its fill value."""
    path = written(write_vokens(tmp_path), lambda file: file.create_dataset("more", (100,), "i4"))
    with open_hdf5(path, "a stage") as file:
        assert not file["more"][:].any()
