"""What the tests on a GPU share: the GPU, or the CPU in its place, and one run of a stage on each.

    python -m pytest tests/gpu                         # skipped where there is no GPU
    XVOKEN_AS_GPU=cpu python -m pytest tests/gpu       # the CPU stands for it: tries the tests themselves

Tolerances are those of other kernels, sums in another order, and 16 bits in the cache: NEAR in fp32; bf16 keeps 8 bits, so a vector of
length 1 differs from fp32's by up to LOW in its largest component.
"""

import gc
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.running import run_here
from tests.worlds import World

NEAR, LOW = 2e-3, 5e-2
LIMIT = 100  # seconds of a test, with what it needs to be made first


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End a test that hangs: `fail` raises what `except Exception` lets pass."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"not done within {LIMIT} s"))
    signal.alarm(LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def bounded(room: float) -> Generator[None]:
    """Let this process take so many bytes of the GPU's memory besides what it holds."""
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((held + room) / torch.cuda.get_device_properties(0).total_memory)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture(scope="session", autouse=True)
def gpu() -> str:
    """The GPU's name for torch. The CPU's, where it stands for it, is cpu:0: for torch a CPU, for the jobs a GPU's batches and threads."""
    if torch.cuda.is_available():
        return "cuda:0"
    if os.environ.get("XVOKEN_AS_GPU") == "cpu":
        return "cpu:0"
    pytest.skip("needs a GPU (XVOKEN_AS_GPU=cpu lets the CPU stand for it)")


@pytest.fixture(scope="session")
def on_both(gpu: str) -> Callable[..., None]:
    """Run a stage on the CPU in fp32 and on the GPU in `precision`; its flags come from a function of the place's name, cpu or gpu."""

    def run(stage: str, precision: str, flags: Callable[[str], list[object]], cwd: Path | None = None) -> None:
        for place, device, asked in (("cpu", "cpu", "fp32"), ("gpu", "0", precision)):
            more = {"cwd": cwd} if cwd else {}
            done = run_here(stage, *flags(place), "--device", device, "--num-workers", 1, "--precision", asked, **more)
            assert done.returncode == 0, done.stderr

    return run


@pytest.fixture(scope="session")
def both_keyed(world: World, keyed: Path, tmp_path_factory: pytest.TempPathFactory, on_both: Callable) -> dict[tuple[str, str], Path]:
    """The folders of the keys of shapes_train by place and precision, each made with a cache of its own."""
    found = {}
    for precision in ("fp32", "bf16"):
        folder = tmp_path_factory.mktemp(precision)
        sets = ["--load", keyed, "--image-sets", "shapes_train", "--ids-root", world.folder / "ids", *world.roots]

        def flags(place: str, sets: list[object] = sets, folder: Path = folder) -> list[object]:
            return [*sets, "--cache", folder / f"cache-{place}", "--output", folder / place]

        on_both("vokenization/extract_vision_keys.py", precision, flags)
        found |= {(place, precision): folder / place for place in ("cpu", "gpu")}
    return found


def same_rows(ours: tuple[NDArray, NDArray], theirs: tuple[NDArray, NDArray], near: float) -> None:
    """Two searches' scores and rows (Q, k): scores within `near`, and rows equal where the scores beside are further apart than that."""
    np.testing.assert_allclose(ours[0], theirs[0], atol=near)
    gaps = -np.diff(theirs[0], axis=1)
    clear = np.ones_like(theirs[1], bool)
    clear[:, 1:] &= ~(gaps <= 2 * near)  # NaN, the scores of an empty line, are clear too: there rows are -1
    clear[:, :-1] &= ~(gaps <= 2 * near)
    clear[:, -1] = np.isnan(theirs[0][:, -1])  # what would come after the last one is not known
    assert (ours[1] == theirs[1])[clear].all()
