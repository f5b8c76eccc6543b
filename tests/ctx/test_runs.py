"""Many processes, kills, broken pictures, finished output: the same bytes, nothing lost, nothing silent."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from ctx import run
from tests import builder
from tests.running import ROOT, killed_behind, run_here, run_script, start, stopped_behind, wait_until
from xvoken.errors import UserError
from xvoken.files import context as context_files
from xvoken.files import phrases as caption_db
from xvoken.files.context import Context


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A working folder with model, pictures (some broken), phrases and their database."""
    work = tmp_path_factory.mktemp("runs")
    builder.save_clip(work / "model")
    pictures = builder.save_pictures(work / "pictures", {f"{i:03}": (40 + i % 7 * 10, 40 + i % 5 * 10) for i in range(140)})
    whole = (pictures / "000.png").read_bytes()
    (pictures / "020.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "070.png").write_bytes(b"")
    (pictures / "071.png").write_text("no picture")
    (work / "phrases.txt").write_text("\n".join(builder.phrases(200)), encoding="utf-8")
    run_script("encode_captions", work, "--model", "model", "--captions", "phrases.txt")
    run_script("build_context", work, *flags("one", 1))
    return work


def said_by_build(work, *more: object) -> str:
    """What build_context.py says on stderr."""
    done = run_here("ctx/build_context.py", "--device", "cpu", *more, cwd=work)
    assert done.returncode == 0, done.stderr
    return done.stderr


def flags(name: str, workers: int) -> list[object]:
    return ["--model", "model", "--images", "pictures", "--k", 4, "--exp_name", name, "--num_workers", workers]


def files(work, name):
    """Content by name; a report says how long it took, and only has to be there."""
    folder = work / "outputs" / name
    return {path.name: b"" if path.name.endswith(".report.json") else path.read_bytes() for path in folder.iterdir()}


def test_broken_pictures_are_left_out_of_both_files_and_listed(world):
    folder = world / "outputs/one"
    with h5py.File(folder / "vis_ctx.hdf5") as vis, h5py.File(folder / "txt_ctx.hdf5") as txt:
        assert set(vis) == set(txt) == {f"{i:03}" for i in range(140)} - {"020", "070", "071"}
    listed = [line.split("\t") for line in (folder / "txt_ctx.skipped.tsv").read_text().splitlines()]
    assert [(row[0], row[2].split(":")[0]) for row in listed] == [
        ("020", "can't be decoded"),
        ("070", "empty file"),
        ("071", "not a picture"),
    ]
    assert (folder / "vis_ctx.skipped.tsv").read_bytes() == (folder / "txt_ctx.skipped.tsv").read_bytes()
    assert "137 pictures" in context_files.check_visual(folder / "vis_ctx.hdf5")
    assert "top 4" in context_files.check_textual(folder / "txt_ctx.hdf5")
    assert "phrases in 1 groups" in caption_db.check(world / "outputs/captions_db/caption_db.hdf5")


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(world):
    run_script("build_context", world, *flags("two", 2))
    assert files(world, "two") == files(world, "one")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_gives_the_same_bytes(world):
    command = [sys.executable, str(ROOT / "ctx/build_context.py"), "--device", "cpu", *map(str, flags("killed", 1))]
    process = subprocess.Popen(command, cwd=world, stderr=subprocess.DEVNULL)
    first = world / "outputs/killed/txt_ctx.hdf5.parts/000000.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (world / "outputs/killed/txt_ctx.hdf5").exists()
    stamp = first.stat().st_mtime_ns
    parts = {}
    for name in ("vis", "txt"):  # as a kill while they are written leaves them
        (world / f"outputs/killed/.{name}_ctx.hdf5.7-0123abcd.tmp").touch()

    def keep(*arguments, original=run._rows):
        parts["first"] = first.stat().st_mtime_ns
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_rows", keep)
        run_script("build_context", world, *flags("killed", 1))
    assert parts["first"] == stamp  # the finished part was not made again
    assert not list((world / "outputs/killed").glob(".*"))
    assert files(world, "killed") == files(world, "one")


@pytest.mark.slow
def test_shares_of_the_work_give_the_bytes_of_one_run(world):
    """One after the other, two at once, and all that is missing joined by a run of its own."""
    script = str(ROOT / "ctx/build_context.py")
    for name, order in (("shares", (1, 2)), ("turned", (2, 1))):
        for share in order:
            said = run_script("build_context", world, *flags(name, 1), "--part", share, "--parts", 2)
            assert ("wrote the context of 137 pictures" in said) == (share == order[-1])
        assert files(world, name) == files(world, "one") and not list((world / f"outputs/{name}").glob(".*"))
    command = [sys.executable, script, "--device", "cpu", *map(str, flags("at_once", 1)), "--parts", "2", "--part"]
    both = [subprocess.Popen([*command, share], cwd=world, stderr=subprocess.PIPE, text=True) for share in ("1", "2")]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert files(world, "at_once") == files(world, "one") and not list((world / "outputs/at_once").glob(".*"))
    run_script("build_context", world, *flags("joined", 1), "--part", 1, "--parts", 2)
    assert "9 of 18 parts are missing, the first is 1" in run_script("build_context", world, *flags("joined", 1), "--join", code=2)


@pytest.mark.slow
def test_two_shares_that_end_at_once(world):
    """One has done its last part and not looked further; the other waits for it, and joins."""
    shares = [[ROOT / "ctx/encode_images.py", "--device", "cpu", "--num_workers", 1, "--model", "model", "--images", "pictures",
               "--limit", 16, "--exp_name", "at-once", "--part", part, "--parts", 2] for part in (1, 2)]  # fmt: skip
    first = stopped_behind("000000.json", shares[0], cwd=world)
    second = start([sys.executable, *map(str, shares[1])], cwd=world)
    folder = world / "outputs/at-once"
    wait_until((folder / "vis_ctx.hdf5.parts/000001.json").exists, what="the second share")
    first.send_signal(signal.SIGCONT)
    for share in (first, second):
        _, error = share.communicate(timeout=60)
        assert share.returncode == 0, error
    assert {path.name for path in folder.iterdir()} == {"vis_ctx.hdf5", "vis_ctx.hdf5.report.json", "vis_ctx.skipped.tsv"}


def test_shares_of_phrases_give_the_bytes_of_one_run(world, monkeypatch):
    monkeypatch.setattr("ctx.encode_captions.CHUNK", 64)
    phrases = ["--model", "model", "--captions", "phrases.txt"]
    run_script("encode_captions", world, *phrases, "--exp_name", "whole")
    for share in (2, 1):
        run_script("encode_captions", world, *phrases, "--exp_name", "halves", "--part", share, "--parts", 2)
    assert files(world, "halves") == files(world, "whole")


def test_a_run_killed_between_its_two_files_goes_on_with_the_second(world):
    killed_behind("vis_ctx.hdf5", [ROOT / "ctx/build_context.py", "--device", "cpu", *flags("between", 1)], cwd=world)
    folder = world / "outputs/between"
    assert {path.name for path in folder.iterdir()} >= {"vis_ctx.hdf5", "vis_ctx.hdf5.report.json", "txt_ctx.hdf5.report.json"}
    stamp = (folder / "vis_ctx.hdf5").stat().st_mtime_ns
    assert "skipped: outputs/between/vis_ctx.hdf5 holds the context of these 140 pictures" in said_by_build(world, *flags("between", 1))
    assert (folder / "vis_ctx.hdf5").stat().st_mtime_ns == stamp and files(world, "between") == files(world, "one")
    told = json.loads((folder / "txt_ctx.hdf5.report.json").read_text())
    assert told["pictures"] == 140 and sorted(told["skipped"].values()) == [1, 1, 1]


def test_one_script_at_a_time_gives_the_files_of_the_pass_over_both(world):
    run_script("encode_images", world, "--model", "model", "--images", "pictures", "--exp_name", "apart")
    run_script("retrieve_captions", world, *flags("apart", 1))
    with h5py.File(world / "outputs/apart/vis_ctx.hdf5") as ours, h5py.File(world / "outputs/one/vis_ctx.hdf5") as both:
        assert list(ours) == list(both)
        assert all(np.allclose(ours[name][:], both[name][:], atol=1e-5) for name in ours)
    assert files(world, "apart")["txt_ctx.hdf5"] == files(world, "one")["txt_ctx.hdf5"]


def test_finished_output_is_skipped_and_refused_with_other_settings(world):
    before = files(world, "one")
    assert run_script("build_context", world, *flags("one", 1)) == ""
    said = run_script("build_context", world, *flags("one", 1), "--k", 5, code=2)
    assert "k: 4 then, 5 now" in said and "rm outputs/one/txt_ctx.hdf5" in said
    assert files(world, "one") == before
    (world / "outputs/one/vis_ctx.hdf5").unlink()
    run_script("build_context", world, *flags("one", 1))
    assert set(files(world, "one")) == set(before)
    assert files(world, "one")["txt_ctx.hdf5"] == before["txt_ctx.hdf5"]


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_loses_nothing(world):
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); "
    code = limit + "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(ROOT / "ctx/build_context.py"), "--device", "cpu", *map(str, flags("full", 1))]
    done = subprocess.run(command, cwd=world, capture_output=True, text=True)
    assert done.returncode == 1 and "make room, then run the same command" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().split("\n")[-1]) < 300
    assert not (world / "outputs/full/txt_ctx.hdf5").exists()
    run_script("build_context", world, *flags("full", 1))
    assert files(world, "full") == files(world, "one")


