"""Do the stages compute the same floats as at another revision? `python -m tests.pins.against REV`

Runs the stages of both checkouts in the same small world on this machine, one after the other, and compares all that they
write in floats: keys, scores, caches, weights of trainings, contexts. Says for each file whether it is equal to the bit, or how
large the largest difference is; ends with 1 if any differs or is missing on one side.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from tests.pins import world
from tests.pins.chain import start

ROOT = Path(__file__).resolve().parents[2]


def floats(path: Path) -> dict[str, NDArray[np.floating]]:
    """All arrays of floats in a file, by name."""
    if path.suffix == ".npy":
        arrays = {"": np.load(path)}
    elif path.suffix == ".safetensors":
        arrays = load_file(path)
    else:
        arrays = {}
        with h5py.File(path) as file:
            file.visititems(lambda name, found: arrays.update({name: found[()]}) if isinstance(found, h5py.Dataset) else None)
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix in (".npy", ".safetensors", ".hdf5")}


def difference(then: Path, now: Path) -> str:
    """What differs between two files; empty where all floats are equal to the bit."""
    old, new = floats(then), floats(now)
    if odd := sorted(old.keys() ^ new.keys()):
        return f"{len(odd)} arrays are on one side only, {odd[0]} for one"
    largest, where = 0.0, ""
    for name, array in old.items():
        if array.shape != new[name].shape or array.dtype != new[name].dtype:
            return f"{name} was {array.dtype} {array.shape}, is {new[name].dtype} {new[name].shape}"
        if array.tobytes() == new[name].tobytes():
            continue
        apart = np.abs(array.astype(np.float64) - new[name].astype(np.float64))
        most = np.inf if (np.isnan(array) != np.isnan(new[name])).any() else float(np.nanmax(apart, initial=0))
        if not where or most > largest:
            largest, where = most, name
    return f"largest difference {largest:.3g}{f' in {where}' if where else ''}" if where or largest else ""


def compared(then: Path, now: Path, given: set[str]) -> Iterator[tuple[str, str]]:
    """Name and difference of each file that was written on either side."""
    before, after = files(then) - given, files(now) - given
    for name in sorted(before | after):
        if name not in before or name not in after:
            yield name, "only written now" if name in after else "no longer written"
        elif floats(then / name) or floats(now / name):
            yield name, difference(then / name, now / name)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("python -m tests.pins.against REV, as in HEAD~1 or main")
    rev, different = sys.argv[1], 0
    with TemporaryDirectory(prefix="against-") as temporary:
        folder = Path(temporary)
        there, then, now = folder / "checkout", folder / "then", folder / "now"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(there), rev], cwd=ROOT, check=True)
        try:
            then.mkdir()
            world.build(then)
            shutil.copytree(then, now)
            given = files(then)
            start(there, then)
            start(ROOT, now)
            for name, what in compared(then, now, given):
                print(f"{name}: {what or 'equal to the bit'}")
                different += bool(what)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(there)], cwd=ROOT, check=True)
    print(f"{different} files differ from {rev}" if different else f"all floats are those of {rev}, to the bit")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
