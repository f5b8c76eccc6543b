"""The skeleton of a stage's output: finished, refused, made alone or in a pass of parts, killed on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.running import ROOT
from xvoken.errors import RunError, UserError
from xvoken.files.locks import locked, sole_writer
from xvoken.files.safe import read_json, write_json, write_text
from xvoken.machine import LOCAL, Engine
from xvoken.work.product import Product, one_pass, report_file


@dataclass
class Letters:
    def setup(self, device: str) -> None:
        self.device = device

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        write_text(part.with_suffix(".txt"), "x" * (stop - start))
        return {"skipped": [[start, "odd"]] if start % 2 else []}


def product(folder: Path, name: str = "out", size: int = 3, **more: Any) -> Product:
    """A file that says its settings, with a companion."""
    path = folder / f"{name}.json"
    return Product(path, {"size": size}, lambda: read_json(path, "make it again")["settings"], "these letters", (folder / name,), **more)


def write(made: Product, text: str = "xxx") -> None:
    write_text(made.companions[0], text)
    write_json(made.path, {"settings": made.settings})


def make(*products: Product, total: int = 3, engine: Engine = LOCAL, before: Callable[[Product], object] = id) -> list[Product]:
    """Make products in a pass of parts; before is called with each, in front of it. Returns those that were made."""
    with one_pass(products, total, 1, engine) as made:
        if not made.todo or not made.run(Letters(), ["cpu"], "letters", "n"):
            return []
        made.report(letters=total)
        for one in made.todo:
            before(one)
            write(one, "".join(made.parts.part(n).with_suffix(".txt").read_text() for n in range(total)))
        return made.todo


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


ALL = ["out", "out.json", "out.json.report.json"]


def test_what_is_finished_is_skipped_with_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    one = product(tmp_path)
    assert not one.finished() and names(tmp_path) == []
    assert make(one) == [one] and names(tmp_path) == ALL
    assert capfd.readouterr().err.count("skipped:") == 0
    assert one.finished()
    assert capfd.readouterr().err == f"skipped: {one.path} holds these letters already\n"
    with one.alone() as todo:
        assert not todo
    one.holds = ""
    capfd.readouterr()
    assert one.finished() and capfd.readouterr().err == ""


def test_other_settings_are_refused_or_made_again(tmp_path: Path):
    write(product(tmp_path))
    other = product(tmp_path, size=4)
    with pytest.raises(UserError, match=rf"{other.path} was made with other settings \(size: 3 then, 4 now\); .*rm {other.path}"):
        other.finished()
    assert not product(tmp_path, size=4, replaced=True).finished()
    assert product(tmp_path, size=3, replaced=True).finished()


def test_what_earlier_versions_did_not_say(tmp_path: Path):
    write(product(tmp_path))
    later = product(tmp_path, unsaid={"decoder": "pillow"})
    later.settings["decoder"] = "pillow"
    assert later.finished()
    later.settings["decoder"] = "torchcodec"
    with pytest.raises(UserError, match='decoder: "pillow" then, "torchcodec" now'):
        later.finished()


def test_settings_that_are_not_known_yet(tmp_path: Path):
    """Of an approximate index, which takes long to build: what else differs is refused before."""
    written = product(tmp_path)
    write(Product(written.path, {"size": 3, "index": 7}, companions=written.companions))
    assert written.stands(unknown=["index"])
    with pytest.raises(UserError, match="index: 7 then, null now"):
        written.stands()
    with pytest.raises(UserError, match="size: 3 then, 4 now"):
        product(tmp_path, size=4).stands(unknown=["index"])


def test_a_companion_that_is_gone(tmp_path: Path):
    one = product(tmp_path, extras=(tmp_path / "listed",))
    write(one)
    assert one.finished()  # of what was written with it besides, nobody asks
    one.companions[0].unlink()
    with pytest.raises(UserError, match=rf"{tmp_path}/out is gone, {one.path} is still there; make both again after: rm {one.path}"):
        one.finished()


def test_a_receipt_is_what_counts(tmp_path: Path):
    """Of caches, whose name says the settings."""
    cache = Product(tmp_path / "a.npy", {}, done=tmp_path / "a.json")
    write_text(cache.path, "rows")
    assert not cache.finished()
    write_json(cache.last, {})
    assert cache.finished()
    cache.path.unlink()
    with pytest.raises(UserError, match=rf"a.npy is gone, {cache.last} is still there; .*rm {cache.last}"):
        cache.finished()


def test_leftovers_of_killed_runs_are_removed(tmp_path: Path):
    one = product(tmp_path)
    write(one)
    parts = tmp_path / "out.json.parts"
    parts.mkdir()
    (parts / "000000.json").touch()
    lock = tmp_path / ".out.json.lock"
    lock.write_text("4711")
    assert one.finished() and names(tmp_path) == ["out", "out.json"]
    with sole_writer(one.path):
        assert one.finished() and lock.exists()
    lock.write_text("somebody's")
    assert one.finished() and lock.read_text() == "somebody's"
    lock.unlink()
    one.path.unlink()
    for name in (".out.7-0123abcd.tmp", ".out.json.7-0123abcd.tmp", ".another.7-0123abcd.tmp"):
        (tmp_path / name).touch()
    with one.alone() as todo:
        assert todo and names(tmp_path) == [".another.7-0123abcd.tmp", ".out.json.lock", "out"]
        write(one)
    assert names(tmp_path) == [".another.7-0123abcd.tmp", "out", "out.json"]


@pytest.mark.parametrize("gone", ["out", "out.json", "listed"])
def test_alone_requires_all_that_was_promised(tmp_path: Path, gone: str):
    one = product(tmp_path, extras=(tmp_path / "listed",))
    with pytest.raises(RunError, match=f"{tmp_path}/{gone} was written and is gone, something has removed it"), one.alone():
        write(one)
        (tmp_path / "listed").touch()
        (tmp_path / gone).unlink()


@pytest.mark.parametrize("gone", ["out", "out.json", "out.json.report.json", "listed", "second.json.report.json", "second"])
def test_a_pass_requires_all_that_was_promised(tmp_path: Path, gone: str):
    one, second = product(tmp_path, extras=(tmp_path / "listed",)), product(tmp_path, "second")
    with pytest.raises(RunError, match=f"{tmp_path}/{gone} was written and is gone"), one_pass([second, one], 2, 1) as made:
        made.run(Letters(), ["cpu"], "letters", "n")
        made.report()
        write(one)
        write(second)
        (tmp_path / "listed").touch()
        (tmp_path / gone).unlink()
    assert (tmp_path / "out.json.parts/000001.json").exists()  # and the next run only joins


def test_two_products_of_one_pass(tmp_path: Path):
    first, second = (product(tmp_path, name, own_lock=True) for name in ("first", "second"))
    assert make(first, second, total=4) == [first, second]
    assert first.companions[0].read_text() == second.companions[0].read_text() == "xxxx"
    told = [json.loads(report_file(one.path).read_text()) for one in (first, second)]
    assert told[0] == told[1] and told[0]["letters"] == 4 and told[0]["skipped"] == {"odd": 2}
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("*.parts"))


def test_of_two_products_one_is_finished(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """By another run, since the caller has looked."""
    first, second = (product(tmp_path, name, own_lock=True) for name in ("first", "second"))
    write(second, "kept")
    assert make(first, second) == [first]
    assert capfd.readouterr().err.count(f"skipped: {second.path} holds") == 1
    assert second.companions[0].read_text() == "kept" and not report_file(second.path).exists()
    assert make(first, second) == [] and not list(tmp_path.glob("*.parts"))


def test_a_second_run_at_once_is_refused(tmp_path: Path):
    both = [product(tmp_path, name, own_lock=True) for name in ("first", "second")]
    line = f"another run .process {os.getpid()}. is at work on "
    for held in both:
        with sole_writer(held.path), pytest.raises(UserError, match=f"{line}{held.path}"):
            make(*both)
    with locked(tmp_path / "out.json.parts/lock", "out"), pytest.raises(UserError, match=f"{line}{tmp_path}/out.json"):
        make(product(tmp_path))
    with product(tmp_path).alone():
        with pytest.raises(UserError, match=f"{line}{tmp_path}/out.json"), product(tmp_path).alone():
            pass
        write(product(tmp_path))


def test_another_run_has_ended_since_the_caller_looked(tmp_path: Path):
    one = product(tmp_path)
    write(one, "by the other")
    with pytest.raises(UserError, match=f"another run has just finished {one.path}; run the same command again"):
        make(one)
    with one.alone() as todo:
        assert not todo
    assert one.companions[0].read_text() == "by the other" and names(tmp_path) == ["out", "out.json"]


@pytest.mark.parametrize("at", ["out", "out.json.report.json", "out.json"])
def test_killed_while_it_is_written(tmp_path: Path, at: str):
    """Behind any rename: the next run finds it finished, or joins the parts once more."""
    kill = f"""
