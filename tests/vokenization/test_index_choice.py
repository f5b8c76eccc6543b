"""`--index`: what auto takes, and approximate indexes through the command line."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.running import run_here
from tests.worlds import World
from vokenization.index_choice import Choice, affordable, tell
from vokenization.index_recall import SAMPLE
from vokenization.sentences import sample_lines
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.identity import identify
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import vokens
from xvoken.files.corpus import Corpus
from xvoken.files.indexes import index_file, receipt_file

KINDS = ("ivf", "hnsw", "ivfpq")


def write_keys(folder: Path, snapshot: Path, number: int, seed: int = 0) -> None:
    """Random keys of length 1 in place of the image set `made`."""
    keys = np.random.default_rng(seed).standard_normal((number, 16), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    names = [f"{i}.jpg" for i in range(number)]
    key_files.write(folder, "made", [keys], names, names, [], {}, {"snapshot_hash": load_encoder(str(snapshot), [], "cpu").hash})


@pytest.fixture
def retrieve(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]) -> Callable[..., str]:
    """Run vokenize_corpus_mp.py over the keys in tmp_path/keys."""

    def run(*more: object) -> str:
        flags = ["--load", keyed, "--keys-dir", tmp_path / "keys", "--image-sets", "made", "--num-workers", 1]
        return script("vokenization.vokenize_corpus_mp", *flags, "--corpus", world.folder / "corpus/lines.txt", *more)

    write_keys(tmp_path / "keys", keyed, 1200)
    return run


MANY = 10**9  # lines that pay for any index


def test_auto_is_exact_up_to_the_cost_of_the_tower(keyed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """A layer of 32 numbers: attention 4 (32 x 32 + 32), feed-forward 32 x 64 + 64 + 64 x 32 + 32, two norms of 64."""
    monkeypatch.setattr("xvoken.files.indexes.READ_PRICE", 0)  # else no index pays for itself with so few keys
    load, identity = str(keyed), identify(keyed)
    weights = 5 * (4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 2 * 64) + 64 + 32 * 32 + 32  # the norm of the input; the pooler
    number = weights * (8 + 2) // 16  # 8 tokens a line and two special ones; keys of 16 numbers
    assert affordable(load, identity, 8, number, MANY) == "flat"
    assert f"exact search (flat), since exact search takes {32 * number:,} operations per line" in capsys.readouterr().err
    assert affordable(load, identity, 8, number + 1, MANY) == "ivf"
    told = capsys.readouterr().err
    assert f"approximate search (ivf), since exact search takes {32 * (number + 1):,} operations per line in {number + 1:,} keys" in told
    assert f"the text tower {2 * weights * 10:,}; for {MANY:,} lines {32 * (number + 1) * MANY:,}" in told
    assert affordable(load, identity, 1000, weights * 40 // 16 + 1, MANY) == "ivf"  # the tower sees 40 tokens at most
    capsys.readouterr()
    identity = replace(identity, level="token")  # a search for each token, and one for the line
    assert affordable(load, identity, 8, number // 9, MANY) == "flat"
    assert affordable(load, identity, 8, number // 9 + 1, MANY) == "ivf"


def test_auto_is_exact_until_an_index_pays_for_itself(keyed: Path, capsys: pytest.CaptureFixture[str]):
    """1,000,000 keys in 4,000 cells: a query costs 4,000 + 16 x 64 x 250, building 4 x 4,000 x (10 x 40 x 4,000 + 1,000,000)."""
    load, identity, number = str(keyed), identify(keyed), 1_000_000
    lines = 4 * 4000 * (10 * 40 * 4000 + number) // (number - 4000 - 16 * 64 * 250)
    assert affordable(load, identity, 8, number, lines) == "flat"
    assert f"exact search (flat), since exact search takes 32,000,000 operations per line in {number:,} keys" in capsys.readouterr().err
    assert affordable(load, identity, 8, number, lines + 1) == "ivf"
    assert (
        f"approximate search (ivf), since exact search takes 32,000,000 operations per line in {number:,} keys" in capsys.readouterr().err
    )
    few = replace(identity, level="token")  # nine searches a line
    assert [affordable(load, few, 8, number, n) for n in (lines // 9, lines // 9 + 1)] == ["flat", "ivf"]
    assert affordable(load, identity, 8, 60_000, MANY) == "flat"  # too few keys: reading the cells takes longer


def test_a_search_that_reads_much_of_the_index_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record = {"queries": 3, "lines": 3, "topk": 5, "recall": 0.96, "most": 1600}
    for kind, effort, warned in (("ivf", 100, False), ("ivf", 101, True), ("ivfpq", 101, True), ("hnsw", 101, False)):
        tell(Choice(kind), tmp_path, {**record, "effort": effort})
        assert ("exact search is likely to be faster" in capsys.readouterr().err) == warned


def test_lines_of_the_sample_are_whole_and_none_is_empty(world: World, keyed: Path):
    corpus = Corpus(world.folder / "corpus/lines.txt", "tiny-bert")
    for lines in (1, 7, 21):
        tokens, offsets = sample_lines(corpus, lines, SAMPLE)
        filled = [i for i in range(lines) if corpus.offsets[i + 1] > corpus.offsets[i]]
        assert len(offsets) - 1 == len(filled) <= SAMPLE
        assert tokens.tolist() == corpus.tokens[: corpus.offsets[lines]].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_finds_what_exact_search_finds(retrieve: Callable[..., str], tmp_path: Path, kind: str):
    printed = retrieve("--output", tmp_path / "flat")
    assert "--index auto: exact search (flat)" in printed
    printed = retrieve("--output", tmp_path / kind, "--index", kind, "--index-recall", 1)
    path = index_file(tmp_path / "keys", "made", kind)
    assert f"{path}: {'efSearch' if kind == 'hnsw' else 'nprobe'} " in printed
    assert "recall@5 1.000 against exact search for 15 queries of 15 lines" in printed
    flat, found = (vokens.read(tmp_path / name, "lines.txt", "made") for name in ("flat", kind))
    assert np.array_equal(flat.indices, found.indices)
    assert np.allclose(flat.scores, found.scores, atol=1e-6, equal_nan=True)
    settings = vokens.read_settings(vokens.hdf5_file(tmp_path / "flat", "lines.txt", "made"))
    assert settings["precision"] == "fp32" and not {"index", "index_id", "effort"} & set(settings)  # as before there was a choice
    with h5py.File(vokens.hdf5_file(tmp_path / kind, "lines.txt", "made")) as file:
        record = json.loads(file.attrs["index"])
    assert (record["kind"], record["recall"], record["topk"]) == (kind, 1, 5)
    report = json.loads((tmp_path / kind / "lines.txt.made.hdf5.report.json").read_text())
    assert report["index"] == record


def test_second_runs(retrieve: Callable[..., str], tmp_path: Path, keyed: Path):
    retrieve("--index", "ivf", "--output", tmp_path)
    path = index_file(tmp_path / "keys", "made", "ivf")
    files = [path, receipt_file(path), *tmp_path.glob("lines.txt*")]
    before = [(file.stat().st_mtime_ns, file.read_bytes()) for file in files]
    printed = retrieve("--index", "ivf", "--output", tmp_path)
    assert "skipped" in printed and "building" not in printed and "recall@5" in printed
    assert "skipped" in retrieve("--output", tmp_path)  # auto goes on as it was begun
    with pytest.raises(UserError, match='index: "ivf" then, null now'):
        retrieve("--index", "flat", "--output", tmp_path)
    with pytest.raises(UserError, match='index: "ivf" then, "hnsw" now'):
        retrieve("--index", "hnsw", "--output", tmp_path)
    assert not index_file(tmp_path / "keys", "made", "hnsw").exists()  # refused before it was built
    assert [(file.stat().st_mtime_ns, file.read_bytes()) for file in files] == before
    retrieve("--index", "ivf", "--output", tmp_path / "other", "--topk", 3)  # the same index, another recall
    assert path.read_bytes() == before[0][1] and len(json.loads(receipt_file(path).read_text())["recall"]) == 2
    write_keys(tmp_path / "keys", keyed, 1200, seed=1)
    with pytest.raises(UserError, match="keys: .* then"):
        retrieve("--index", "ivf", "--output", tmp_path)


def test_keys_that_may_not_be_written_to(retrieve: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="made.ivf.faiss: can't be written; copy the keys .* --keys-dir, or take --index flat"):
        retrieve("--index", "ivf")


def test_mistakes(retrieve: Callable[..., str], tmp_path: Path, world: World, keyed: Path, script: Callable[..., str]):
    for share in (0, 1.5):
        with pytest.raises(UserError, match=f"--index-recall {share}.*: must be above 0 and at most 1"):
            retrieve("--index-recall", share)
    with pytest.raises(UserError, match="no line with tokens to measure the recall of --index ivf on; take --index flat"):
        (tmp_path / "empty.txt").write_text("\n\n")
        script("tokenization.tokenize_dataset", tmp_path, "empty.txt", world.bert)
        retrieve("--index", "ivf", "--corpus", tmp_path / "empty.txt")
    index_file(tmp_path / "keys", "made", "ivf").write_bytes(b"damaged")
    with pytest.raises(UserError, match="no whole faiss index .* build it again after: rm .*made.ivf.faiss"):
        retrieve("--index", "ivf", "--output", tmp_path)
    write_keys(tmp_path / "keys", keyed, 200)
    printed = retrieve("--index", "ivfpq", "--output", tmp_path)
    assert "--index ivfpq: searching exactly instead, as this index needs at least 256 keys and there are 200" in printed


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]):
    write_keys(tmp_path / "keys", keyed, 1200)
    (tmp_path / "lines.txt").write_text((world.folder / "corpus/lines.txt").read_text() * 210)  # 4,410 lines, three parts
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", world.bert)
    for workers in (1, 2):
        done = run_here(
            "vokenization/vokenize_corpus_mp.py", "--load", keyed, "--keys-dir", tmp_path / "keys", "--image-sets", "made",
            "--corpus", tmp_path / "lines.txt", "--output", tmp_path / str(workers), "--num-workers", workers, "--index", "ivf",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("building" in done.stderr) == (workers == 1)
    for ending in ("", ".hdf5", ".ids"):
        one, two = ((tmp_path / str(n) / f"lines.txt.made{ending}").read_bytes() for n in (1, 2))
        assert one == two, ending
