"""Keys of a folder's pictures, kept in the user's cache: what they were made of, and which pictures can't be used.

~/.cache/xvoken/folders/{HASH}/keys.hdf5    keys float32 (N, dim), NaN for a picture left out; ids (N,), reasons (N,) texts;
                                            stamps int64 (N, 3): size, mtime and ctime in ns; attributes say what made them
~/.cache/xvoken/folders/{HASH}/skipped.tsv  id, path and reason of the pictures left out, for the user to read
HASH is that of the folder, the model, the views of a picture and the precision.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from xvoken.console import printable
from xvoken.errors import UserError
from xvoken.files.hdf5 import open_hdf5, writing_hdf5
from xvoken.files.known import cache_folder
from xvoken.files.safe import fingerprint, sha256_of_lines, sha256_of_rows, write_lines

FORMAT = 1  # keys in another one are not read
MEND = "the command that searched the folder"
Stamp = tuple[int, int, int]  # size, mtime and ctime in ns


@dataclass
class FolderKeys:
    """keys: float32 (N, dim), NaN in rows of pictures left out; ids, stamps, reasons: one of each a row.

    The reason why a picture is left out is empty for one that has a key.
    """

    keys: NDArray[np.float32]
    ids: list[str]
    stamps: list[Stamp]
    reasons: list[str]

    @cached_property
    def identity(self) -> str:
        """Hash of all that it holds."""
        lines = (f"{i}\t{stamp}\t{reason}" for i, stamp, reason in zip(self.ids, self.stamps, self.reasons, strict=True))
        return sha256_of_lines([sha256_of_rows(self.keys), *lines])

    @property
    def usable(self) -> list[int]:
        """The rows that have a key."""
        return [row for row, reason in enumerate(self.reasons) if not reason]


def keys_file(settings: dict[str, Any]) -> Path:
    """Where the keys of a folder lie; settings: all that they depend on. Raises UserError for a user without a home."""
    try:
        return cache_folder() / "folders" / fingerprint({**settings, "format": FORMAT}) / "keys.hdf5"
    except RuntimeError as error:
        raise UserError(
            f"{error}, where the pictures' vectors could be kept; name a folder for them: export XDG_CACHE_HOME=FOLDER"
        ) from None


def skipped_file(path: Path) -> Path:
    """The list of pictures left out, beside the keys at `path`."""
    return path.with_name("skipped.tsv")


def write(path: Path, found: FolderKeys, paths: list[str], settings: dict[str, Any]) -> None:
    """Write keys atomically, and the list of the pictures left out before them; paths: of each row."""
    rows = zip(found.ids, map(printable, paths), found.reasons, strict=True)
    write_lines(skipped_file(path), ("\t".join(row) for row in rows if row[2]))
    with writing_hdf5(path) as file:
        file.create_dataset("keys", data=found.keys)
        file.create_dataset("ids", data=found.ids, dtype=h5py.string_dtype())
        file.create_dataset("reasons", data=found.reasons, dtype=h5py.string_dtype())
        file.create_dataset("stamps", data=np.array(found.stamps, np.int64).reshape(-1, 3))
        file.attrs.update({**settings, "folder": printable(settings["folder"]), "sha256": found.identity})


def read(path: Path, dim: int) -> FolderKeys | None:
    """The keys at `path`, None if there are none yet; dim: their dimensions. Raises UserError for a file that is damaged."""
    if not path.exists():
        return None
    try:
        with open_hdf5(path, MEND, keys="f2", ids="s1", reasons="s1", stamps="i2") as file:
            ids, reasons = (file[name].asstr()[:].tolist() for name in ("ids", "reasons"))
            stamps = [(size, modified, changed) for size, modified, changed in file["stamps"][:].tolist()]
            found, expected = FolderKeys(file["keys"][:], ids, stamps, reasons), file.attributes().get("sha256")
            sound = found.keys.shape == (len(ids), dim) and len(ids) == len(stamps) == len(reasons) and found.identity == expected
    except (OSError, ValueError, KeyError) as error:  # damage that shows only when the data are read
        raise UserError(f"{path}: can't be read ({error})") from None
    if not sound:
        raise UserError(f"{path}: holds something else than what was written")
    return found
