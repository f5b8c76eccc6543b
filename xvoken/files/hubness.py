"""What is taken off scores for hubness in a bank, those of pictures in one of sentences or the reverse: see xvoken/search/hubness.py.

keys/{IMAGE_SETS}.{BANK}.hubness.npy     float32 (N,), a number for each key, in the order of the keys
keys/{IMAGE_SETS}.{BANK}.hubness.json    its receipt: what the numbers depend on, and the hash of the file; written last
outputs/{NAME}/txt_ctx.{BANK}.hubness.*  the same for each phrase that pictures are compared with, in the database's order
BANK is the hash of all that the numbers depend on: keys, encoder, its precision, the bank's tokens or pictures, alpha, the neighbours.
The keys stay as they are: the numbers are one more dimension of those in an index, while it searches.
"""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError, one_line
from xvoken.files.locks import sole_writer
from xvoken.files.safe import fingerprint, quoted, read_json, save_array, sha256_of_file, write_json

ENDING = ".hubness.npy"
NEAREST = 16  # neighbours in a bank whose scores are averaged


def numbers_file(where: Path, sets: str, bank: str) -> Path:
    """The numbers of image sets (names joined as in the file name) in the folder of keys `where`; bank: its hash."""
    return where / f"{sets}.{bank}{ENDING}"


def receipt_file(path: Path) -> Path:
    """The receipt of the numbers at `path`."""
    return path.with_suffix(".json")


def written(path: Path) -> bool:
    """Whether the numbers are there, whole."""
    return receipt_file(path).exists() and path.exists()


def told(alpha: float, candidate: str) -> str:
    """What scores are, for the attributes of a file; candidate: what is searched, an image or a phrase."""
    return f"inner products of normalized vectors, less {alpha} times each {candidate}'s mean with its {NEAREST} nearest of the bank"


@contextmanager
def missing(path: Path) -> Generator[bool]:
    """Be the only run that writes the numbers at `path` while the block runs; yields whether they are to be written.

    Another run that is writing them is waited for.
    """
    if written(path):
        yield False
        return
    with sole_writer(path, wait=True):
        if todo := not written(path):
            receipt_file(path).unlink(missing_ok=True)
        yield todo


def write(path: Path, numbers: NDArray[np.float32], bank: dict[str, Any]) -> None:
    """Write numbers float32 (N,) and their receipt; bank: what they depend on, whose fingerprint is the bank's hash."""
    receipt_file(path).unlink(missing_ok=True)
    save_array(path, numbers)
    write_json(receipt_file(path), {"bank": bank, "number": len(numbers), "sha256": sha256_of_file(path)})


def read(path: Path) -> NDArray[np.float32]:
    """The numbers, float32 (N,); raises UserError for a file that is missing, damaged, or not the one that its receipt describes."""
    mend = f"remove it, and it is made again with the next retrieval: rm {quoted(receipt_file(path))}"
    receipt = read_json(receipt_file(path), mend)
    if not isinstance(receipt, dict) or not isinstance(receipt.get("bank"), dict):
        raise UserError(f"{receipt_file(path)}: not a receipt of hubness numbers; {mend}")
    if not path.is_file() or sha256_of_file(path) != receipt.get("sha256"):
        raise UserError(f"{path}: not the file that {receipt_file(path)} describes; {mend}")
    if not path.name.endswith(f".{fingerprint(receipt['bank'])}{ENDING}"):
        raise UserError(f"{path}: the hash in its name is not that of its bank, {fingerprint(receipt['bank'])}; {mend}")
    try:
        numbers = np.load(path)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{path}: no whole .npy file ({one_line(error)[:100]}); {mend}") from None
    if numbers.dtype != np.float32 or numbers.shape != (receipt.get("number"),) or not np.isfinite(numbers).all():
        raise UserError(f"{path}: finite float32 ({receipt.get('number')},) was expected; {mend}")
    return numbers


def check(path: Path) -> str:
    """Compare numbers with their receipt and their name; returns a line that describes them, or raises UserError."""
    numbers, bank = read(path), read_json(receipt_file(path), "")["bank"]
    of = f"{bank['lines']:,} lines" if "lines" in bank else f"{bank['pictures']} pictures"
    return f"hubness of {len(numbers):,} keys, alpha {bank['alpha']}, in a bank of {of}, mean {numbers.mean():.3f}"
