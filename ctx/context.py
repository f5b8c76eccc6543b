"""The context files as a torch Dataset, for the training of a captioner."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import torch

from ctx import context_files
from ctx.crops import SLICES
from xvoken.messages import UserError


class Context(torch.utils.data.Dataset):
    """Item i: what was retrieved for picture i, a dict of

    image_id     text
    features     float32 (k, d) of `whole`, (5, k, d) of `five`, (9, k, d) of `nine`
    scores       float32 (k,), (5, k) or (9, k)
    texts        a list of k texts, or of 5 or 9 lists of them
    visual       float32 (f,), the picture's own features, if vis_ctx.hdf5 was given

    views: whole, five or nine; k: only the best k; image_ids: these pictures in this order (default: all, by name).
    For any number of DataLoader workers: each opens the files once. The default collation makes tensors of a batch;
    texts come transposed then, so pass a collate_fn of your own where you need them.
    """

    def __init__(
        self, textual: str | Path, views: str = "whole", k: int | None = None,
        image_ids: Sequence[object] | None = None, visual: str | Path | None = None,
    ):  # fmt: skip
        if views not in SLICES:
            raise UserError(f"views {views!r}: not one of {', '.join(SLICES)}")
        self.paths = {"textual": Path(textual), **({"visual": Path(visual)} if visual else {})}
        self.views, self.k = views, k
        self._files: tuple[int, dict[str, h5py.File]] = (-1, {})
        there = self._open("textual")
        self.image_ids = sorted(there, key=_numbers_first) if image_ids is None else [str(i) for i in image_ids]
        missing = next((i for i in self.image_ids if any(i not in self._open(name) for name in self.paths)), None)
        if missing is not None:
            raise UserError(f"{textual}: no context of picture {missing}; see its .skipped.tsv")

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, i: int) -> dict[str, Any]:
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
        """This process's own handle: one that came over a fork shares its place in the file with the parent's."""
        if self._files[0] != os.getpid():
            self._files = (os.getpid(), {})
        files = self._files[1]
        if name not in files:
            files[name] = context_files.open_file(self.paths[name])
        return files[name]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": (-1, {})}


def _numbers_first(image_id: str) -> tuple[bool, int, str]:
    return (not image_id.isdecimal(), int(image_id) if image_id.isdecimal() else 0, image_id)
