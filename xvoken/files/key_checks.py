"""Are these rows keys: finite, of length 1, and those that were written?"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError
from xvoken.files.safe import sha256_of_rows

RAW = "raw"  # attribute of a file whose rows are a backbone's features, which are no keys, and not of length 1: names the backbone
BLOCK = 1 << 16  # rows checked at once


def require_keys(path: Path, rows: NDArray[np.float32], attributes: dict[str, Any], raw: bool) -> None:
    """Raise UserError for rows (N, dim) of a file that can't be searched; raw: whether raw features are taken too.

    Of a file of another tool, which does not say what it holds, the rows' length is looked at.
    """
    instead = f"keys are made by: {commands.extract_keys('SNAPSHOT', path.stem)}"
    if RAW in attributes and not raw:
        raise UserError(f"{path}: raw features of {attributes[RAW]}, not of length 1, which no sentence is searched in; {instead}")
    for start in range(0, len(rows), BLOCK):  # else their scores, not finite either, would rank above all others
        block = rows[start : start + BLOCK]
        if not np.isfinite(block).all():
            bad = start + int(np.argmin(np.isfinite(block).all(1)))
            raise UserError(f"{path}: the key of row {bad} is not finite; remove the set's files beside it and extract it again")
        if "sha256" not in attributes and (odd := abs(np.linalg.norm(block, axis=1) - 1) > 0.01).any():
            bad = int(odd.argmax())
            raise UserError(f"{path}: row {start + bad} has length {np.linalg.norm(block[bad]):.4g}, not 1 as keys have; {instead}")


def describe(path: Path, rows: NDArray[np.float32], attributes: dict[str, Any]) -> str:
    """A line that says what the rows are; raises UserError if they are not of length 1, or not those that were written."""
    raw, lengths, size = attributes.get(RAW), np.linalg.norm(rows, axis=1), f"of {rows.shape[1]} dimensions by"
    if not raw and not np.allclose(lengths, 1, atol=1e-3):
        raise UserError(f"{path}: row {int(np.argmax(abs(lengths - 1)))} is not of length 1; remove it and make it again")
    if attributes.get("sha256", content := sha256_of_rows(rows)) != content:
        raise UserError(f"{path}: its keys are not those that were written; remove it and make it again")
    if raw:
        return f"{len(rows):,} raw features {size} {raw}, no keys: lengths {lengths.min():.4g} to {lengths.max():.4g}"
    return f"{len(rows):,} keys {size} {attributes.get('snapshot', 'unknown')}"