import os, signal
from pathlib import Path
from tests.xvoken.work.test_product import make, product
rename = os.replace
def replace(source, target, **options):
    rename(source, target, **options)
    if os.path.basename(target) == {at!r}:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = replace
make(product(Path({str(tmp_path)!r})))
"""
    done = subprocess.run([sys.executable, "-c", kill], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    one = product(tmp_path)
    # The report is there before the file that means done.
    assert report_file(one.path).exists() and one.path.exists() == (at == "out.json")
    part = tmp_path / "out.json.parts/000000.txt"
    assert part.exists()
    stamp = part.stat().st_mtime_ns
    if not one.finished():
        stamps: list[int] = []
        make(one, before=lambda _: stamps.append(part.stat().st_mtime_ns))
        assert stamps == [stamp]  # the parts are not done again
    assert names(tmp_path) == ALL and one.companions[0].read_text() == "xxx"


def test_shares_of_one_work(tmp_path: Path):
    """Who ends last joins; one that comes late finds it made."""
    one = product(tmp_path)
    assert make(one, engine=Engine(share=(1, 2))) == [] and not one.path.exists()
    assert make(one, engine=Engine(share=(2, 2))) == [one] and names(tmp_path) == ALL
    assert make(one, engine=Engine(share=(1, 2))) == [] and names(tmp_path) == ALL


def test_shares_of_two_works_that_make_the_same_product(tmp_path: Path):
    """Each has parts of its own, and joins at the same time: one of both writes what they share, the other one finds it."""
    common, first, second = (product(tmp_path, name, own_lock=True) for name in ("common", "first", "second"))
    share, made, at_work = Engine(share=(1, 1)), {}, threading.Event()

    def slowly(one: Product) -> None:
        if one is common:
            at_work.set()
            (tmp_path / f".{common.path.name}.1.tmp").touch()  # a file that is written right now
            time.sleep(0.3)
            assert (tmp_path / f".{common.path.name}.1.tmp").exists(), "the other one took it for a killed run's"
            (tmp_path / f".{common.path.name}.1.tmp").unlink()

    def work(name: str, *products: Product) -> None:
        made[name] = make(*products, engine=share, before=slowly)

    threads = [threading.Thread(target=work, args=("first", common, first)), threading.Thread(target=work, args=("second", common, second))]
    for thread in threads:
        thread.start()
        at_work.wait(60)
    for thread in threads:
        thread.join(30)
    assert made == {"first": [common, first], "second": [second]}
    assert names(tmp_path) == sorted(
        name for one in ("common", "first", "second") for name in (one, f"{one}.json", f"{one}.json.report.json")
    )


def test_a_share_that_finds_all_of_its_work_made_by_another(tmp_path: Path):
    """While it was at work on its parts, which go too."""
    common, second = (product(tmp_path, name, own_lock=True) for name in ("common", "second"))
    with one_pass([common], 3, 1, Engine(share=(1, 1))) as made:
        assert make(common, second, engine=Engine(share=(1, 1))) == [common, second]
        stamp = common.path.stat().st_mtime_ns
        assert not made.run(Letters(), ["cpu"], "letters", "n") and not made.todo
    assert common.path.stat().st_mtime_ns == stamp
    assert not [name for name in names(tmp_path) if name.endswith((".parts", ".lock"))]


def test_no_torch_is_needed_to_find_that_all_is_done(tmp_path: Path):
    write(product(tmp_path))
    ask = f"""
import json, sys
from pathlib import Path
from xvoken.work.product import Product
path = Path({str(tmp_path / "out.json")!r})
assert Product(path, {{"size": 3}}, lambda: json.loads(path.read_text())["settings"]).finished()
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", ask], cwd=ROOT, check=True)
