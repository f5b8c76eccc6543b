"""Keys of an image set: what is written is what is read, and every mistake is named with its numbers and what mends it."""

import hashlib
import json
import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from xvoken.errors import RunError, UserError
from xvoken.files import keys
from xvoken.files.locks import locked
from xvoken.files.safe import quoted


def unit(rows: int, dim: int = 4, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_set(folder: Path, vectors: np.ndarray, name: str = "s", **attributes: object) -> np.ndarray:
    """A set whose ids are a0, a1, ... and whose paths are in/a0.png, ..."""
    ids = [f"a{row}" for row in range(len(vectors))]
    keys.write(folder, name, [vectors], ids, [f"in/{i}.png" for i in ids], [], {}, attributes)
    return vectors


class Encoder:
    """What write_keys and read_keys ask of an encoder."""

    name, hash, dim = "mine", "0123456789abcdef", 4


class Another(Encoder):
    name, hash = "theirs", "fedcba9876543210"


def test_names_of_the_files():
    assert keys.folder(Path("snap/m")) == Path("snap/m/keys")
    assert keys.folder(Path("snap/m/BEST.safetensors")) == Path("snap/m/keys")
    assert keys.keys_file(Path("k"), "s.1") == Path("k/s.1.hdf5")
    assert keys.companions(Path("k"), "s.1") == (Path("k/s.1.ids"), Path("k/s.1.path"))
    assert keys.skipped_file(Path("k"), "s.1") == Path("k/s.1.skipped.tsv")


def test_what_is_written_byte_by_byte(tmp_path: Path):
    """Blocks of any float and layout are float32 row after row, in the file and in its hash."""
    vectors = unit(7).astype(np.float64)
    blocks = [np.asfortranarray(vectors[:3]), vectors[3:4], vectors[4:]]
    ids, paths = list("abcdefg"), [f"höhe/{i}.png" for i in "abcdefg"]
    skipped = [("x", "in/x.png", "not a picture"), ("y", "in/y.png", "missing")]
    settings = {"pictures": 7, "limit": None}
    keys.write(tmp_path, "s", iter(blocks), ids, paths, skipped, settings, {"snapshot": "m", "image_set": "s"})
    assert (tmp_path / "s.ids").read_bytes() == b"a\nb\nc\nd\ne\nf\ng\n"
    assert (tmp_path / "s.path").read_bytes() == "".join(f"{path}\n" for path in paths).encode()
    assert (tmp_path / "s.skipped.tsv").read_bytes() == b"x\tin/x.png\tnot a picture\ny\tin/y.png\tmissing\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.hdf5", "s.ids", "s.path", "s.skipped.tsv"]
    content = vectors.astype(np.float32).tobytes()
    with h5py.File(tmp_path / "s.hdf5") as file:
        assert sorted(file) == ["ids", "keys"]
        assert (file["keys"].dtype, file["keys"].shape) == (np.float32, (7, 4)) and file["keys"][:].tobytes() == content
        assert file["ids"].asstr()[:].tolist() == ids and h5py.check_string_dtype(file["ids"].dtype).encoding == "utf-8"
        assert dict(file.attrs) == {
            "snapshot": "m", "image_set": "s", "settings": '{"limit": null, "pictures": 7}', "sha256": hashlib.sha256(content).hexdigest(),
        }  # fmt: skip
    read = keys.read(tmp_path, "s")
    assert read.keys.tobytes() == content and read.ids == ids and read.paths == paths and read.attributes["snapshot"] == "m"
    assert keys.read_settings(tmp_path, "s") == settings


def test_the_identity_goes_by_ids_and_keys(tmp_path: Path):
    vectors = write_set(tmp_path, unit(3))
    lines = [hashlib.sha256(vectors.tobytes()).hexdigest(), "a0", "a1", "a2"]
    expected = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()[:16]
    read = keys.read(tmp_path, "s")
    assert read.identity == expected
    del read.attributes["sha256"]
    assert read.identity == expected
    read.attributes["sha256"] = "0"  # what the file says is not computed again
    assert read.identity == hashlib.sha256(b"0\na0\na1\na2\n").hexdigest()[:16]
    read.attributes["sha256"], read.ids[1] = lines[0], "b"
    assert read.identity != expected


def test_the_vectors_are_mapped_and_the_file_is_not_written_to(tmp_path: Path):
    write_set(tmp_path, unit(3))
    before = (tmp_path / "s.hdf5").read_bytes()
    mapped, attributes = keys.read_vectors(tmp_path, "s")
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, unit(3)) and "sha256" in attributes
    mapped[0] = 7
    mapped.flush()
    assert (tmp_path / "s.hdf5").read_bytes() == before


