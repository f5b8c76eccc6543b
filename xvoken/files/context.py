"""The two context files that captioners read, as Xmodal-Ctx lays them out.

vis_ctx.hdf5    one float32 dataset (f,) per picture, named by its id: the vision tower's pooled output before the
                projection; attribute fdim = f
txt_ctx.hdf5    a group per picture, in it `whole`, `five` and `nine`, each with features float32 (..., k, d),
                scores float32 (..., k) (inner products of normalized projections, descending; where hubness is taken off,
                less that, as the attribute `scores` says), texts (..., k);
                ... is no axis for `whole`, 5 or 9 crops for `five` and `nine`
Attributes of both: model, model_hash, revision, date, settings. Pictures that can't be used are in neither;
vis_ctx.skipped.tsv and txt_ctx.skipped.tsv list id, path and reason of each.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from xvoken import commands
from xvoken.errors import UserError, one_line
from xvoken.files.hdf5 import is_dataset, open_hdf5, writing_hdf5
from xvoken.files.phrases import CaptionDB
from xvoken.files.safe import write_lines

# Where the 15 views of a picture stand in the arrays that write_textual is given.
SLICES = {"whole": slice(0, 1), "five": slice(1, 6), "nine": slice(6, 15)}


def skipped_file(path: Path) -> Path:
    """The list of pictures that a context file lacks, beside it."""
    return path.with_suffix(".skipped.tsv")


def write_visual(
    path: Path, rows: Iterable[tuple[str, NDArray[np.float32]]], width: int, skipped: list[tuple[str, str, str]], attributes: dict[str, Any]
) -> None:
    """Write vis_ctx.hdf5; rows: id and features (width,) of each picture; skipped: id, path and reason of each other one."""
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
    """Write txt_ctx.hdf5; skipped: id, path and reason of each picture left out.

    rows: of each picture, its id, the best phrases' rows in the database (15, k), and their scores (15, k).
    """
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
    """The size of txt_ctx.hdf5, roughly, for the top k of each picture and features of `width` floats."""
    return pictures * (15 * k * (4 * width + 4 + 16 + 24) + 6000)


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that a context file was made with, see InsideFile.settings."""
    with open_file(path) as file:
        return file.settings()


