"""The data of a page, in chunks that a browser loads from disk as they are needed.

A page that is opened as file:// may load neither modules nor data by fetch; so each chunk is a classic script, KIND.NUMBER.js,
that hands its value over: `xvoken.add("text", 3, ...)`. Numbers come as arrays of little-endian bytes in base64.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xvoken.files.safe import write_text

# Beside what JSON escapes: what would end a script inside a page, and what ended a line of script before 2019.
ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029", "\x7f": "\\u007f"})


def literal(value: Any) -> str:
    """A value as a JavaScript literal, which is safe in a script and inside HTML; raises ValueError for numbers that are not finite."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).translate(ESCAPES)


def packed(array: NDArray[Any]) -> str:
    """An array's bytes, little-endian, in base64."""
    return base64.b64encode(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()).decode()


def write_chunk(folder: Path, kind: str, number: int, value: Any) -> None:
    """Write one chunk; kind: what it holds, one of the names that the page's script knows."""
    write_text(folder / f"{kind}.{number}.js", f"xvoken.add({literal(kind)},{number},{literal(value)});\n")
