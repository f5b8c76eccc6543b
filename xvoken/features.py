"""What frozen towers make of pictures and sentences, computed once and kept on disk.

    CACHE/{label}-{hash}.npy     float16 (N, width), one row an item; NaN where a picture could not be used
    CACHE/{label}-{hash}.json    settings (tower, its weights' hash, view, precision, data) and skipped rows

The hash follows from the settings, so that a cache is found again by whoever needs the same: training,
key extraction, evaluation.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xvoken.decoding import IMAGE_BATCH, ON_GPU, batches_ahead, on_device, open_pictures
from xvoken.devices import autocast, cast_weights, resolve_precision, upload
from xvoken.disk import differences, fingerprint, quoted, read_json, replacing, save_array, sha256_of_lines, write_json
from xvoken.encoders import ImageTowerSpec, TextTowerSpec
from xvoken.engine import Engine
from xvoken.image_towers import ImageTower, for_inference
from xvoken.messages import UserError
from xvoken.pictures import size_of
from xvoken.report import write_report
from xvoken.shards import Member
from xvoken.text_batches import TEXT_ON_GPU, Padding, batches_by_length, encode_batches, lines_at_once, tokenize
from xvoken.text_towers import TextTower, base_name, load_tokenizer, tokenizer_hash, weights_hash
from xvoken.work import LOCAL, Parts, read_skipped, remove_leftover

IMAGE_CHUNK, TEXT_CHUNK = 256, 1024


@dataclass
class Features:
    """rows: float16 (N, width), memory-mapped; skipped: [row, reason] of rows that hold NaN; path: the file."""

    rows: NDArray[np.float16]
    skipped: list[tuple[int, str]]
    path: Path

    @property
    def usable(self) -> NDArray[np.int64]:
        """Row numbers that hold features."""
        return np.delete(np.arange(len(self.rows)), [row for row, _ in self.skipped])


@dataclass
class ImageJob:
    """Pictures -> tower outputs; see xvoken.work.Job."""

    spec: ImageTowerSpec
    paths: list[str | Member]
    precision: str
    batch_size: int
    workers: int
    decoder: str = "pillow"

    def setup(self, device: str) -> None:
        self.device = device
        self.tower = for_inference(self.spec.build(), self.precision).to(device)
        self.batch_size, self.threads = on_device(device, self.batch_size, self.workers)

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        rows = np.full((stop - start, self.tower.width), np.nan, np.float16)
        skipped: list[list[Any]] = []
        found: list[tuple[list[int], Tensor]] = []
        pictures = open_pictures(self.paths[start:stop], self.tower.view, self.decoder, self.device)
        for first, items in batches_ahead(pictures, self.batch_size, self.threads):
            good = [i for i, item in enumerate(items) if not isinstance(item, str)]
            skipped += [[start + first + i, item] for i, item in enumerate(items) if isinstance(item, str)]
            if good:
                pixels = upload(torch.stack([items[i] for i in good]), self.device)
                with torch.inference_mode(), autocast(self.device, self.precision):
                    found.append(([first + i for i in good], self.tower(pixels)))
        for places, out in found:  # only now: a GPU is not waited for between batches
            rows[places] = out.float().cpu().numpy()
        save_array(part.with_suffix(".npy"), rows)
        return {"skipped": skipped}


@dataclass
class TextJob:
    """Sentences -> tower outputs; see xvoken.work.Job."""

    spec: TextTowerSpec
    tokenizer: str
    sentences: list[str]
    max_len: int
    precision: str
    batch_size: int

    def setup(self, device: str) -> None:
        self.device = device
        self.batch_size = lines_at_once(device, self.batch_size)
        self.tower = cast_weights(self.spec.build(), self.precision).to(device)
        self.tokens = load_tokenizer(self.tokenizer)
        self.padding = Padding.of(self.tokens, min(self.max_len, self.tower.max_tokens))

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        rows = np.empty((stop - start, self.tower.width), np.float16)
        tokens, offsets = tokenize(self.tokens, self.sentences[start:stop])
        lengths = np.diff(offsets)
        # A sentence without tokens is [CLS][SEP] here: a caption is never dropped.
        batches = [np.flatnonzero(lengths == 0), *batches_by_length(lengths, self.batch_size)]
        for batch, out in list(encode_batches(self.tower, tokens, offsets, batches, self.padding, self.device, self.precision)):
            rows[batch] = out.float().cpu().numpy()
        save_array(part.with_suffix(".npy"), rows)
        return {"truncated": int((lengths + 2 > self.padding.max_tokens).sum())}


def image_features(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: list[Path | Member], *,
    cache: Path, label: str, devices: list[str], precision: str = "auto", batch_size: int = IMAGE_BATCH,
    decoder: str = "pillow", engine: Engine = LOCAL,
) -> Features | None:  # fmt: skip
    """The tower's output for each picture, from the cache or made now; None while other shares of the work are missing.

    ids and paths: one a picture; pictures with the same ids and file sizes are the same data.
    Raises UserError when no picture is left.
    """
    precision = resolve_precision(precision, devices[0])
    path, settings = image_cache(spec, tower, ids, paths, cache, label, precision, decoder)
    sources = [path if isinstance(path, Member) else str(path) for path in paths]
    job = ImageJob(spec, sources, precision, batch_size, len(devices), decoder)
    chunk = IMAGE_CHUNK if devices[0] == "cpu" else IMAGE_CHUNK * ON_GPU
    features = _cached(path, label, settings, job, len(ids), chunk, tower.width, devices, "img", engine)
    if features and len(features.skipped) == len(ids):
        reasons = sorted({reason for _, reason in features.skipped})
        raise UserError(f"{label}: none of the {len(ids)} pictures can be used ({', '.join(reasons[:3])}); first: {paths[0]}")
    return features


def image_cache(
    spec: ImageTowerSpec, tower: ImageTower, ids: list[str], paths: list[Path | Member], cache: Path, label: str, precision: str,
    decoder: str = "pillow",
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """The file that holds the evaluation view of these pictures, or will hold it, and what it depends on."""
    settings = {
        "tower": spec.name, "weights": weights_hash(tower), "view": asdict(tower.view), "precision": precision,
        "pictures": len(ids), "data": hash_of_pictures(ids, paths),
    } | ({} if spec.pool == "avg" else {"pool": spec.pool}) | ({} if decoder == "pillow" else {"decoder": decoder})  # fmt: skip
    return cache / f"{label}-{spec.name}-{fingerprint(settings)}.npy", settings


def hash_of_pictures(ids: list[str], paths: list[Path | Member]) -> str:
    """Of ids and file sizes: reading all pictures to know them would take as long as the work."""
    return sha256_of_lines(f"{i}\t{size_of(path)}" for i, path in zip(ids, paths, strict=True))


def text_features(
    spec: TextTowerSpec, tower: TextTower, tokenizer: Any, tokenizer_name: str, sentences: list[str], max_len: int, *,
    cache: Path, label: str, devices: list[str], precision: str = "auto", batch_size: int = 64,
) -> Features:  # fmt: skip
    """The tower's output for each sentence, cut to `max_len` tokens with the special ones, from the cache or made now."""
    precision = resolve_precision(precision, devices[0])
    pool = {} if spec.pool == "cls" else {"pool": spec.pool}
    settings = text_settings(spec, tower, tokenizer, sentences, max_len, precision) | pool
    job = TextJob(spec, tokenizer_name, sentences, max_len, precision, batch_size)
    path = cache / f"{label}-{base_name(spec.name)}-{fingerprint(settings)}.npy"
    return _cached(path, label, settings, job, len(sentences), text_chunk(devices), tower.width, devices, "sent")


