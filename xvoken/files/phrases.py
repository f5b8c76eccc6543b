"""A database of encoded phrases, as Xmodal-Ctx lays it out.

caption_db.hdf5    groups "0", "1", ... in order, each with
                   keys (b, d) float32: normalized projections, which pictures are compared with
                   features (b, f) float32: the text tower's pooled output before the projection
                   captions (b,) UTF-8 texts
                   attributes: model, model_hash, revision, date, phrases, settings
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.console import log
from xvoken.errors import UserError
from xvoken.files.hdf5 import is_dataset, open_hdf5, writing_hdf5
from xvoken.files.safe import fingerprint, sha256_of_file

MAKE = commands.encode_captions()
KINDS = {"keys": "f2", "features": "f2", "captions": "s1"}


@dataclass
class CaptionDB:
    """keys (n, d) and features (n, f) float32, captions (n,) texts; identity: a hash that stands for the content."""

    keys: NDArray[np.float32]
    features: NDArray[np.float32]
    captions: NDArray[np.object_]
    identity: str


def write(path: Path, groups: Iterable[tuple[NDArray[np.float32], NDArray[np.float32], list[str]]], attributes: dict[str, Any]) -> None:
    """Write the groups one after another; groups: keys (b, d), features (b, f), captions (b) of each."""
    with writing_hdf5(path) as file:
        for number, (keys, features, captions) in enumerate(groups):
            group = file.create_group(str(number))
            group.create_dataset("keys", data=keys)
            group.create_dataset("features", data=features)
            group.create_dataset("captions", data=captions, dtype=h5py.string_dtype())
        file.attrs.update(attributes)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a database was made with, see InsideFile.settings."""
    with open_hdf5(path, MAKE) as file:
        return file.settings()


def read(path: Path, model: str, name: str, model_hash: str, dim: int) -> CaptionDB:
    """Read a whole database into memory for the model that is to search it.

    model: as the user gave it; name, model_hash and dim: of its encoder.
    Raises UserError for a file that is missing or damaged, that another model made, or with a key that is not finite.
    """
    # encode_captions.py names its file by --exp_name, which is the folder's name.
    make = commands.encode_captions(model, path.parent.name if path.parent.name != "captions_db" else "") + " [--captions FILE]"
    mend = f"remove it, then make it with: {make}"
    with open_hdf5(path, make) as file:
        made = file.attributes()
        maker = made.get("model_hash")
        if maker is None:
            log.warning(f"{path} does not say which model made it; make sure that it was {model}")
        elif maker != model_hash:
            raise UserError(f"{path}: made by another model ({made.get('model')} {maker}, this is {name} {model_hash}); {mend}")
        groups = _groups(file, path, mend)
        keys, features = (np.concatenate([group[name][:] for group in groups]) for name in ("keys", "features"))
        captions = _captions(groups, path, mend)
        settings = made.get("settings")
    if keys.shape[1] != dim:
        raise UserError(f"{path}: keys of {keys.shape[1]} dimensions, but the vectors of {name} have {dim}; {mend}")
    if len(bad := np.flatnonzero(~np.isfinite(keys).all(1))):  # such a key would rank above all others, for every picture
        raise UserError(f"{path}: the key of {captions[bad[0]]!r} is not finite ({len(bad)} such phrases); {mend}")
    identity = fingerprint({"settings": settings, "phrases": len(keys)}) if settings else sha256_of_file(path)[:12]
    return CaptionDB(keys, features, captions, identity)


def read_captions(path: Path) -> list[str]:
    """The phrases alone, in order, whichever model encoded them; raises UserError for a file that is missing or damaged."""
    mend = f"remove it, then make it with: {MAKE}"
    with open_hdf5(path, MAKE) as file:
        return _captions(_groups(file, path, mend), path, mend).tolist()


def _captions(groups: list[h5py.Group], path: Path, mend: str) -> NDArray[np.object_]:
    try:
        return np.concatenate([group["captions"].asstr()[:] for group in groups])
    except UnicodeDecodeError:
        raise UserError(f"{path}: captions that are not UTF-8; {mend}") from None


def _groups(file: h5py.File, path: Path, mend: str) -> list[h5py.Group]:
    names = [str(number) for number in range(len(file))]
    if not names or any(name not in file for name in names):
        raise UserError(f'{path}: its groups are not "0", "1", ...; {mend}')
    for name in names:
        parts: dict[str, Any] = {part: file[name].get(part) if isinstance(file[name], h5py.Group) else None for part in KINDS}
        if not all(is_dataset(found, KINDS[part]) for part, found in parts.items()) or len({len(found) for found in parts.values()}) > 1:
            raise UserError(f"{path}: group {name} does not hold keys, features and captions of one length; {mend}")
    return [file[name] for name in names]


def check(path: Path) -> str:
    """Check a database group by group; returns a line that describes it, or raises UserError."""
    mend = f"remove it, then make it with: {MAKE}"
    with open_hdf5(path, MAKE) as file:
        groups, total = _groups(file, path, mend), 0
        for group in groups:
            lengths = np.linalg.norm(group["keys"][:], axis=1)
            if not np.allclose(lengths, 1, atol=1e-3):
                raise UserError(f"{path}: key {total + int(np.argmax(abs(lengths - 1)))} is not of length 1; {mend}")
            total += len(lengths)
        return f"{total:,} phrases in {len(groups):,} groups by {file.attributes().get('model', 'unknown')}"
