"""How towers are computed stands in the plan: whoever goes on with a work takes it from there."""

import json
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from tests.running import run_here
from tests.worlds import World
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.locks import locked
from xvoken.files.safe import write_json
from xvoken.machine import LOCAL, Compute, Engine, Pace, fitting
from xvoken.work.jobs import TowerJob
from xvoken.work.parts import Parts


@dataclass
class Says(TowerJob):
    """Writes how it was computed; fails from the item `fail` on."""

    batch_size: int = 4
    fail: int = 1000
    OLD_BATCH = 8

    def setup(self, device: str) -> None:
        self.device = device

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        if stop > self.fail:
            raise UserError("stopped here")
        part.with_suffix(".txt").write_text(f"{self.pace.engine} {self.batch_size} {self.pace.threads}\n")
        return {}


def said(output: Path, job: Says, total: int = 12, chunk: int = 4, engine: Engine = LOCAL) -> str:
    with Parts(output, total, chunk, {"of": "numbers"}, engine=engine) as parts:
        if not parts.run(job, ["cpu"], "says", "w"):
            return ""
        output.write_text("".join(parts.part(n).with_suffix(".txt").read_text() for n in range(len(parts.ranges))))
    return output.read_text()


def stopped(output: Path, **how: Any) -> Path:
    with pytest.raises(UserError, match="stopped here"):
        said(output, Says(fail=8, **how))
    return output.with_name(f"{output.name}.parts") / "plan.json"


def test_a_run_goes_on_as_it_was_begun(tmp_path: Path):
    plan = json.loads(stopped(tmp_path / "out", pace=Pace("openvino", threads=2)).read_text())
    assert {name: plan["how"][name] for name in ("tower_engine", "threads", "batch_size")} == {
        "tower_engine": "openvino", "threads": 2, "batch_size": 4,
    }  # fmt: skip
    assert said(tmp_path / "out", Says(batch_size=64), chunk=6) == "openvino 4 2\n" * 3  # in the ranges that it was begun in, too


def test_shares_take_what_the_first_has_written(tmp_path: Path):
    assert said(tmp_path / "out", Says(batch_size=2), engine=Engine(share=(2, 2))) == ""
    assert said(tmp_path / "out", Says(batch_size=16, pace=Pace("openvino", threads=1)), engine=Engine(share=(1, 2))) == "torch 2 1\n" * 3


def test_a_share_does_not_write_back_an_older_plan(tmp_path: Path):
    late = Parts(tmp_path / "out", 12, 4, {"of": "numbers"}, engine=Engine(share=(2, 2)))
    with Parts(tmp_path / "out", 12, 4, {"of": "numbers"}, engine=Engine(share=(1, 2))) as first:
        with ThreadPoolExecutor(1) as pool:
            with locked(first.folder / "lock.how", "out"):
                entering = pool.submit(late.__enter__)
                wait([entering], timeout=0.2)
                write_json(first.folder / "plan.json", first.plan | {"how": {"threads": 1}})
            entering.result()
        assert late.plan["how"] == json.loads((first.folder / "plan.json").read_text())["how"]
        late.__exit__(None, None, None)


@pytest.mark.parametrize(
    "how",
    [
        None, [], {}, {"batch_size": 0}, {"batch_size": "4"}, {"threads": None}, {"tower_engine": "tpu"}, {"tower_engine": []},
        {"versions": 1},
    ],
)  # fmt: skip
def test_a_plan_that_says_how_in_a_way_unknown(tmp_path: Path, how: Any):
    path = stopped(tmp_path / "out")
    plan = json.loads(path.read_text())
    write_json(path, plan | {"how": plan["how"] | how if how else how})
    with pytest.raises(UserError, match=rf'^{path}: "how" does not say how a tower is computed; start over with: rm -r {path.parent}$'):
        said(tmp_path / "out", Says())


def test_a_work_begun_before_plans_said_how(tmp_path: Path):
    path = stopped(tmp_path / "out")
    write_json(path, {name: value for name, value in json.loads(path.read_text()).items() if name != "how"})
    (tmp_path / "out.parts/000000.txt").write_text("as it was\n")
    assert said(tmp_path / "out", Says(pace=Pace("openvino", threads=1))) == "as it was\ntorch 4 1\ntorch 8 1\n"