@pytest.mark.parametrize("storage", [{"dtype": np.float64}, {"dtype": np.float16}, {"dtype": np.float32, "chunks": (2, 4)}])
def test_keys_in_other_numbers_or_in_pieces_are_read(tmp_path: Path, storage: dict):
    vectors = write_set(tmp_path, unit(3))
    with h5py.File(tmp_path / "s.hdf5", "r+") as file:
        del file["keys"]
        file.create_dataset("keys", data=vectors.astype(storage["dtype"]), **storage)
    read = keys.read_vectors(tmp_path, "s")[0]
    assert read.dtype == np.float32 and np.array_equal(read, vectors.astype(storage["dtype"]).astype(np.float32))


def test_missing_keys_are_asked_for_by_the_command_that_makes_them(tmp_path: Path):
    snapshot = tmp_path / "my snap"
    made = f"python vokenization/extract_vision_keys.py --load-dir '{snapshot}' --image-sets s"
    with pytest.raises(UserError) as caught:
        keys.require(snapshot / "keys", "s", str(snapshot))
    assert str(caught.value).endswith(f": {made}") and str(snapshot / "keys/s.hdf5") in str(caught.value)
    with pytest.raises(UserError) as caught:
        keys.require(tmp_path / "elsewhere", "s", str(snapshot))
    assert str(caught.value).endswith(f": {made} --output {tmp_path}/elsewhere")
    (tmp_path / "elsewhere/s.hdf5").mkdir(parents=True)
    with pytest.raises(UserError, match="s.hdf5"):
        keys.require(tmp_path / "elsewhere", "s", str(snapshot))
    write_set(snapshot / "keys", unit(2))
    keys.require(snapshot / "keys", "s", str(snapshot))


def test_other_sets_that_are_there_are_named(tmp_path: Path):
    with pytest.raises(UserError, match="s.hdf5 does not exist") as caught:
        keys.read(tmp_path / "m/keys", "s")
    made = f"--load-dir {tmp_path}/m --image-sets s"
    assert str(caught.value).endswith(made)
    for name in ("second", "first"):
        write_set(tmp_path / "m/keys", unit(2), name)
    for read in (keys.read, keys.read_vectors, keys.read_settings):
        with pytest.raises(UserError, match=rf"^{tmp_path}/m/keys/s.hdf5 .*{re.escape(made)} \(.*: first, second\)"):
            read(tmp_path / "m/keys", "s")
    (tmp_path / "m/keys/s.hdf5").write_bytes(b"no hdf5")
    with pytest.raises(UserError, match=f"s.hdf5: .*{re.escape(made)}$"):
        keys.read(tmp_path / "m/keys", "s")


def test_lists_beside_the_keys_that_do_not_go_with_them(tmp_path: Path):
    write_set(tmp_path, unit(3))
    (tmp_path / "s.path").write_text("one\ntwo\nthree\nfour\n")
    with pytest.raises(UserError, match=rf"{tmp_path}/s.path: .*\b4 lines .*\b3 keys; .* extract it again"):
        keys.read(tmp_path, "s")
    (tmp_path / "s.path").unlink()
    with pytest.raises(UserError, match=r"s.path: .*\b0 lines .*\b3 keys"):
        keys.read(tmp_path, "s")
    write_set(tmp_path, unit(3))
    (tmp_path / "s.ids").write_text("a0\na2\na1\n")
    with pytest.raises(UserError, match=rf"^{tmp_path}/s.ids: .*{tmp_path}/s.hdf5; remove the set's files beside it and extract it again$"):
        keys.read(tmp_path, "s")
    with h5py.File(tmp_path / "s.hdf5", "r+") as file:
        del file["ids"]  # as files of others may be
    assert keys.read(tmp_path, "s").ids == ["a0", "a2", "a1"]


@pytest.mark.parametrize("row", [0, 1, 2, 4, 6])
def test_a_key_that_is_not_finite_is_found_in_every_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int):
    monkeypatch.setattr("xvoken.files.key_checks.BLOCK", 3)
    vectors = unit(7)
    vectors[row, 2] = np.inf
    write_set(tmp_path, vectors)
    with pytest.raises(UserError, match=rf"^{tmp_path}/s.hdf5: .*\brow {row}\b.*; remove the set's files beside it and extract it again$"):
        keys.read(tmp_path, "s")


