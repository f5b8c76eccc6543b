"""What jobs do on a GPU, on the device "cpu:0": for torch a CPU, for the jobs not "cpu", so they take a GPU's batches and threads."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.worlds import World
from vokenization.vokenization import VokenizeJob
from xvoken.cache.augmented import AugmentedJob
from xvoken.cache.images import NOT_FINITE, ImageJob
from xvoken.cache.texts import TextJob
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.errors import UserError
from xvoken.machine import IMAGE_BATCH, ON_GPU, TEXT_ON_GPU
from xvoken.pictures.augment import Crops
from xvoken.search.index import build_index
from xvoken.search.torch_exact import TorchIndex
from xvoken.towers.tokenizer import load_tokenizer
from xvoken.work.jobs import prepare

GPU = "cpu:0"


@pytest.fixture
def pictures(world: World, tmp_path: Path) -> list[str]:
    """The world's pictures with a broken one among them, more than a batch on a CPU."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    paths = sorted(map(str, (world.folder / "images").glob("*.png")))[: 2 * IMAGE_BATCH]
    return [*paths[:5], str(tmp_path / "broken.jpg"), *paths[5:]]


def rows_on(device: str, job: object, items: int, part: Path) -> tuple[dict, np.ndarray | dict[str, np.ndarray]]:
    job.setup(device)
    summary = job.run(0, items, part)
    path = next(part.parent.glob(f"{part.name}.np*"))
    loaded = np.load(path)
    return summary, dict(loaded) if path.suffix == ".npz" else loaded


@pytest.mark.parametrize("decoder", ["pillow", "torchcodec"])
def test_pictures(world: World, pictures: list[str], tmp_path: Path, decoder: str):
    spec = ImageTowerSpec("resnet18", str(world.resnet))
    jobs = [ImageJob(spec, pictures, "fp32", IMAGE_BATCH, 1, decoder) for _ in range(2)]
    plain, fast = (rows_on(device, job, len(pictures), tmp_path / device) for device, job in zip(("cpu", GPU), jobs, strict=True))
    assert plain[0] == fast[0] and [row for row, _ in fast[0]["skipped"]] == [5]
    np.testing.assert_allclose(plain[1].astype(np.float32), fast[1].astype(np.float32), atol=2e-3)
    assert np.isnan(fast[1][5]).all() and not np.isnan(np.delete(fast[1], 5, 0)).any()
    assert jobs[1].batch_size == IMAGE_BATCH * ON_GPU and jobs[1].threads and not jobs[0].threads


def test_augmented_views(world: World, pictures: list[str], tmp_path: Path):
    spec = ImageTowerSpec("resnet18", str(world.resnet))
    jobs = [AugmentedJob(spec, pictures, Crops(2, 0.5, 0), "fp32", IMAGE_BATCH, 1) for _ in range(2)]
    plain, fast = (rows_on(device, job, len(pictures), tmp_path / device) for device, job in zip(("cpu", GPU), jobs, strict=True))
    assert plain[0] == fast[0]
    np.testing.assert_allclose(plain[1].astype(np.float32), fast[1].astype(np.float32), atol=2e-3)


def test_sentences(world: World, tmp_path: Path):
    sentences = [f"a {'very ' * (n % 7)}long line" if n % 9 else "" for n in range(200)]
    jobs = [TextJob(TextTowerSpec(str(world.bert), (1,)), load_tokenizer(str(world.bert)), sentences, 20, "fp32", 16) for _ in range(2)]
    plain, fast = (rows_on(device, job, len(sentences), tmp_path / device) for device, job in zip(("cpu", GPU), jobs, strict=True))
    assert plain[0] == fast[0] and jobs[1].batch_size == 16 * TEXT_ON_GPU
    np.testing.assert_allclose(plain[1].astype(np.float32), fast[1].astype(np.float32), atol=2e-3)


def test_retrieval(world: World, keyed: Path, tmp_path: Path):
    corpus = world.folder / "corpus/lines.txt"
    fields = (str(keyed), corpus, world.bert.name, keyed / "keys", ["shapes_train"], None, 3, "torch", "fp32", 4)
    jobs = [VokenizeJob(*fields) for _ in range(2)]
    plain, fast = (rows_on(device, job, 21, tmp_path / device) for device, job in zip(("cpu", GPU), jobs, strict=True))
    assert plain[0] == fast[0] and jobs[1].batch_size == 4 * TEXT_ON_GPU
    np.testing.assert_allclose(plain[1]["scores"], fast[1]["scores"], atol=1e-5)
    assert (plain[1]["indices"] == fast[1]["indices"]).mean() > 0.95


def test_torch_index_in_larger_chunks():
    keys = np.random.default_rng(0).standard_normal((3000, 16), np.float32)
    keys[2000:2010] = keys[0]
    queries = keys[:50]
    expected = TorchIndex(keys).search(queries, 7)
    found = TorchIndex(keys, GPU).search(queries, 7)
    assert np.array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)


def test_no_room_for_the_keys(monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("xvoken.search.torch_exact.TorchIndex.__init__", full)
    with pytest.raises(UserError, match="cuda:0: has no room for 1,000 keys, 0.0 GB; take --index ivf"):
        build_index(np.zeros((1000, 4), np.float32), "torch", "cuda:0")


@pytest.mark.parametrize("device", [GPU, "cpu"])
def test_fp32_is_fp32_and_threads_are_those_of_any_machine(device: str):
    """torch computes convolutions on a GPU in TF32 if nothing is said, and with as many threads as there are cores."""

    class Nothing:
        workers = 1000

        def setup(self, device: str) -> None:
            self.seen = torch.get_num_threads(), torch.backends.cudnn.allow_tf32

    before = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(2)
    torch.backends.cudnn.allow_tf32 = True
    try:
        job = Nothing()
        prepare(job, device)
        assert job.seen == (1, False)
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_pictures_that_a_tower_makes_nothing_finite_of(world: World, pictures: list[str], tmp_path: Path):
    """A tower that diverged, or one whose numbers are too large for the cache: left out with their reason."""
    jobs = [
        ImageJob(ImageTowerSpec("resnet18", str(world.resnet)), pictures, "fp32", 4, 1),
        AugmentedJob(ImageTowerSpec("resnet18", str(world.resnet)), pictures, Crops(1, 0.5, 0), "fp32", 4, 1),
    ]
    for number, job in enumerate(jobs):
        job.setup("cpu")
        inner, calls = job.image.tower.forward, iter(range(100))
        job.image.tower.forward = lambda pixels, inner=inner, calls=calls: inner(pixels) * (1e9 if next(calls) == 0 else 1)
        skipped = job.run(0, len(pictures), tmp_path / str(number))["skipped"]
        rows = np.load(tmp_path / f"{number}.npy")
        at_once = 4 if number == 0 else 2
        assert skipped == [*([i, NOT_FINITE] for i in range(at_once)), next(row for row in skipped if row[0] == 5)]
        assert np.isfinite(np.delete(rows, [row for row, _ in skipped], 0)).all() and np.isnan(rows[[row for row, _ in skipped]]).all()
