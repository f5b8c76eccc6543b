"""Two runs that write the same output at once: one of them, and a set of files that belong together."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from tests.running import ROOT, run_here, start, stopped_behind, wait_until
from tests.worlds import World
from xvoken.files import image_ids, keys


def go_on(process: subprocess.Popen) -> str:
    """Let a stopped run go on to its end, which must be a good one; returns what it printed."""
    process.send_signal(signal.SIGCONT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return out


def refused(first: subprocess.Popen, output: Path, command: list[object]) -> None:
    done = run_here(*command)
    line = f"error: another run (process {first.pid}) is at work on {output}; wait for it, or stop it first"
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, line), done.stderr


def waits_and_skips(first: subprocess.Popen, command: list[object]) -> None:
    """`first` stands still; a second run waits for it, and finds its files."""
    second, errors = start([sys.executable, str(ROOT / command[0]), *map(str, command[1:])]), []
    wait_until(lambda: errors.append(second.stderr.readline()) or "waiting for another run" in errors[-1], what="the second run")
    assert "wrote" in go_on(first)
    error = second.communicate(timeout=120)[1]
    assert second.returncode == 0 and "skipped: " in error, error


def embeddings(folder: Path, first: int) -> Path:
    """Ten rows as clip-retrieval leaves them, each with its number in its name and in its vector's direction."""
    (folder / "img_emb").mkdir(parents=True)
    (folder / "metadata").mkdir()
    vectors = np.zeros((10, 16), np.float32)
    vectors[np.arange(10), np.arange(10) % 5 + first] = 1
    np.save(folder / "img_emb/img_emb_0.npy", vectors)
    parquet.write_table(pa.table({"image_path": [f"{first}-{row}.jpg" for row in range(10)]}), folder / "metadata/metadata_0.parquet")
    return folder


def test_two_imports(matcher: Path, tmp_path: Path):
    """The first one's keys had the second one's names, both with exit code 0."""
    commands = [
        ["vokenization/import_embeddings.py", "--load", matcher, "--image-sets", "far", "--keys-dir", tmp_path / "keys", "--from", source]
        for source in (embeddings(tmp_path / "one", 0), embeddings(tmp_path / "two", 8))
    ]
    first = stopped_behind("far.ids", commands[0])
    refused(first, tmp_path / "keys/far.hdf5", commands[1])
    go_on(first)
    read = keys.read(tmp_path / "keys", "far")
    assert read.ids == [f"0-{row}.jpg" for row in range(10)] and read.keys.argmax(1).tolist() == [0, 1, 2, 3, 4] * 2
    assert not list((tmp_path / "keys").glob(".*"))


def test_a_lock_of_a_killed_import_holds_up_nobody(matcher: Path, tmp_path: Path):
    source, where = embeddings(tmp_path / "one", 0), tmp_path / "keys"
    command = ["vokenization/import_embeddings.py", "--load", matcher, "--image-sets", "far", "--keys-dir", where, "--from", source]
    first = stopped_behind("far.ids", command)
    first.kill()
    first.communicate()
    assert (where / ".far.hdf5.lock").read_text() == str(first.pid)
    assert run_here(*command).returncode == 0
    assert not [path.name for path in where.glob(".*.lock")]


def test_two_exports(keyed: Path, tmp_path: Path):
    command = ["vokenization/export_embeddings.py", "--load", keyed, "--image-sets", "shapes_valid", "--output", tmp_path]
    first = stopped_behind("img_emb_0000.npy", command)
    refused(first, tmp_path / "shapes_valid", [*command, "--rows-per-file", 2])
    go_on(first)
    assert [path.name for path in (tmp_path / "shapes_valid/img_emb").iterdir()] == ["img_emb_0000.npy"]
    assert not list((tmp_path / "shapes_valid").glob(".*"))


@pytest.mark.slow
def test_two_evaluations(world: World, keyed: Path, tmp_path: Path):
    command = ["vokenization/evaluate_retrieval.py", "--load", keyed, "--image-sets", "shapes_valid", *world.roots]
    command += ["--output", tmp_path, "--device", "cpu"]
    first = stopped_behind("shapes_valid.json", command)
    refused(first, tmp_path / "shapes_valid.json", [*command, "--precision", "bf16"])  # the same is there already
    assert "wrote" in go_on(first)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes_valid.json"]


def test_two_preparations(tmp_path: Path):
    rows = [{"context": [f"line {i}"], "response": "yes"} for i in range(3)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["tokenization/prepare_reddit.py", tmp_path, tmp_path / "out"]
    first = stopped_behind("train.pkl.txt.json", command)
    refused(first, tmp_path / "out/train.pkl.txt", [*command, "--limit", 1])
    go_on(first)
    assert (tmp_path / "out/train.pkl.txt").read_text().count("\n") == 3
    assert json.loads((tmp_path / "out/train.pkl.txt.json").read_text())["limit"] is None
    assert not list((tmp_path / "out").glob(".*"))


def test_two_orders_of_a_set(world: World, tmp_path: Path):
    pictures, command = world.folder / "images", ["vokenization/create_image_ids.py", "--ids-root", tmp_path, "--image-sets"]
    first = stopped_behind("album.json", [*command, f"album={pictures}"])
    waits_and_skips(first, [*command, f"album={pictures}"])
    assert len(image_ids.read(tmp_path, "album")) == 24
    assert sorted(path.name for path in tmp_path.iterdir()) == ["album.ids", "album.json"]


@pytest.mark.slow
def test_two_extractions(world: World, keyed: Path, tmp_path: Path):
    command = ["vokenization/extract_vision_keys.py", "--load", keyed, "--image-sets", "shapes_valid", "--output", tmp_path, *world.roots]
    command += ["--ids-root", f"{world.folder}/ids", "--cache", f"{world.folder}/cache", "--num-workers", 1, "--precision", "fp32"]
    waits_and_skips(stopped_behind("shapes_valid.ids", command), command)
    assert "6 keys" in keys.check(tmp_path, "shapes_valid") and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("gone", ["far.ids", "far.path"])
def test_what_is_removed_while_keys_are_written(matcher: Path, tmp_path: Path, gone: str):
    source, where = embeddings(tmp_path / "one", 0), tmp_path / "keys"
    command = ["vokenization/import_embeddings.py", "--load", matcher, "--image-sets", "far", "--keys-dir", where, "--from", source]
    process = stopped_behind("far.path", command)
    (where / gone).unlink()
    process.send_signal(signal.SIGCONT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and f"/{gone} was written and is gone, something has removed it" in error, error
