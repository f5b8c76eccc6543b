"""The work on one range of lines: what a worker holds."""

from pathlib import Path

import numpy as np
import pytest

from tests.worlds import World
from vokenization.vokenization import VokenizeJob
from xvoken.encoders.encoder import load_encoder
from xvoken.files import keys
from xvoken.files.keys import read_blocks, read_keys

SETS = ["shapes_train", "shapes_valid"]


@pytest.mark.parametrize("most", [None, 3, 18, 20, 100])
def test_workers_search_the_keys_of_the_gallery(keyed: Path, most: int | None):
    encoder, where = load_encoder(str(keyed), [], "cpu"), keys.folder(keyed)
    gallery, blocks = read_keys(where, SETS, encoder, most), read_blocks(where, SETS, most)
    assert len(gallery.ids) == len(gallery.names) == sum(map(len, blocks)) == min(most or 24, 24)
    assert all(np.array_equal(one, other) for one, other in zip(gallery.blocks, blocks, strict=True))


def test_workers_read_no_ids_and_names(world: World, keyed: Path, monkeypatch: pytest.MonkeyPatch):
    """Of half a million pictures they take 150 MB and more than a second, in each worker."""
    monkeypatch.delattr(keys, "_lines")
    where = keys.folder(keyed)
    job = VokenizeJob(str(keyed), world.folder / "corpus/lines.txt", world.bert.name, where, SETS, None, 5, "auto", "fp32", 8)
    job.setup("cpu")
    assert job.index.search(keys.read_vectors(where, SETS[1])[0][:1], 1)[1].tolist() == [[18]]
