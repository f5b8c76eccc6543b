"""Safe files: written under a temporary name and renamed when whole; hashes; the comparison of settings."""

import hashlib
import json
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import RunError, UserError, disk_full


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """Yield a temporary name beside `path`, to write to; on success that file is flushed to the disk and renamed to `path`.

    Raises RunError if the disk is full, UserError if `path` is a folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by process id alone: machines that share a file system use the same ids.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with _naming_a_full_disk(path):
            yield temporary
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())  # some libraries create files that only their owner can read
            try:
                os.replace(temporary, path)
            except IsADirectoryError:
                raise UserError(f"{path} is a folder, and a file is to be written there; move it away, then run the same command") from None
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporary(path: Path) -> None:
    """Remove what killed runs of `replacing` and `replacing_files` have left for `path`, and nothing whose name only begins alike."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.\d+(-[0-9a-f]{{8}})?\.tmp")
    folder = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.tmp")  # as TemporaryDirectory names it
    for leftover in path.parent.glob(f".{escape(path.name)}.*.tmp"):
        if ours.fullmatch(leftover.name) and leftover.is_file():
            leftover.unlink(missing_ok=True)
        elif folder.fullmatch(leftover.name) and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def replacing_files(folder: Path) -> Generator[Path]:
    """Yield a temporary folder, for libraries that write several files; on success each file is renamed into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as temporary, _naming_a_full_disk(folder):
        yield Path(temporary)
        for file in sorted(Path(temporary).iterdir()):
            with replacing(folder / file.name) as name:
                file.rename(name)


@contextmanager
def _naming_a_full_disk(path: Path) -> Generator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(error, UserError) and disk_full(error):  # many libraries do not name the file
            raise RunError(f"no room on the disk for {path}; make room, then run the same command to go on") from error
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def matrix(given: Any, what: str) -> NDArray[np.float32]:
    """Vectors as a contiguous float32 array (N, dim); raises UserError for anything else, such as texts. what: names them in messages."""
    try:
        found = np.ascontiguousarray(given, np.float32)
    except (TypeError, ValueError):
        raise UserError(
            f"{what}: vectors were expected, as encode_texts and encode_images give them; this is {type(given).__name__}"
        ) from None
    if found.ndim != 2:
        raise UserError(f"{what} of shape {np.shape(given)}: vectors (N, dim) were expected")
    return found


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write an .npy file atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:  # given a name, numpy would add an ending
        np.save(file, array)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write an .npz file atomically."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **cast(dict[str, Any], arrays))  # numpy types its own keyword allow_pickle otherwise


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically, UTF-8 with newlines as given."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write lines atomically, one at a time, each ended by a newline."""
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically, UTF-8, indented."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, mend: str) -> Any:
    """Parse a JSON file; raises UserError with the file, the place of the fault and `mend`, what to do about it."""
    try:
        if path.is_fifo() or path.is_socket():  # opening or reading it would wait for a writer
            raise UserError(f"{path} is not a regular file; {mend}")
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; {mend}") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, a JSON file was expected; {mend}") from None
    except RecursionError:
        raise UserError(f"{path} is JSON nested too deeply, which no stage writes; {mend}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); {mend}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}); {mend}") from None


def sha256_of_file(path: Path) -> str:
    """Hash of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_rows(array: NDArray[Any]) -> str:
    """Hash of an array's bytes, row after row, in hex; in blocks, so that Ctrl-C is handled between them."""
    digest = hashlib.sha256()
    for start in range(0, len(array), 1 << 16):
        digest.update(np.ascontiguousarray(array[start : start + (1 << 16)]).data)
    return digest.hexdigest()


def sha256_of_lines(lines: Iterable[str]) -> str:
    """Hash of texts, each ended by a newline, as UTF-8, in hex."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode("utf-8", "surrogateescape"))
        digest.update(b"\n")
    return digest.hexdigest()


def fingerprint(settings: dict[str, Any]) -> str:
    """Name settings by a short hash that does not depend on the order of their keys: 12 hex digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Say which settings differ and how, as "batch: 1 then, 2 now"; an empty text if none does."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key}: {_short(old.get(key))} then, {_short(new.get(key))} now" for key in keys)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def same_settings(path: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise UserError if the finished file `path` was made with other settings or inputs; old: its own; new: this run's."""
    changed = differences(old, new)
    if changed:
        raise UserError(f"{path} was made with other settings ({changed}); keep those, or make it again after: rm {quoted(path)}")


def require_writable(path: Path, without: str) -> None:
    """Raise UserError if a file can't be written beside the keys; without: the flag that does without it."""
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"{path}: can't be written; copy the keys to a folder that can and give it as --keys-dir, or take {without}")


def all_there(path: Path, *companions: Path) -> None:
    """Raise UserError if a file that was written with the finished file `path` is gone."""
    for companion in companions:
        if not companion.exists():
            raise UserError(f"{companion} is gone, {path} is still there; make both again after: rm {quoted(path)}")


def all_written(done: Path, *companions: Path) -> None:
    """Raise RunError if a file that a stage has written is missing at its end, so that no chain of stages goes on without it.

    done: the file whose existence tells a later run that the stage is finished.
    """
    for path in (done, *companions):
        if not path.exists():
            what = f"{path} was written and is gone, something has removed it"
            first = f"after: rm {quoted(done)}" if done.exists() else "to make it again"
            raise RunError(f"{what}; run the same command {first}")


def quoted(path: Path | str) -> str:
    """A path quoted for the shell, in a command to be copied."""
    return shlex.quote(str(path))