def read_texts(path: Path) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Yield the id of each picture, and the phrases of its `whole`, `five` and `nine`, those of the crops one crop after another.

    Nothing else of a txt_ctx.hdf5 is read. Raises UserError for a file that is missing, damaged or none.
    """
    with open_file(path) as file:
        for image_id, group in file.items():
            yield image_id, {name: texts.ravel().tolist() for name, (texts, _) in _read_views(file, image_id, group).items()}


def read_best(path: Path, k: int) -> Iterator[tuple[str, list[list[str]], NDArray[np.float32]]]:
    """Yield of each picture its id, and of its 15 views the best phrases, at most k each, and their scores float32 (15, k').

    In the order of `image_ids`; the same is raised as by read_texts.
    """
    with open_file(path) as file:
        for image_id in sorted(file, key=_numbers_first):
            views = _read_views(file, image_id, file[image_id], scores=True, k=k)
            texts, scores = (np.concatenate([np.atleast_2d(views[name][part]) for name in SLICES]) for part in (0, 1))
            yield image_id, texts.tolist(), scores.astype(np.float32)


def image_ids(path: Path) -> list[str]:
    """The ids of the pictures in a context file, those that are numbers first, by size; raises UserError for a file that is none."""
    with open_file(path) as file:
        return sorted(file, key=_numbers_first)


def _read_views(file: Any, image_id: str, group: Any, scores: bool = False, k: int | None = None) -> dict[str, tuple[Any, Any]]:
    """The phrases (..., k), and the scores if asked for, of a picture's `whole`, `five` and `nine`; raises UserError, see read_texts."""
    read = {}
    try:
        for name, view in SLICES.items():
            ndim, crops = (1, ()) if name == "whole" else (2, (view.stop - view.start,))
            found: Any = [group.get(f"{name}/{part}") if isinstance(group, h5py.Group) else None for part in ("texts", "scores")]
            if not is_dataset(found[0], f"s{ndim}") or not found[0].size or (scores and found[0].shape[:-1] != crops):
                raise UserError(f"{file.filename}: {image_id} has no texts for each of {', '.join(SLICES)}; {file.mend}")
            if scores and (not is_dataset(found[1], f"f{ndim}") or found[1].shape != found[0].shape or not np.isfinite(found[1][:]).all()):
                raise UserError(f"{file.filename}: {image_id} has no score for each phrase of {name}; {file.mend}")
            best = (..., slice(k))
            read[name] = (found[0].asstr()[best], found[1][best] if scores else None)
    except UnicodeDecodeError:
        raise UserError(f"{file.filename}: texts of {image_id} are not UTF-8; {file.mend}") from None
    except OSError as error:
        raise UserError(f"{file.filename}: {image_id} can't be read ({one_line(error)}); {file.mend}") from None
    return read


def open_file(path: Path) -> h5py.File:
    """Open one of the two files for reading; raises UserError if it is missing or damaged."""
    return open_hdf5(path, commands.build_context())


def check_visual(path: Path) -> str:
    """Check shapes, types and values against the layout; returns a line that describes the file, or raises UserError."""
    with open_file(path) as file:
        width = file.attributes().get("fdim", 0)
        for image_id, features in file.items():
            if not isinstance(features, h5py.Dataset) or features.shape != (width,) or features.dtype != np.float32:
                raise UserError(f"{path}: {image_id} is not float32 ({width},), as its attribute fdim says; {file.mend}")
            if not np.isfinite(features[:]).all():
                raise UserError(f"{path}: {image_id} has values that are not finite; {file.mend}")
        return f"visual context of {len(file):,} pictures, {width}-d, by {file.attributes().get('model', 'unknown')}"


def check_textual(path: Path) -> str:
    """Check shapes, types, values and the order of scores; returns a line that describes the file, or raises UserError."""
    k = 0
    with open_file(path) as file:
        for image_id, group in file.items():
            k = k or len(group["whole/scores"])
            for name, ahead in (("whole", ()), ("five", (5,)), ("nine", (9,))):
                view = group[name]
                parts = {part: view[part] for part in ("features", "scores", "texts")}
                shapes = {part: dataset.shape for part, dataset in parts.items()}
                if shapes["scores"] != (*ahead, k) or shapes["texts"] != (*ahead, k) or shapes["features"][:-1] != (*ahead, k):
                    raise UserError(f"{path}: {image_id}/{name} has shapes {shapes}, top {k} was expected; {file.mend}")
                for part in ("features", "scores"):
                    if parts[part].dtype != np.float32 or not np.isfinite(parts[part][:]).all():
                        raise UserError(f"{path}: {part} of {image_id}/{name} are not finite numbers of float32; {file.mend}")
                if (np.diff(parts["scores"][:], axis=-1) > 0).any():
                    raise UserError(f"{path}: scores of {image_id}/{name} do not descend; {file.mend}")
        return f"textual context of {len(file):,} pictures, top {k}, by {file.attributes().get('model', 'unknown')}"


class Context:
    """The context files as a Dataset for torch's DataLoader, to train a captioner with.

    Item i is a dict of what was retrieved for picture i:

    image_id     text
    features     float32 (k, d) of `whole`, (5, k, d) of `five`, (9, k, d) of `nine`
    scores       float32 (k,), (5, k) or (9, k)
    texts        a list of k texts, or of 5 or 9 lists of them
    visual       float32 (f,), the picture's own features, if vis_ctx.hdf5 was given

    views: whole, five or nine; k: only the best k; image_ids: these pictures in this order (default: all, by name).
    It works with any number of DataLoader workers; each opens the files once. The default collation stacks a batch to tensors but
    transposes `texts`, so pass a collate_fn of your own where you need them. Raises xvoken.Error for a file that is missing or not
    a context file, and for a picture without context.
    """

    def __init__(
        self, textual: str | Path, views: str = "whole", k: int | None = None,
        image_ids: Sequence[object] | None = None, visual: str | Path | None = None,
    ):  # fmt: skip
        if not isinstance(views, str) or views not in SLICES:
            raise UserError(f"views {views!r}: not one of {', '.join(SLICES)}")
        if k is not None and (not isinstance(k, int) or k < 1):
            raise UserError(f"k={k!r}: a whole number of at least 1 was expected")
        self.paths = {"textual": Path(textual), **({"visual": Path(visual)} if visual else {})}
        self.views, self.k = views, k
        self._files: tuple[int, dict[str, h5py.File]] = (-1, {})
        there = self._open("textual")
        self.image_ids = sorted(there, key=_numbers_first) if image_ids is None else [str(i) for i in image_ids]
        if self.image_ids and not isinstance(there.get(self.image_ids[0]), h5py.Group | None):
            raise UserError(f"{textual}: not a txt_ctx.hdf5 as retrieve_captions.py and build_context.py write it")
        if visual and "fdim" not in self._open("visual").attrs:
            raise UserError(f"{visual}: not a vis_ctx.hdf5 as encode_images.py and build_context.py write it")
        for name, path in self.paths.items():
            if (missing := next((i for i in self.image_ids if i not in self._open(name)), None)) is not None:
                raise UserError(f"{path}: no context of picture {missing}; if it was left out, {skipped_file(path)} says why")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
        import torch

        image_id = self.image_ids[i]
        group = self._open("textual")[f"{image_id}/{self.views}"]
        best = (..., slice(self.k))
        item = {
            "image_id": image_id,
            "features": torch.from_numpy(group["features"][..., slice(self.k), :]),
            "scores": torch.from_numpy(group["scores"][best]),
            "texts": group["texts"].asstr()[best].tolist(),
        }
        if "visual" in self.paths:
            item["visual"] = torch.from_numpy(self._open("visual")[image_id][:])
        return item

    def _open(self, name: str) -> h5py.File:
        """The file, opened by this process: a handle inherited through a fork shares its position with the parent's."""
        if self._files[0] != os.getpid():
            self._files = (os.getpid(), {})
        files = self._files[1]
        if name not in files:
            files[name] = open_file(self.paths[name])
        return files[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": (-1, {})}


def _numbers_first(image_id: str) -> tuple[bool, int, str]:
    return (not image_id.isdecimal(), int(image_id) if image_id.isdecimal() else 0, image_id)