def test_check_says_what_there_is(tmp_path: Path):
    write_set(tmp_path, unit(1200), snapshot="mine")
    assert keys.check(tmp_path, "s") == "1,200 keys of 4 dimensions by mine"
    write_set(tmp_path, unit(2, 7))
    assert keys.check(tmp_path, "s") == "2 keys of 7 dimensions by unknown"
    with h5py.File(tmp_path / "s.hdf5", "r+") as file:
        del file.attrs["sha256"]
    assert keys.check(tmp_path, "s") == "2 keys of 7 dimensions by unknown"


@pytest.mark.parametrize("length", [0.9995, 1.0005, 0.5, 0.998, 1.002, 2])
def test_check_on_lengths(tmp_path: Path, length: float):
    vectors = unit(5)
    vectors[3] *= length
    write_set(tmp_path, vectors)
    if abs(length - 1) < 1e-3:
        assert keys.check(tmp_path, "s").startswith("5 keys")
        return
    with pytest.raises(UserError, match=rf"{tmp_path}/s.hdf5: row 3 "):
        keys.check(tmp_path, "s")


def test_check_finds_a_key_that_was_changed(tmp_path: Path):
    vectors = write_set(tmp_path, unit(3))
    with h5py.File(tmp_path / "s.hdf5", "r+") as file:
        file["keys"][0] = vectors[1]
    with pytest.raises(UserError, match=rf"{tmp_path}/s.hdf5: .*not those that were written"):
        keys.check(tmp_path, "s")


def test_sets_one_after_another(tmp_path: Path):
    first, second = (
        write_set(tmp_path, unit(3), "first", snapshot_hash="h"),
        write_set(tmp_path, unit(2, seed=1), "second", snapshot_hash="h"),
    )
    gallery = keys.read_keys(str(tmp_path), ["first", "second"])
    assert np.array_equal(gallery.vectors, np.concatenate([first, second])) and len(gallery) == 5
    assert gallery.ids == ["first/a0", "first/a1", "first/a2", "second/a0", "second/a1"]
    assert gallery.paths == ["in/a0.png", "in/a1.png", "in/a2.png", "in/a0.png", "in/a1.png"]
    assert gallery.names == ["a0.png", "a1.png", "a2.png", "a0.png", "a1.png"]
    assert gallery.made_by == [f"{name} h {keys.read(tmp_path, name).identity}" for name in ("first", "second")]
    assert repr(gallery) == "<keys of 5 pictures, 4 dimensions: first/a0, first/a1, ...>"
    blocks = keys.read_blocks(tmp_path, ["first", "second"])
    assert [block.tolist() for block in blocks] == [first.tolist(), second.tolist()]
    alone = keys.read_keys(tmp_path, ("second",))
    assert np.shares_memory(alone.vectors, alone.blocks[0])  # of one set no copy
    assert repr(alone) == "<keys of 2 pictures, 4 dimensions: second/a0, second/a1, ...>"


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 6, 100])
def test_the_first_rows_of_several_sets(tmp_path: Path, limit: int):
    """Sets of which nothing is left are not there at all."""
    whole = np.concatenate([write_set(tmp_path, unit(rows, seed=rows), f"s{rows}") for rows in (2, 1, 3)])
    gallery = keys.read_keys(tmp_path, ["s2", "s1", "s3"], limit=limit)
    blocks = keys.read_blocks(tmp_path, ["s2", "s1", "s3"], limit)
    assert np.array_equal(gallery.vectors, whole[:limit]) and np.array_equal(np.concatenate(blocks), whole[:limit])
    assert len(gallery.ids) == len(gallery.paths) == len(gallery) == min(limit, 6)
    assert [len(block) for block in gallery.blocks] == [len(block) for block in blocks]
    assert all(len(block) for block in blocks) and len(gallery.made_by) == 3


