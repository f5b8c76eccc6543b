"""What other systems lack is hidden: reading, encoding and searching from Python work without it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.running import ROOT
from tests.worlds import World

HIDE = """
import os, signal, sys
for name in ("fcntl", "resource"):
    sys.modules[name] = None
for module, names in ((os, ("sched_getaffinity", "pread", "pwrite", "O_NOFOLLOW", "O_CLOEXEC")), (signal, ("pthread_sigmask",))):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
USE = """
import numpy as np
import xvoken
from xvoken.pictures.sources import shard_ids
from pathlib import Path
load, keys_dir, picture, corpus, tokenizer, shard, folder = sys.argv[1:]
encoder = xvoken.load_encoder(load, device="cpu")
keys = xvoken.read_keys(keys_dir, ["shapes_train"], encoder=encoder)
texts, pictures = encoder.encode_texts(["a red circle", "blue"]), encoder.encode_images([picture])
assert xvoken.open_index(keys, device="cpu").search(texts, k=3).rows.shape == (2, 3)
assert xvoken.open_index(keys, kind="ivf").search(texts, k=3).rows.shape == (2, 3)
xvoken.write_keys(folder, "mine", pictures, ["x"], encoder=encoder)
assert np.array_equal(xvoken.read_keys(folder, ["mine"], encoder=encoder).vectors, pictures)
assert len(xvoken.read_corpus(corpus, tokenizer)[0])
members = shard_ids(Path(shard))[0]
assert np.isfinite(encoder.encode_images(list(members.values()))).all()
print("done")
"""


def test_without_what_unix_has(world: World, keyed: Path, tmp_path: Path):
    picture = world.folder / "images/red_circle.png"
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", picture.parent, picture.name], check=True)
    given = [keyed, keyed / "keys", picture, world.folder / "corpus/lines.txt", world.bert, tmp_path / "a.tar", tmp_path / "keys"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HIDE + USE, *map(str, given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr
