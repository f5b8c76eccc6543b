"""Keys made elsewhere: the layout of clip-retrieval, its faults, and the way there and back."""

import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.worlds import World
from vokenization import import_embeddings
from xvoken import load_encoder
from xvoken.cli.check import check
from xvoken.errors import UserError
from xvoken.files import keys, vokens

DIM = 16  # of the tests' matcher


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A folder as clip-retrieval leaves it: three files of 5, 4 and 3 rows, of any length."""
    vectors = np.random.default_rng(0).standard_normal((12, DIM)) * np.arange(1, 13)[:, None]
    (tmp_path / "made/img_emb").mkdir(parents=True)
    (tmp_path / "made/metadata").mkdir()
    for number, (start, stop) in enumerate([(0, 5), (5, 9), (9, 12)]):
        np.save(tmp_path / f"made/img_emb/img_emb_{number}.npy", vectors[start:stop].astype(np.float32 if number else np.float16))
        table = {"url": ["x"] * (stop - start), "image_path": [f"/x/{row}.jpg" for row in range(start, stop)]}
        parquet.write_table(pa.table(table), tmp_path / f"made/metadata/metadata_{number}.parquet")
    return tmp_path / "made"


def flags_of(matcher: Path, made: Path) -> list[object]:
    return ["vokenization.import_embeddings", "--load", matcher, "--image-sets", "far", "--from", made, "--keys-dir", made.parent / "keys"]


def test_rows_become_keys(matcher: Path, made: Path, script: Callable[..., str], monkeypatch):
    monkeypatch.setattr(import_embeddings, "BLOCK", 3)
    raw = np.concatenate([np.load(made / f"img_emb/img_emb_{n}.npy").astype(np.float64) for n in range(3)])
    bad = np.load(made / "img_emb/img_emb_1.npy")
    bad[0], bad[1, 3], bad[2] = 0, np.nan, 3e38  # of a length that no float32 holds
    np.save(made / "img_emb/img_emb_1.npy", bad)
    table = parquet.read_table(made / "metadata/metadata_2.parquet").to_pydict()
    table["image_path"] = ["/x/a\nb.jpg", None, "/x/11.jpg"]
    parquet.write_table(pa.table(table), made / "metadata/metadata_2.parquet")
    printed = script(*flags_of(matcher, made))
    assert "wrote 8 keys of 16 dimensions" in printed
    assert "4 left out, listed in far.skipped.tsv" in printed
    read = keys.read(made.parent / "keys", "far")
    rows = [0, 1, 2, 3, 4, 7, 8, 11]
    assert read.ids == read.paths == [f"/x/{row}.jpg" for row in rows]
    raw[7] = 1
    assert read.keys.dtype == np.float32
    assert np.allclose(read.keys, raw[rows] / np.linalg.norm(raw[rows], axis=1, keepdims=True), atol=1e-7)
    assert (made.parent / "keys/far.skipped.tsv").read_text().splitlines() == [
        "/x/5.jpg\t/x/5.jpg\tzero",
        "/x/6.jpg\t/x/6.jpg\tnot finite",
        "'/x/a\\nb.jpg'\t'/x/a\\nb.jpg'\tan image_path that can't stand in a list",
        "\t\tan image_path that can't stand in a list",
    ]
    assert read.attributes["imported_from"] == str(made)
    assert read.attributes["snapshot"] == "matcher"
    assert check(made.parent / "keys/far.hdf5").startswith("8 keys of 16 dimensions by matcher")


def test_without_metadata_rows_are_numbered(matcher: Path, made: Path, script: Callable[..., str]):
    for path in made.glob("metadata/*"):
        path.unlink()
    script(*flags_of(matcher, made))
    assert keys.read(made.parent / "keys", "far").ids == [str(row) for row in range(12)]


def test_names_that_occur_twice_are_told(matcher: Path, made: Path, script: Callable[..., str]):
    (made / "metadata/metadata_2.parquet").write_bytes((made / "metadata/metadata_0.parquet").read_bytes())
    np.save(made / "img_emb/img_emb_2.npy", np.load(made / "img_emb/img_emb_0.npy"))
    assert "warning: 5 rows have the same name as another row, for example /x/0.jpg" in script(*flags_of(matcher, made))


def test_second_runs(matcher: Path, made: Path, script: Callable[..., str]):
    script(*flags_of(matcher, made))
    output = made.parent / "keys/far.hdf5"
    before = output.stat().st_mtime_ns
    moved = made.rename(made.parent / "moved")
    assert "skipped" in script(*flags_of(matcher, moved))
    other = np.load(moved / "img_emb/img_emb_0.npy")[::-1]  # as large to the byte
    np.save(moved / "img_emb/img_emb_0.npy", np.ascontiguousarray(other))
    with pytest.raises(UserError, match=r"made with other settings \(imported: "):
        script(*flags_of(matcher, moved))
    (moved / "img_emb/img_emb_2.npy").unlink()
    (moved / "metadata/metadata_2.parquet").unlink()
    with pytest.raises(UserError, match=r"made with other settings \(files: 6 then, 4 now.*make it again after: rm"):
        script(*flags_of(matcher, moved))
    assert output.stat().st_mtime_ns == before


def test_way_there_and_back_finds_the_same(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    # Around the vector of a line, to which those of the other lines are near, at cosines that 16 bits tell apart.
    line = load_encoder(keyed).encode_texts(["a red circle"])[0]
    across = np.random.default_rng(1).standard_normal((18, DIM)).astype(np.float32)
    across -= np.outer(across @ line, line)
    cosines = np.linspace(0.95, -0.75, 18, dtype=np.float32)[:, None]
    vectors = cosines * line + np.sqrt(1 - cosines**2) * across / np.linalg.norm(across, axis=1, keepdims=True)
    made_by = keys.read(keyed / "keys", "shapes_train").attributes
    ids = [f"{row}.jpg" for row in range(18)]
    keys.write(tmp_path / "keys", "near", [vectors], ids, ids, [], {}, {"snapshot_hash": made_by["snapshot_hash"]})
    shared = ["--load", keyed, "--keys-dir", tmp_path / "keys"]
    script("vokenization.export_embeddings", *shared, "--image-sets", "near", "--output", tmp_path / "export", "--rows-per-file", 7)
    script("vokenization.import_embeddings", *shared, "--image-sets", "far", "--from", tmp_path / "export/near")
    back = keys.read(tmp_path / "keys", "far")
    assert back.ids == ids
    assert np.abs(np.linalg.norm(back.keys, axis=1) - 1).max() < 1e-6
    assert np.abs(back.keys - vectors).max() < 1e-3
    shared += ["--corpus", world.folder / "corpus/lines.txt", "--output", tmp_path / "vokens", "--precision", "fp32", "--num-workers", 1]
    for name in ("near", "far"):
        script("vokenization.vokenize_corpus_mp", *shared, "--image-sets", name)
    near, far = (vokens.read(tmp_path / "vokens", "lines.txt", name) for name in ("near", "far"))
    assert np.allclose(far.scores, near.scores, atol=1e-3, equal_nan=True)
    # A picture whose score is further from both neighbours' than 16 bits can tell stands at the same place.
    apart = np.abs(np.diff(near.scores, axis=1)) > 2e-3
    clear = np.column_stack([apart[:, 0], apart[:, :-1] & apart[:, 1:]])  # of the last one, one neighbour is not known
    assert clear.sum() > clear.size / 3
    assert np.array_equal(far.indices[:, :-1][clear], near.indices[:, :-1][clear])


def spoil_dims(made: Path) -> None:
    np.save(made / "img_emb/img_emb_1.npy", np.ones((4, 8), np.float32))


def spoil_rows(made: Path) -> None:
    np.save(made / "img_emb/img_emb_1.npy", np.ones((3, DIM), np.float32))


def spoil_pickle(made: Path) -> None:
    np.save(made / "img_emb/img_emb_1.npy", np.array([print, None], object), allow_pickle=True)


def spoil_type(made: Path) -> None:
    np.save(made / "img_emb/img_emb_1.npy", np.ones((4, DIM), np.int64))


def spoil_cut(made: Path) -> None:
    path = made / "img_emb/img_emb_1.npy"
    path.write_bytes(path.read_bytes()[:-20])


def spoil_empty(made: Path) -> None:
    (made / "img_emb/img_emb_1.npy").write_bytes(b"")


def spoil_parquet(made: Path) -> None:
    (made / "metadata/metadata_1.parquet").write_bytes(b"PAR1 and no more")


def spoil_column(made: Path) -> None:
    parquet.write_table(pa.table({"url": ["x"] * 4}), made / "metadata/metadata_1.parquet")


def spoil_pair(made: Path) -> None:
    (made / "metadata/metadata_1.parquet").unlink()


def spoil_npy(made: Path) -> None:
    (made / "img_emb/img_emb_1.npy").unlink()


def spoil_all(made: Path) -> None:
    for path in made.glob("img_emb/*"):
        path.unlink()


def spoil_zero(made: Path) -> None:
    for path in made.glob("img_emb/*"):
        np.save(path, np.zeros_like(np.load(path)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_dims, r"img_emb_1.npy: keys of 8 dimensions, those of .* have 16; give the model that made them as --load"),
        (spoil_rows, r"metadata_1.parquet: has 4 rows, its .npy file 3"),
        (spoil_pickle, r"img_emb_1.npy: not a complete .npy file of numbers \(.*Python objects.*\)"),
        (spoil_type, r"img_emb_1.npy: int64 of shape \(4, 16\); float16 or float32"),
        (spoil_cut, r"img_emb_1.npy: not a complete .npy file"),
        (spoil_empty, r"img_emb_1.npy: not a complete .npy file"),
        (spoil_parquet, r"metadata_1.parquet: not a complete parquet file"),
        (spoil_column, r"metadata_1.parquet: has no column image_path, only url"),
        (spoil_pair, r"metadata_1.parquet: does not exist; bring the missing file back"),
        (spoil_npy, r"metadata_1.parquet: has no .npy file in img_emb"),
        (spoil_all, r"no img_emb/img_emb_\*.npy in it"),
        (spoil_zero, r"none of its 12 rows can be a key \(zero\)"),
    ],
)
def test_faults(matcher: Path, made: Path, script: Callable[..., str], spoil: Callable[[Path], None], message: str):
    spoil(made)
    with pytest.raises(UserError, match=message):
        script(*flags_of(matcher, made))
    assert not (made.parent / "keys").exists()


def test_wrong_flags(matcher: Path, made: Path, script: Callable[..., str], monkeypatch):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        script(*flags_of(matcher, made), "--from", made / "nowhere")
    for name in (f"far={made}", "far,near"):
        with pytest.raises(UserError, match="give a single name here, and the folder with --from"):
            script(*flags_of(matcher, made), "--image-sets", name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install -e '.\[export\]' -c constraints.txt"):
        script(*flags_of(matcher, made))


def test_keys_of_another_snapshot_are_refused(world: World, keyed: Path, made: Path, script: Callable[..., str]):
    """Imported keys are bound to the model that --load names."""
    script(*flags_of(keyed, made))
    output = made.parent / "keys/far.hdf5"
    with h5py.File(output, "r+") as file:
        file.attrs["snapshot_hash"] = "0" * 16
    search = ["--load", keyed, "--keys-dir", output.parent, "--image-sets", "far", "--corpus", world.folder / "corpus/lines.txt"]
    with pytest.raises(UserError, match="keys of another snapshot"):
        script("vokenization.vokenize_corpus_mp", *search, "--num-workers", 1)