def test_keys_of_the_encoder_and_of_others(tmp_path: Path):
    write_set(tmp_path, unit(3), "mine", snapshot_hash=Encoder.hash)
    write_set(tmp_path, unit(3), "theirs", snapshot_hash=Another.hash)
    write_set(tmp_path, unit(3), "unsaid")
    identity = keys.read(tmp_path, "unsaid").identity  # that of all three
    assert keys.read_keys(tmp_path, ["unsaid", "mine"], Encoder()).made_by == [f"{n} {Encoder.hash} {identity}" for n in ("unsaid", "mine")]
    assert keys.read_keys(tmp_path, ["unsaid", "mine"]).made_by == [f"unsaid None {identity}", f"mine {Encoder.hash} {identity}"]
    with pytest.raises(UserError) as caught:
        keys.read_keys(tmp_path, ["mine", "theirs"], Encoder())
    assert str(caught.value).startswith(f"{tmp_path}/theirs.hdf5: ") and f"{Another.hash}, this one is {Encoder.hash})" in str(caught.value)
    make = f"python vokenization/extract_vision_keys.py --load-dir {tmp_path.parent} --image-sets theirs"
    assert str(caught.value).endswith(f"remove it, then: {make}")
    with pytest.raises(UserError, match=rf"{tmp_path}/theirs.hdf5: .*{Another.hash}, the first set's is {Encoder.hash}\)"):
        keys.read_keys(tmp_path, ["mine", "theirs"])
    with pytest.raises(UserError, match=rf"{tmp_path}/theirs.hdf5: .*{Another.hash}.*{Encoder.hash}"):
        keys.read_keys(tmp_path, ["unsaid", "mine", "theirs"])


def test_keys_of_other_dimensions(tmp_path: Path):
    for dim in (4, 5):
        write_set(tmp_path, unit(3, dim), f"s{dim}")
    mend = f"; remove it, then: python vokenization/extract_vision_keys.py --load-dir {tmp_path.parent} --image-sets s5"
    with pytest.raises(UserError) as caught:
        keys.read_keys(tmp_path, ["s4", "s5"])
    assert str(caught.value) == f"{tmp_path}/s5.hdf5: keys of 5 dimensions, the keys of the first set have 4{mend}"
    with pytest.raises(UserError) as caught:
        keys.read_keys(tmp_path, ["s5"], Encoder())
    assert str(caught.value) == f"{tmp_path}/s5.hdf5: keys of 5 dimensions, the snapshot's sentences have 4{mend}"


@pytest.mark.parametrize("limit", [0, -1, 1.5, "3"])
def test_a_limit_that_makes_no_sense(tmp_path: Path, limit: object):
    write_set(tmp_path, unit(3))
    with pytest.raises(UserError, match=f"^limit={re.escape(repr(limit))}: .*at least 1"):
        keys.read_keys(tmp_path, ["s"], limit=limit)


def test_mistakes_in_reading(tmp_path: Path):
    write_set(tmp_path, unit(3))

    class Nameless:
        hash = "0"

    class Shapeless:
        dim = 4

    for arguments, said in (
        ((tmp_path, "s"), r"^image_sets='s': .*\[\"open_images\"\]"),
        ((tmp_path, 3), r"^image_sets=3: .*\[\"open_images\"\]"),
        ((tmp_path, []), "image set"),
        ((tmp_path, ["s"], Nameless()), "^encoder=.*Nameless"),
        ((tmp_path, ["s"], Shapeless()), "^encoder=.*Shapeless"),
        ((None, ["s"]), "^None: .*snap/xmatching/NAME/keys"),
        (("", ["s"]), "^'': .*snap/xmatching/NAME/keys"),
    ):
        with pytest.raises(UserError, match=said):
            keys.read_keys(*arguments)


def test_written_keys_are_read(tmp_path: Path):
    vectors, ids = unit(3).astype(np.float64), ["x", 7, "z"]
    path = keys.write_keys(str(tmp_path), "own", vectors.tolist(), ids, ["p/x", Path("p/y"), "p/z"], Encoder())
    assert path == tmp_path / "own.hdf5"
    read = keys.read(tmp_path, "own")
    assert read.keys.dtype == np.float32 and np.array_equal(read.keys, unit(3))
    assert read.ids == ["x", "7", "z"] and read.paths == ["p/x", "p/y", "p/z"]
    made_by = {"snapshot": "mine", "snapshot_hash": Encoder.hash}
    content = read.attributes.pop("sha256")
    assert content == hashlib.sha256(unit(3).tobytes()).hexdigest()
    hashed = hashlib.sha256(b"x\n7\nz\n").hexdigest()[:16]
    expected = {**made_by, "pictures": 3, "ids": hashed, "written": "by xvoken.write_keys"}
    assert json.loads(read.attributes.pop("settings")) == expected == keys.read_settings(tmp_path, "own")
    assert read.attributes == {**made_by, "image_set": "own"}
    assert (tmp_path / "own.skipped.tsv").read_bytes() == b""


