"""Folders of parts that are no longer needed: out of the way first, then removed."""

import glob
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from xvoken.locks import locked
from xvoken.messages import UserError


def parts_folder(output: Path) -> Path:
    return output.with_name(output.name + ".parts")


def remove_leftover(output: Path) -> None:
    """Remove the parts of a finished output: a kill can come between the last rename and the clean-up."""
    folder = parts_folder(output)
    remove_discarded(folder)
    if folder.exists() and not folder.is_symlink():
        # Whoever holds the lock is still joining, and removes them next; what is no lock of ours is left alone.
        with suppress(UserError), locked(folder / "lock", output.as_posix()):
            discard(folder)


def discard(folder: Path) -> None:
    """Remove a folder of parts; first out of the way, so that a run that starts now finds it whole or not at all."""
    with suppress(FileNotFoundError):  # somebody has removed it already
        folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.done"))  # process ids come again, in a container always
    remove_discarded(folder)


def remove_discarded(folder: Path) -> None:
    """Remove what is out of the way already; another run may be doing so, and what can't be removed harms nothing."""
    for discarded in folder.parent.glob(f".{glob.escape(folder.name)}.*.done"):
        shutil.rmtree(discarded, ignore_errors=True)
