"""Folders of parts that are no longer needed: out of the way first, then removed."""

import glob
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from xvoken.locks import locked
from xvoken.messages import UserError

# The names in a folder of parts; the hidden ones are temporary, also those of NFS for what is removed while open.
PART_NAMES = re.compile(r"plan\.json|lock(\.\d+-of-\d+)?|error\.log|keys\.npy|\d{6}\..+|\..+\.tmp|\.nfs.+")


def parts_folder(output: Path) -> Path:
    return output.with_name(output.name + ".parts")


def remove_leftover(output: Path) -> None:
    """Remove the parts of a finished output: a kill can come between the last rename and the clean-up."""
    folder = parts_folder(output)
    remove_discarded(folder)
    if folder.is_dir() and not folder.is_symlink() and not strange(folder):
        # Whoever holds the lock is still joining, and removes them next; what is no lock of ours is left alone.
        with suppress(UserError), locked(folder / "lock", output.as_posix()):
            discard(folder)


def strange(folder: Path) -> Path | None:
    """Something in a folder of parts that no run has put there, or None: it would be removed with the parts."""
    return next((path for path in sorted(folder.glob("*")) if not PART_NAMES.fullmatch(path.name)), None)


def discard(folder: Path) -> None:
    """Remove a folder of parts; first out of the way, so that a run that starts now finds it whole or not at all.

    One that holds something strange stays, with that alone.
    """
    if strange(folder):
        for path in [path for path in folder.iterdir() if PART_NAMES.fullmatch(path.name)]:
            path.unlink(missing_ok=True)
        return
    with suppress(FileNotFoundError):  # somebody has removed it already
        folder.rename(folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.done"))  # process ids come again, in a container always
    remove_discarded(folder)


def remove_discarded(folder: Path) -> None:
    """Remove what is out of the way already; another run may be doing so, and what can't be removed harms nothing."""
    ours = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]+\.done")
    for discarded in folder.parent.glob(f".{glob.escape(folder.name)}.*.done"):
        if ours.fullmatch(discarded.name):
            shutil.rmtree(discarded, ignore_errors=True)
