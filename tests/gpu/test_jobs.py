"""Batches too large for a GPU's memory, two worker processes on one GPU, and the library's encoder on it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import worlds
from tests.gpu.conftest import LOW, NEAR, bounded
from tests.worlds import World
from vokenization.vokenization import VokenizeJob
from xvoken.cache.images import ImageJob
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.work.local import Job, do_range, prepare, run_in_processes
from xvoken.work.parts import ranges

PICTURES = 96
ROOM = 250e6  # bytes of the GPU besides the weights: too few for the first maps of 96 pictures by resnet18 in fp32, 308 MB; 16 fit


@pytest.fixture
def pictures(world: World) -> list[str]:
    """The world's 24 pictures, over and over."""
    return sorted(map(str, (world.folder / "images").glob("*.png"))) * (PICTURES // 24)


def image_job(world: World, paths: list[str], workers: int = 1, **more: object) -> ImageJob:
    return ImageJob(ImageTowerSpec("resnet18", str(world.resnet)), paths, "fp32", workers=workers, **more)


@contextmanager
def little_memory(job: ImageJob, gpu: str) -> Generator[None]:
    """Bound the GPU's memory; where the CPU stands for it, the tower says that it has no room for more than 16 pictures."""
    if gpu != "cpu:0":
        with bounded(ROOM):
            yield
        return
    inner = job.image.tower.forward

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(pixels)

    job.image.tower.forward = forward
    yield


def test_out_of_memory_halves_the_batch_and_gives_the_same(world: World, pictures: list[str], tmp_path: Path, gpu: str):
    (tmp_path / "lock").touch()
    said: list[str] = []
    job = image_job(world, pictures)
    prepare(job, gpu)
    assert job.batch_size >= PICTURES
    with little_memory(job, gpu):
        do_range(job, (0, PICTURES), tmp_path / "000000", said.append)
    assert job.batch_size < PICTURES
    assert said and all(f"out of memory on items 0 to {PICTURES}: batches of" in line for line in said), said
    small = image_job(world, pictures[:24])
    prepare(small, gpu)
    do_range(small, (0, 24), tmp_path / "000001", said.append)
    expected = np.load(tmp_path / "000001.npy").astype(np.float32)
    np.testing.assert_allclose(np.load(tmp_path / "000000.npy").astype(np.float32), np.tile(expected, (PICTURES // 24, 1)), atol=NEAR)


def done_by(workers: int, job: Job, items: int, chunk: int, gpu: str, folder: Path) -> list[Path]:
    """The files of all parts, done by this process, or by so many worker processes on one GPU."""
    folder.mkdir()
    (folder / "lock").touch()
    tasks = [(one, folder / f"{number:06d}") for number, one in enumerate(ranges(items, chunk))]
    summaries: list[dict] = []
    if workers > 1:
        run_in_processes(job, tasks, [gpu] * workers, summaries.append, print, folder / "log")
    else:
        prepare(job, gpu)
        summaries += [do_range(job, *task, print) for task in tasks]
    assert sum(summary["items"] for summary in summaries) == items
    return sorted(folder.glob("0*.np*"))


def test_two_workers_on_one_gpu_make_the_keys_of_one(world: World, pictures: list[str], tmp_path: Path, gpu: str):
    found = []
    for workers in (1, 2):
        files = done_by(workers, image_job(world, pictures[:48], workers), 48, 12, gpu, tmp_path / str(workers))
        found.append(np.concatenate([np.load(path) for path in files]).astype(np.float32))
    assert len(found[0]) == 48
    np.testing.assert_allclose(found[1], found[0], atol=NEAR)


def test_two_workers_on_one_gpu_retrieve_as_one(world: World, keyed: Path, tmp_path: Path, gpu: str):
    corpus, found = world.folder / "corpus/lines.txt", []
    for workers in (1, 2):
        job = VokenizeJob(str(keyed), corpus, world.bert.name, keyed / "keys", ["shapes_train"], None, 3, "torch", "fp32", 4, workers)
        loaded = [np.load(path) for path in done_by(workers, job, 21, 6, gpu, tmp_path / str(workers))]
        found.append({name: np.concatenate([one[name] for one in loaded]) for name in ("scores", "indices", "counts")})
    np.testing.assert_allclose(found[1]["scores"], found[0]["scores"], atol=1e-5)
    assert (found[1]["indices"] == found[0]["indices"]).mean() > 0.95 and len(found[0]["counts"]) == 21


@pytest.mark.parametrize(("precision", "near"), [("fp32", NEAR), ("bf16", LOW)])
def test_the_librarys_encoder(world: World, keyed: Path, pictures: list[str], gpu: str, precision: str, near: float):
    texts = ["a red circle", "blue", "a green square and a pink circle " * 9]
    one, two = load_encoder(keyed, device="cpu"), load_encoder(keyed, device="auto" if gpu == "cuda:0" else gpu, precision=precision)
    np.testing.assert_allclose(two.encode_texts(texts), one.encode_texts(texts), atol=near)
    np.testing.assert_allclose(two.encode_images(pictures[:8]), one.encode_images(pictures[:8]), atol=near)


def test_pictures_decoded_by_torchcodec(world: World, tmp_path: Path, gpu: str):
    if "torchcodec" not in worlds.decoders("cuda:0"):
        pytest.skip("torchcodec is not installed")
    photos = worlds.photos(tmp_path / "photos", 16, (320, 240))
    (tmp_path / "lock").touch()
    rows = []
    for number, decoder in enumerate(("pillow", "torchcodec")):
        job = image_job(world, photos, decoder=decoder)
        prepare(job, gpu)
        do_range(job, (0, 16), tmp_path / f"{number:06d}", print)
        rows.append(np.load(tmp_path / f"{number:06d}.npy").astype(np.float32))
    assert (rows[0] * rows[1]).sum(1) == pytest.approx(np.linalg.norm(rows[0], axis=1) * np.linalg.norm(rows[1], axis=1), rel=1e-2)
