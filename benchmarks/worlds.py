"""Towers with random weights and made-up data for the benchmarks: nothing is fetched."""

import io
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests import builder
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.machine import cores
from xvoken.pictures.batches import require_decoder
from xvoken.towers.tokenizer import tokenizer_hash

FLAT_BLOCK = 128  # queries at once of the plain search by torch: its products with all keys are held


def text_tower(folder: Path, layers: int = 12, width: int = 768) -> TextTowerSpec:
    """A BERT with random weights; the defaults are BERT-base's size."""
    config = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": width // 64, "intermediate_size": 4 * width}
    builder.save_bert(folder / "text", **config)
    return TextTowerSpec(str(folder / "text"), tuple(range(min(4, layers), 0, -1)))


def image_tower(folder: Path, name: str) -> ImageTowerSpec:
    """A torchvision model with random weights."""
    builder.save_torchvision(folder / f"{name}.pth", name)
    return ImageTowerSpec(name, str(folder / f"{name}.pth"))


def keys(load: Path, number: int, dim: int = 512) -> None:
    """Write random keys of length 1 as those of an image set `pics`."""
    names = [f"{i:07d}.jpg" for i in range(number)]
    rng = np.random.default_rng(0)

    def blocks():
        for start in range(0, number, 100_000):
            block = rng.standard_normal((min(100_000, number - start), dim), np.float32)
            yield block / np.linalg.norm(block, axis=1, keepdims=True)

    key_files.write(load / "keys", "pics", blocks(), names, names, [], {}, {"snapshot_hash": snapshots.read(load).hash})


def corpus(path: Path, lines: int, tokens: float = 30, block: int = 100_000) -> None:
    """Write a tokenized corpus of random ids, with lengths from a skewed (gamma) distribution like those of dialogues."""
    rng, total = np.random.default_rng(0), 0
    with h5py.File(f"{path}.minilm.hdf5", "w") as file, open(f"{path}.minilm.line", "w") as line_out:
        dataset = file.create_dataset("tokens", (0,), np.int32, maxshape=(None,), chunks=(1 << 18,))
        line_out.write("0\n")
        for start in range(0, lines, block):
            lengths = np.maximum(1, rng.gamma(2, tokens / 2, min(block, lines - start)).round().astype(np.int64))
            ids = rng.integers(1000, 30_000, lengths.sum(), np.int32)
            dataset.resize((total + len(ids),))
            dataset[total:] = ids
            line_out.writelines(f"{offset}\n" for offset in (total + np.cumsum(lengths)).tolist())
            total += len(ids)
        file.attrs.update({"tokenizer": "minilm", "tokenizer_hash": tokenizer_hash(builder.minilm_tokenizer()), "lines": lines})


def photos(folder: Path, number: int, size: tuple[int, int] = (640, 480)) -> list[str]:
    """Write JPEG files with the sides and bytes of COCO's photos: smooth shapes with some grain."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [str(folder / f"{i:05d}.jpg") for i in range(number)]

    def draw(i: int) -> None:
        rng = np.random.default_rng(i)
        picture = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
        grain = rng.integers(-12, 13, (size[1], size[0], 3), np.int16)
        file = io.BytesIO()
        Image.fromarray((np.asarray(picture, np.int16) + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        Path(paths[i]).write_bytes(file.getvalue())

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(draw, range(number)))
    random.Random(0).shuffle(paths)
    return paths


def decoders(device: str) -> list[str]:
    """Those to measure on a device: Pillow, and on a GPU also torchcodec, where it is installed; the fastest last."""
    if device == "cpu":
        return ["pillow"]
    try:
        require_decoder("torchcodec")
        from torchcodec.decoders import decode_jpeg  # noqa: F401  # not in the versions that go with older torch
    except (UserError, ImportError):
        return ["pillow"]
    return ["pillow", "torchcodec"]


def flat_search(keys: NDArray[np.float32], metric: str, device: str) -> tuple[str, Callable[[NDArray[np.float32], int], NDArray]]:
    """The plain search, and its name: faiss flat where it is installed and drives the device, else torch's whole product and top k.

    metric: ip or l2; the search: queries (Q, d), k -> rows (Q, k)
    """
    try:
        import faiss
    except ImportError:
        faiss = None
    if faiss and (device == "cpu" or hasattr(faiss, "StandardGpuResources")):
        flat = faiss.IndexFlatIP(keys.shape[1]) if metric == "ip" else faiss.IndexFlatL2(keys.shape[1])
        if device != "cpu":
            flat = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), torch.device(device).index, flat)
        flat.add(keys)
        faiss.omp_set_num_threads(torch.get_num_threads())
        return "faiss flat", lambda queries, k: flat.search(queries, k)[1]
    there = torch.from_numpy(keys).to(device)

    def search(queries: NDArray[np.float32], k: int) -> NDArray:
        asked = torch.from_numpy(queries).to(device).split(FLAT_BLOCK)
        near = (block @ there.T if metric == "ip" else -torch.cdist(block, there) for block in asked)
        return torch.cat([block.topk(k, 1).indices for block in near]).cpu().numpy()

    return "torch product and topk", search