@pytest.mark.slow
def test_two_scripts_that_write_the_same_file(world):
    """One has the parts of the one file, the other those of the other."""
    shared = ["--device", "cpu", *map(str, flags("shared", 1))]
    one = [flag for flag in shared if flag not in ("--k", "4")]
    first = stopped_behind("vis_ctx.skipped.tsv", [ROOT / "ctx/encode_images.py", *one], cwd=world)
    said = run_script("build_context", world, *flags("shared", 1), code=2)
    assert said == f"error: another run (process {first.pid}) is at work on outputs/shared/vis_ctx.hdf5; wait for it, or stop it first"
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=60)
    assert first.returncode == 0
    run_script("build_context", world, *flags("shared", 1))
    assert set(files(world, "shared")) == set(files(world, "one"))


@pytest.mark.slow
def test_scripts_run_from_inside_their_folder(world, tmp_path):
    linked = tmp_path / "ctx"
    linked.mkdir()
    for file in (ROOT / "ctx").glob("*.py"):
        (linked / file.name).symlink_to(file)
    command = [sys.executable, "encode_images.py", "--device", "0", "--model", str(world / "model"), "--images", str(world / "pictures")]
    subprocess.run([*command, "--limit", "3"], cwd=linked, check=True, capture_output=True)
    with h5py.File(linked / "outputs/image_features/vis_ctx.hdf5") as file:
        assert list(file) == ["000", "001", "002"]