def test_keys_may_be_written_without_paths_and_encoder(tmp_path: Path):
    keys.write_keys(tmp_path, "own", unit(2), iter("ab"))
    read = keys.read(tmp_path, "own")
    assert read.ids == read.paths == ["a", "b"] and set(read.attributes) == {"image_set", "settings", "sha256"}
    assert "snapshot" not in keys.read_settings(tmp_path, "own")
    before = (tmp_path / "own.hdf5").read_bytes()
    with pytest.raises(UserError, match=f"^{tmp_path}/own.hdf5 is there already.*rm {quoted(tmp_path / 'own.hdf5')}$"):
        keys.write_keys(tmp_path, "own", unit(2, seed=1), ["a", "b"])
    assert (tmp_path / "own.hdf5").read_bytes() == before


def test_two_that_write_the_same_keys(tmp_path: Path):
    with locked(tmp_path / ".own.hdf5.lock", "own"), pytest.raises(UserError, match="another run"):
        keys.write_keys(tmp_path, "own", unit(2), ["a", "b"])
    assert not (tmp_path / "own.hdf5").exists()


@pytest.mark.parametrize("length", [0.9983, 0.9995, 1.0005, 1.0017, np.nan])
def test_lengths_that_may_be_written(tmp_path: Path, length: float):
    vectors = unit(4).astype(np.float64)
    vectors[2] *= length
    if abs(length - 1) < 1e-3:
        keys.write_keys(tmp_path, "own", vectors, list("abcd"))
        assert len(keys.read(tmp_path, "own").ids) == 4
        return
    with pytest.raises(UserError, match=rf"row 2 has length {length:.4g}\b"):
        keys.write_keys(tmp_path, "own", vectors, list("abcd"))
    assert not list(tmp_path.iterdir())


def test_mistakes_in_writing(tmp_path: Path):
    class Unhashed:
        name, dim = "n", 4

    good, ids = unit(3), ["a", "b", "c"]
    for arguments, said in (
        (("", "own", good, ids), "snap/xmatching/NAME/keys"),
        ((tmp_path, "own", good, "abc"), "^ids='abc': "),
        ((tmp_path, "own", good, 3), "^ids=3: "),
        ((tmp_path, "own", good, ids, None, Unhashed()), "^encoder=.*Unhashed"),
        ((tmp_path, "own=folder", good, ids), "^image set 'own=folder': "),
        ((tmp_path, " own", good, ids), "^image set ' own': "),
        ((tmp_path, None, good, ids), "^image set None: "),
        ((tmp_path, "own", good[0], ids), r"float32 .*\(4,\).*\(N, dim\)"),
        ((tmp_path, "own", np.eye(4, dtype=int), list("abcd")), r"int64 .*\(4, 4\).*\(N, dim\)"),
        ((tmp_path, "own", good[:0], []), r"float32 .*\(0, 4\).*\(N, dim\)"),
        ((tmp_path, "own", good, ids[:2]), r"\b3 vectors, 2 ids .* 2 paths"),
        ((tmp_path, "own", good, ids, ids[:2]), r"\b3 vectors, 3 ids .* 2 paths"),
        ((tmp_path, "own", good[:2], ids, ids[:2]), r"\b2 vectors, 3 ids .* 2 paths"),
        ((tmp_path, "own", unit(3, 5), ids, None, Encoder()), r"\b5 dimensions, .*mine .*4\b"),
        ((tmp_path, "own", good, ["a", "", "c"]), "^'' "),
        ((tmp_path, "own", good, ["a", "b\n", "c"]), r"^'b\\n' "),
        ((tmp_path, "own", good, ids, ["a", "b", "c\t"]), r"^'c\\t' "),
        ((tmp_path, "own", good, ids, ["", "b", "c"]), "^'' "),
        ((tmp_path, "own", good, ["a", "b", "a"]), "^ids: .*same id"),
    ):
        with pytest.raises(UserError, match=said):
            keys.write_keys(*arguments)
    assert not list(tmp_path.iterdir())
    keys.write_keys(tmp_path, "own", good, ids, ["one", "one", "one"])  # a picture may have several rows


@pytest.mark.parametrize("name", ["own.ids", "own.path", "own.hdf5"])
def test_a_file_that_is_gone_at_the_end_of_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    write = keys.write

    def written_and_removed(*arguments: object) -> None:
        write(*arguments)
        (tmp_path / name).unlink()

    monkeypatch.setattr(keys, "write", written_and_removed)
    with pytest.raises(RunError, match=f"{tmp_path / name} was written and is gone"):
        keys.write_keys(tmp_path, "own", unit(2), ["a", "b"])
