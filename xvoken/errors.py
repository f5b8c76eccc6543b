"""The library's exceptions, and how a full disk and a lack of memory are told from other libraries' errors."""

import errno
import json
import os
import re

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Error(Exception):
    """Base of all exceptions that the library itself raises; the message is one line: what is wrong, where, and what mends it."""

    exit_code = 1


class UserError(Error):
    """A mistake the user can mend."""

    exit_code = 2


class RunError(UserError):
    """The run itself failed (a worker died, the disk is full); finished work stays on disk."""

    exit_code = 1


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that caused it, comes from a full disk, a quota or a limit on file sizes.

    h5py, safetensors and tokenizers give the error number only in their message, faiss only the system's text for it, numpy's
    tofile neither.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            return True
        text = str(error)
        marks = [mark for number in DISK_FULL for mark in (f"errno = {number},", f"(os error {number})", f"({os.strerror(number)})")]
        if any(mark in text for mark in marks) or re.search(r"^\d+ requested and \d+ written", text):
            return True
        error = error.__cause__ or error.__context__
    return False


def one_line(text: object) -> str:
    """Fold any text into one printable line."""
    return " ".join(str(text).split())


def shown(text: str) -> str:
    """A text for a message, in quotes."""
    return json.dumps(text if len(text) <= 100 else f"{text[:97]}...", ensure_ascii=False)


OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "bad_alloc", "unable to allocate",
    "_status_alloc_failed", "_allocation_failed", "_allocator_failure",  # cuBLAS and cuDNN up to 8, cuDNN from 9 on, nvJPEG
    "unable to find an engine",  # torch, where there is no room to work in for any of cuDNN's ways to compute a convolution
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether numpy, torch (CPU or GPU, or a library that it calls there) or faiss could not get memory."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(mark in text for mark in OUT_OF_MEMORY)
