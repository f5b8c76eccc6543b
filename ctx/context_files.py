"""The two context files that captioners read, as Xmodal-Ctx lays them out.

vis_ctx.hdf5    one float32 dataset (f,) per picture, named by its id: the vision tower's pooled output before the
                projection; attribute fdim = f
txt_ctx.hdf5    a group per picture, in it `whole`, `five` and `nine`, each with features float32 (..., k, d),
                scores float32 (..., k) (inner products of normalized projections, descending), texts (..., k);
                ... is nothing, 5 or 9
Attributes of both: model, model_hash, revision, date, settings. A picture that can't be used is in neither;
{file}.skipped.tsv has id, path and reason of each.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ctx.caption_db import CaptionDB
from ctx.crops import SLICES
from xvoken.disk import write_lines
from xvoken.hdf5 import open_hdf5, writing_hdf5
from xvoken.messages import UserError


def skipped_file(path: Path) -> Path:
    return path.with_suffix(".skipped.tsv")


def write_visual(
    path: Path, rows: Iterable[tuple[str, NDArray[np.float32]]], width: int, skipped: list[tuple[str, str, str]], attributes: dict[str, Any]
) -> None:
    """rows: id and features (width,) of each picture."""
    write_lines(skipped_file(path), ("\t".join(row) for row in skipped))
    with writing_hdf5(path) as file:
        file.attrs["fdim"] = width
        for image_id, features in rows:
            file.create_dataset(image_id, data=features)
        file.attrs.update(attributes)


def write_textual(
    path: Path, rows: Iterable[tuple[str, NDArray[np.int32], NDArray[np.float32]]], db: CaptionDB,
    skipped: list[tuple[str, str, str]], attributes: dict[str, Any],
) -> None:  # fmt: skip
    """rows: id, best phrases' rows in the database (15, k), their scores (15, k) of each picture."""
    write_lines(skipped_file(path), ("\t".join(row) for row in skipped))
    texts = h5py.string_dtype()
    with writing_hdf5(path) as file:
        for image_id, best, scores in rows:
            features, captions = db.features[best], db.captions[best]  # (15, k, d), (15, k)
            for name, views in SLICES.items():
                at = 0 if name == "whole" else views
                group = file.create_group(f"{image_id}/{name}")
                group.create_dataset("features", data=features[at])
                group.create_dataset("scores", data=scores[at])
                group.create_dataset("texts", data=captions[at], dtype=texts)
        file.attrs.update(attributes)


def textual_bytes(pictures: int, k: int, width: int) -> int:
    """About how large txt_ctx.hdf5 gets."""
    return pictures * (15 * k * (4 * width + 4 + 16 + 24) + 6000)


def read_settings(path: Path) -> dict[str, Any]:
    with open_file(path) as file:
        return file.settings()


def open_file(path: Path) -> h5py.File:
    """One of the two, for reading."""
    return open_hdf5(path, "python ctx/build_context.py")


def check_visual(path: Path) -> str:
    """Hold shapes, types and values against the layout; says what the file holds or raises UserError."""
    with open_file(path) as file:
        width = file.attributes().get("fdim", 0)
        for image_id, features in file.items():
            if not isinstance(features, h5py.Dataset) or features.shape != (width,) or features.dtype != np.float32:
                raise UserError(f"{path}: {image_id} is not float32 ({width},), as fdim says")
            if not np.isfinite(features[:]).all():
                raise UserError(f"{path}: {image_id} holds values that are no numbers")
        return f"visual context of {len(file):,} pictures, {width}-d, by {file.attributes().get('model', 'unknown')}"


def check_textual(path: Path) -> str:
    """Hold shapes, types and the order of scores against the layout; says what the file holds or raises UserError."""
    k = 0
    with open_file(path) as file:
        for image_id, group in file.items():
            k = k or len(group["whole/scores"])
            for name, ahead in (("whole", ()), ("five", (5,)), ("nine", (9,))):
                view = group[name]
                parts = {part: view[part] for part in ("features", "scores", "texts")}
                shapes = {part: dataset.shape for part, dataset in parts.items()}
                if shapes["scores"] != (*ahead, k) or shapes["texts"] != (*ahead, k) or shapes["features"][:-1] != (*ahead, k):
                    raise UserError(f"{path}: {image_id}/{name} has shapes {shapes}, top {k} expected")
                if (np.diff(parts["scores"][:], axis=-1) > 0).any():
                    raise UserError(f"{path}: scores of {image_id}/{name} do not descend")
        return f"textual context of {len(file):,} pictures, top {k}, by {file.attributes().get('model', 'unknown')}"