def test_dataset_gives_what_the_file_holds_to_many_workers(world):
    path, visual = world / "outputs/one/txt_ctx.hdf5", world / "outputs/one/vis_ctx.hdf5"
    for views, ahead in (("whole", ()), ("five", (5,)), ("nine", (9,))):
        data = Context(path, views, k=3, visual=visual)
        loader = torch.utils.data.DataLoader(data, batch_size=None, num_workers=2, collate_fn=lambda item: item)
        items = list(loader)
        assert len(items) == 137
        with h5py.File(path) as file, h5py.File(visual) as vis:
            for item in items[::20]:
                group = file[f"{item['image_id']}/{views}"]
                assert item["scores"].shape == (*ahead, 3) and item["features"].shape[:-1] == (*ahead, 3)
                assert np.array_equal(item["features"], group["features"][..., :3, :])
                assert np.array_equal(item["scores"], group["scores"][..., :3])
                assert item["texts"] == group["texts"].asstr()[..., :3].tolist()
                assert np.array_equal(item["visual"], vis[item["image_id"]][:])
    chosen = Context(path, image_ids=["130", "005"])
    assert [item["image_id"] for item in (chosen[0], chosen[1])] == ["130", "005"]
    with pytest.raises(Exception, match="no context of picture 020"):
        Context(path, image_ids=["020"])


def test_a_context_file_that_was_changed_is_told(world, tmp_path):
    """A picture that one of the two files lacks is told of that file; numbers that are not finite, or of another type, by the check."""
    for name in ("vis_ctx.hdf5", "txt_ctx.hdf5"):
        shutil.copy(world / "outputs/one" / name, tmp_path / name)
    with h5py.File(tmp_path / "vis_ctx.hdf5", "a") as file:
        del file["130"]
    with pytest.raises(UserError, match=r"vis_ctx.hdf5: no context of picture 130; .*/vis_ctx.skipped.tsv"):
        Context(tmp_path / "txt_ctx.hdf5", visual=tmp_path / "vis_ctx.hdf5")
    for part, change in (("scores", lambda found: found * np.float32("nan")), ("features", lambda found: found.astype(np.float16))):
        path = shutil.copy(world / "outputs/one/txt_ctx.hdf5", tmp_path / "changed.hdf5")
        with h5py.File(path, "a") as file:
            changed = change(file["130/five"][part][:])
            del file["130/five"][part]
            file["130/five"][part] = changed
        with pytest.raises(UserError, match=f"changed.hdf5: {part} of 130/five are not finite numbers of float32"):
            context_files.check_textual(tmp_path / "changed.hdf5")


def test_long_thin_picture_is_encoded(tmp_path, world):
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (20000, 1), "red").save(folder / "thin.png")
    run_script("encode_images", tmp_path, "--model", world / "model", "--images", folder)
    with h5py.File(tmp_path / "outputs/image_features/vis_ctx.hdf5") as file:
        assert np.isfinite(file["thin"][:]).all()
