"""Weights of Vokenization and Maria where a snapshot is expected: told by their first bytes, and never read here."""

from pathlib import Path

from xvoken import commands
from xvoken.errors import UserError

PICKLED_MODEL = (
    "A pickled model (BEST.pth.model) can run code when it is read, so it is refused: take BEST.pth beside it, or save model.state_dict() "
    "where you trust the file"
)
# How torch.save's files begin: a zip archive, since torch 1.6, or a pickled number.
TORCH = (b"PK\x03\x04", b"\x80\x02\x8a\n")


def require_file(path: Path) -> None:
    """Raise UserError if there is no such file of weights, a folder for example."""
    if not path.is_file():
        folder = f"a folder; give the file in it, such as {path / 'BEST.pth'}"
        raise UserError(f"{path}: {folder if path.is_dir() else 'no such file'}")


def refuse_torch_file(path: Path) -> None:
    """Raise UserError, with the command that converts it, for a file that torch.save has written."""
    if path.suffix == ".model":
        raise UserError(f"{path}: {PICKLED_MODEL}")
    with open(path, "rb") as file:
        first = file.read(4)
    if first in TORCH:
        raise UserError(f"{path} is no snapshot but a file of torch; make one of it: {commands.convert(path, snapshot_of(path))}")


def refuse_their_folder(folder: Path) -> None:
    """Raise UserError for a folder with BEST.pth or BEST.pth.model, as Vokenization and Maria leave one; it is to hold no snapshot."""
    if (path := folder / "BEST.pth").is_file():
        raise UserError(f"{folder} holds no snapshot but Vokenization's or Maria's weights; make one: {commands.convert(path, folder)}")
    if (path := folder / "BEST.pth.model").is_file():
        refuse_torch_file(path)


def snapshot_of(path: Path) -> Path:
    """Where the snapshot of a file is best made: beside it, as all stages look there."""
    return path.parent if path.parent.name else Path("snap/xmatching/NAME")