def test_other_versions_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = stopped(tmp_path / "out")
    plan = json.loads(path.read_text())
    write_json(path, plan | {"how": plan["how"] | {"versions": plan["how"]["versions"] | {"torch": "1.0"}}})
    said(tmp_path / "out", Says())
    assert 'begun with other versions (torch: "1.0" then' in caplog.text


def test_what_openvino_has_begun_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stopped(tmp_path / "out", pace=Pace("openvino", threads=1))
    monkeypatch.setattr("xvoken.work.jobs.has_openvino", lambda: False)
    with pytest.raises(UserError, match=r"begun with OpenVINO, which is not installed here; run: pip install -e '?\.\[openvino\]"):
        said(tmp_path / "out", Says())


def test_the_engine_that_auto_takes(monkeypatch: pytest.MonkeyPatch):
    assert Compute().pace(64, 64).engine == "openvino"
    assert Compute().pace(63, 64).engine == "torch"  # converting would take longer
    assert Compute(tower_engine="openvino").pace(1, 64).engine == "openvino"
    assert Compute(tower_engine="torch").pace(10**6, 64).engine == Compute(precision="bf16").pace(10**6, 64).engine == "torch"
    assert Compute(("cuda:0",)).pace(10**6, 64) == Pace(threads=1)
    with pytest.raises(UserError, match="computes on the CPU, not on cuda:0"):
        Compute(("cuda:0",), tower_engine="openvino").pace(1, 1)
    monkeypatch.setattr("xvoken.machine.has_openvino", lambda: False)
    assert Compute().pace(10**6, 64).engine == "torch"
    with pytest.raises(UserError, match=r"--tower-engine openvino: it is not installed; run: pip install"):
        Compute(tower_engine="openvino").pace(1, 1)


def test_long_works_try_first():
    assert Compute().pace(64 * 32, 64).tries
    assert not Compute().pace(64 * 32 - 1, 64).tries and not Compute(batch_size=8).pace(10**6, 64).tries


def test_parts_fit_the_work():
    assert [fitting(total, 32, 256) for total in (1, 50, 363, 5_000, 500_000)] == [32, 32, 32, 96, 256]
    assert fitting(0, 32, 256) == 32


def keys_of(world: World, matcher: Path, output: Path, *flags: object) -> str:
    done = run_here(
        "vokenization/extract_vision_keys.py", "--load-dir", matcher, "--image-sets", "shapes_train", "--ids-root", f"{world.folder}/ids",
        *world.roots, "--cache", output / "cache", "--output", output, *flags,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_keys_by_either_engine_and_in_any_precision(world: World, keyed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for engine in ("torch", "openvino"):
        keys_of(world, keyed, tmp_path / engine, "--tower-engine", engine)
    keys = [h5py.File(tmp_path / engine / "shapes_train.hdf5")["keys"][:] for engine in ("torch", "openvino")]
    np.testing.assert_allclose(*keys, atol=2e-3)  # features are rounded to 16 bits
    assert not np.array_equal(*keys)
    assert "skipped" in keys_of(world, keyed, tmp_path / "openvino", "--tower-engine", "torch")  # finished is finished
    # What was made in bf16 stands where `auto` would take fp32, and is refused where fp32 is asked for.
    keys_of(world, keyed, tmp_path / "bf16", "--precision", "bf16")
    monkeypatch.setattr("xvoken.machine.cpu_has_bf16", lambda: False)
    assert "skipped" in keys_of(world, keyed, tmp_path / "bf16", "--precision", "auto")
    for path in (tmp_path / "bf16").glob("shapes_train*"):
        path.unlink()
    keys_of(world, keyed, tmp_path / "bf16", "--precision", "auto")  # the tower's outputs are there, in bf16
    assert key_files.read_settings(tmp_path / "bf16", "shapes_train")["precision"] == "bf16"
    refused = run_here(
        "vokenization/extract_vision_keys.py", "--load-dir", keyed, "--image-sets", "shapes_train", "--ids-root", f"{world.folder}/ids",
        *world.roots, "--cache", tmp_path / "bf16/cache", "--output", tmp_path / "bf16", "--precision", "fp32",
    )  # fmt: skip
    assert refused.returncode == 2 and "precision" in refused.stderr
