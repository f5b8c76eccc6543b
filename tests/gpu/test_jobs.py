"""Batches too large for a GPU's memory, two worker processes on one GPU, and the library's encoder on it."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import worlds
from tests.gpu.conftest import LOW, NEAR
from tests.worlds import World
from vokenization.vokenization import VokenizeJob
from xvoken.cache.images import ImageJob
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.matcher import ImageTowerSpec
from xvoken.machine import IMAGE_BATCH, ON_GPU
from xvoken.work.local import do_range, prepare, run_in_processes
from xvoken.work.parts import ranges

PICTURES = 768
ROOM = 1.5e9  # bytes of the GPU: too few for the first maps of 768 pictures by resnet18 in fp32, which are 2.5 GB, enough for 128


@pytest.fixture
def pictures(world: World) -> list[str]:
    """The world's 24 pictures, over and over."""
    return sorted(map(str, (world.folder / "images").glob("*.png"))) * (PICTURES // 24)


def image_job(world: World, paths: list[str], batch: int = IMAGE_BATCH, **more: object) -> ImageJob:
    return ImageJob(ImageTowerSpec("resnet18", str(world.resnet)), paths, "fp32", batch, 1, **more)


@contextmanager
def little_memory(job: ImageJob, gpu: str) -> Generator[None]:
    """Bound the GPU's memory; where the CPU stands for it, the tower says that it has no room for more than 128 pictures."""
    if gpu != "cpu:0":
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(ROOM / torch.cuda.get_device_properties(0).total_memory)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    inner = job.image.tower.forward

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 128:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return inner(pixels)

    job.image.tower.forward = forward
    yield


def test_out_of_memory_halves_the_batch_and_gives_the_same(world: World, pictures: list[str], tmp_path: Path, gpu: str):
    (tmp_path / "lock").touch()
    said: list[str] = []
    job = image_job(world, pictures, PICTURES // ON_GPU)
    prepare(job, gpu)
    assert job.batch_size == PICTURES
    with little_memory(job, gpu):
        do_range(job, (0, PICTURES), tmp_path / "000000", said.append)
    assert job.batch_size < PICTURES and len(said) >= 1
    assert all("out of memory on items 0 to 768: batches of" in line for line in said), said
    small = image_job(world, pictures[:24])
    prepare(small, gpu)
    do_range(small, (0, 24), tmp_path / "000001", said.append)
    expected = np.load(tmp_path / "000001.npy").astype(np.float32)
    np.testing.assert_allclose(np.load(tmp_path / "000000.npy").astype(np.float32), np.tile(expected, (PICTURES // 24, 1)), atol=NEAR)


def done_by(job: object, items: int, chunk: int, devices: list[str], folder: Path) -> list[Path]:
    """The files of all parts, done by one process per device."""
    folder.mkdir()
    (folder / "lock").touch()
    tasks = [(one, folder / f"{number:06d}") for number, one in enumerate(ranges(items, chunk))]
    summaries: list[dict] = []
    run_in_processes(job, tasks, devices, summaries.append, print, folder / "log")
    assert sum(summary["items"] for summary in summaries) == items
    return sorted(folder.glob("0*.np*"))


def test_two_workers_on_one_gpu_make_the_keys_of_one(world: World, pictures: list[str], tmp_path: Path, gpu: str):
    found = []
    for workers in (1, 2):
        job = image_job(world, pictures[:192])
        job.workers = workers
        files = done_by(job, 192, 32, [gpu] * workers, tmp_path / str(workers))
        found.append(np.concatenate([np.load(path) for path in files]).astype(np.float32))
    assert len(found[0]) == 192
    np.testing.assert_allclose(found[1], found[0], atol=NEAR)


def test_two_workers_on_one_gpu_retrieve_as_one(world: World, keyed: Path, tmp_path: Path, gpu: str):
    corpus, found = world.folder / "corpus/lines.txt", []
    for workers in (1, 2):
        job = VokenizeJob(str(keyed), corpus, world.bert.name, keyed / "keys", ["shapes_train"], None, 3, "torch", "fp32", 4, workers)
        loaded = [np.load(path) for path in done_by(job, 21, 6, [gpu] * workers, tmp_path / str(workers))]
        found.append({name: np.concatenate([one[name] for one in loaded]) for name in ("scores", "indices", "counts")})
    np.testing.assert_allclose(found[1]["scores"], found[0]["scores"], atol=1e-5)
    assert (found[1]["indices"] == found[0]["indices"]).mean() > 0.95 and len(found[0]["counts"]) == 21


@pytest.mark.parametrize(("precision", "near"), [("fp32", NEAR), ("bf16", LOW)])
def test_the_librarys_encoder(world: World, keyed: Path, pictures: list[str], gpu: str, precision: str, near: float):
    texts = ["a red circle", "blue", "a green square and a pink circle " * 9]
    one, two = load_encoder(keyed, device="cpu"), load_encoder(keyed, device="auto" if gpu == "cuda:0" else gpu, precision=precision)
    np.testing.assert_allclose(two.encode_texts(texts), one.encode_texts(texts), atol=near)
    np.testing.assert_allclose(two.encode_images(pictures[:24]), one.encode_images(pictures[:24]), atol=near)


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
