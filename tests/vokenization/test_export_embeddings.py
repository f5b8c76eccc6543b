"""Exported keys: names, types and rows as clip-retrieval and autofaiss expect them."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest

from tests import builder
from tests.running import run_here
from vokenization import export_embeddings
from xvoken.errors import UserError
from xvoken.files import keys as key_files


def test_export_writes_what_readers_expect(tmp_path: Path, monkeypatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((7, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    ids = [f"p{i}" for i in range(7)]
    key_files.write(tmp_path / "snap/keys", "some", [vectors], ids, [f"/x/{i}.jpg" for i in ids], [], {}, {})
    rows = [{"img_id": i, "sentf": {"mscoco": [f"caption of {i}", "another"]}} for i in ids[:5]]
    (tmp_path / "some.json").write_text(json.dumps(rows))
    flags = ["--load", str(tmp_path / "snap"), "--image-sets", "some", "--rows-per-file", "3", "--lxmert-root", str(tmp_path)]
    export_embeddings.main(flags)
    folder = tmp_path / "snap/export/some"
    embeddings = sorted((folder / "img_emb").iterdir())
    metadata = sorted((folder / "metadata").iterdir())
    assert [path.name for path in embeddings] == [f"img_emb_000{n}.npy" for n in range(3)]
    assert [path.name for path in metadata] == [f"metadata_000{n}.parquet" for n in range(3)]
    read = np.concatenate([np.load(path) for path in embeddings])
    assert read.dtype == np.float16 and np.abs(read - vectors).max() < 1e-3
    tables = [parquet.read_table(path).to_pylist() for path in metadata]
    assert [len(table) for table in tables] == [3, 3, 1]
    assert sum(tables, [])[4] == {"image_path": "/x/p4.jpg", "caption": "caption of p4"}
    assert sum(tables, [])[6]["caption"] == ""
    export_embeddings.main(flags)  # the same files again
    with pytest.raises(UserError, match=r"img_emb_0001.npy belongs to another export \(4 such files\).* rm -r "):
        export_embeddings.main(flags[:4])


def test_keys_of_a_clip_folder_are_found_where_stages_put_them(tmp_path: Path) -> None:
    """The command that an error names makes what is missing."""
    builder.save_clip(tmp_path / "models/clip")
    builder.save_pictures(tmp_path / "photos", {"a": (40, 30), "b": (30, 40)})
    assert run_here("vokenization/create_image_ids.py", "--image-sets", "album=photos", cwd=tmp_path).returncode == 0
    export = ["vokenization/export_embeddings.py", "--load", "models/clip", "--image-sets", "album"]
    missing = run_here(*export, cwd=tmp_path)
    mend = missing.stderr.partition("make it with: python ")[2].split()
    assert missing.returncode == 2 and mend[0] == "vokenization/extract_vision_keys.py", missing.stderr
    assert run_here(*mend, "--num-workers", 1, cwd=tmp_path).returncode == 0
    assert "wrote 2 keys" in run_here(*export, cwd=tmp_path).stdout
    assert (tmp_path / "snap/xmatching/clip/export/album/img_emb/img_emb_0000.npy").is_file()
    assert "wrote 2 keys" in run_here(*export[:2], "snap/xmatching/clip", *export[3:], cwd=tmp_path).stdout  # the folder with the keys
