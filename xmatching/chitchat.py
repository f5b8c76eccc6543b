"""Lines that no picture fits, which a calibration (xvoken/calibration.py) learns from beside captions.

xmatching/chitchat.txt   the default: everyday dialogue that names nothing to be seen, a line each
"""

from pathlib import Path

from xvoken.files import lines

CHITCHAT = Path(__file__).with_name("chitchat.txt")


def other_lines(path: str | Path | None = None) -> list[str]:
    """Lines of a text file of the user's (None: chitchat.txt), see xvoken.files.lines.other_lines; raises UserError as that does."""
    return lines.other_lines(CHITCHAT if path is None else Path(path))
