"""The wheel, as somebody has it who never saw the clone; scripts/release_check.bash runs a copy of this file with that Python.

python -I installed_wheel.py MODULES    MODULES: the files that xvoken must consist of, a line each
"""

import importlib.util
import subprocess
import sys
import tempfile
from importlib.metadata import distribution
from pathlib import Path

import numpy as np

import xvoken

STAGES = ("xmatching", "tokenization", "vokenization", "ctx", "scripts", "tests", "benchmarks")


def check_files(modules: list[str]) -> None:
    """The library whole, typed, and nothing beside it."""
    folder = Path(xvoken.__file__).parent
    assert folder.is_relative_to(sys.prefix), f"imported from {folder}"
    found = distribution("xvoken")
    assert found.version == xvoken.__version__, (found.version, xvoken.__version__)
    tops = {path.parts[0] for path in found.files or [] if path.parts[0] != ".."}
    assert tops == {"xvoken", f"xvoken-{xvoken.__version__}.dist-info"}, tops
    strange = [name for name in STAGES if (folder.parent / name).exists() or importlib.util.find_spec(name)]
    assert not strange, f"in site-packages: {strange}"
    have = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert have == set(modules), f"missing or too many: {sorted(have ^ set(modules))}"
    assert "py.typed" in have


def check_search() -> None:
    """Keys written, read and searched, against a product of matrices."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[:20] + rng.standard_normal((20, 16)).astype(np.float32) / 10
    with tempfile.TemporaryDirectory() as folder:
        xvoken.write_keys(folder, "mine", vectors, [f"{i:03d}" for i in range(300)])
        keys = xvoken.read_keys(folder, ["mine"])
        assert np.array_equal(keys.vectors, vectors)
        hits = xvoken.open_index(keys, device="cpu").search(queries, k=5)
    best = np.argsort(-(queries.astype(np.float64) @ vectors.T.astype(np.float64)), axis=1)[:, :5]
    assert np.array_equal(hits.rows, best)
    assert hits.ids == [[f"mine/{row:03d}" for row in line] for line in best]


def check_names() -> None:
    """All public names can be loaded, and a mistake is the library's own error."""
    for name in xvoken.__all__:
        getattr(xvoken, name)
    try:
        xvoken.read_keys("nowhere", ["mine"])
    except xvoken.Error:
        return
    raise AssertionError("a missing folder was taken")


def check_command() -> None:
    """The command of the wheel is there, and its mistakes are one line."""
    command = Path(sys.prefix, "bin/xvoken")
    said = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"  {name} " in said for name in ("search", "page", "serve", "check")), said
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([command, "search", "--images", folder, "--load", folder, "a dog"], capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr


if __name__ == "__main__":
    check_files(Path(sys.argv[1]).read_text().splitlines())
    check_search()
    check_names()
    check_command()
    loaded = sorted(set(STAGES) & {name.split(".")[0] for name in sys.modules})
    assert not loaded, loaded
    print(f"installed: xvoken {xvoken.__version__}, alone in site-packages; writes, reads and searches keys")