def text_chunk(devices: list[str]) -> int:
    """Sentences a part."""
    return TEXT_CHUNK if devices[0] == "cpu" else TEXT_CHUNK * TEXT_ON_GPU


def text_settings(
    spec: TextTowerSpec, tower: TextTower, tokenizer: Any, sentences: list[str], max_len: int, precision: str
) -> dict[str, Any]:
    """What the tower's outputs for these sentences depend on.

    The tower goes by its base name: a training may know it by a short name, its snapshot has the hub id.
    """
    return {
        "tower": base_name(spec.name), "weights": weights_hash(tower), "layers": list(spec.layers), "max_len": max_len,
        "tokenizer": tokenizer_hash(tokenizer), "precision": precision,
        "sentences": len(sentences), "data": sha256_of_lines(sentences),
    }  # fmt: skip


def _cached(
    path: Path, label: str, settings: dict[str, Any], job: Any, total: int, chunk: int, width: int,
    devices: list[str], unit: str, engine: Engine = LOCAL,
) -> Features | None:  # fmt: skip
    receipt = path.with_suffix(".json")
    if not receipt.exists():
        if engine.share or engine.join:
            _same_as_other_shares(path, settings)
        with Parts(path, total, chunk, settings, engine=engine) as parts:
            if not parts.run(job, devices, desc=label, unit=unit):
                return None
            write_rows(path, (total, width), part_arrays(parts))
            write_report(parts, items=total)
            write_json(receipt, {"settings": settings, "skipped": read_skipped(parts)})
    else:
        remove_leftover(path)
    return load_features(path)


def _same_as_other_shares(path: Path, settings: dict[str, Any]) -> None:
    """Raise UserError where other shares of this work have other settings: theirs have another name, and would never meet ours."""
    kind, _, _ = path.stem.rpartition("-")
    for other in sorted(path.parent.glob(f"{escape(kind)}-*.npy.parts/plan.json")):
        then = read_json(other, f"remove {other.parent} to start over")["settings"]
        if changed := differences(then, json.loads(json.dumps(settings))):  # as it reads back: JSON knows no tuples
            mend = f"give all the same, or, if those are of an earlier run: rm -r {quoted(other.parent)}"
            raise UserError(f"{other.parent}: shares of the same work with other settings ({changed}); {mend}")


def load_features(path: Path) -> Features:
    """Open a finished cache."""
    receipt = path.with_suffix(".json")
    facts = read_json(receipt, f"remove {receipt} to make it again")
    return Features(np.load(path, mmap_mode="r"), [tuple(row) for row in facts["skipped"]], path)


def write_rows(path: Path, shape: tuple[int, ...], blocks: Iterable[NDArray[np.float16]]) -> None:
    """Write float16 blocks that follow each other as one .npy file of `shape`, atomically.

    Not through a memory map: there a full disk is a SIGBUS instead of an error.
    """
    with replacing(path) as temporary, open(temporary, "wb") as out:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(out, header)
        for block in blocks:
            out.write(np.ascontiguousarray(block))


def part_arrays(parts: Parts) -> Iterator[NDArray[np.float16]]:
    for number in range(len(parts.ranges)):
        yield parts.load(number, ".npy")
