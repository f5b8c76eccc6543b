"""What a command imports that has nothing to compute: torch alone takes seconds, and more than all else there. Counted, not timed."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import builder
from tests.running import ROOT
from tests.worlds import World

HEAVY = re.compile(r"\| +(torch|torchvision|transformers|faiss)$", re.MULTILINE)
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix()
    for top in ("xmatching", "tokenization", "vokenization", "ctx", "scripts")
    for path in (ROOT / top).glob("*.py")
    if 'if __name__ == "__main__":' in path.read_text()
)


def run(script: str, *flags: object, cwd: Path = ROOT) -> tuple[set[str], str]:
    """The heavy libraries that a command imports, and its last line."""
    command = [sys.executable, "-X", "importtime", ROOT / script, *flags]
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("import time:")]
    return set(HEAVY.findall(done.stderr)), "\n".join(said)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help(script: str):
    assert run(script, *(["0"] if script == "xmatching/gpus.py" else ["--help"]))[0] == set()


@pytest.mark.slow
def test_stages_that_are_finished(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """After the first run has found out what they have to know of the model."""
    monkeypatch.chdir(tmp_path)
    builder.save_clip(tmp_path / "clip")
    builder.save_pictures(tmp_path / "pictures", {"a": (40, 30), "b": (30, 40)})
    (tmp_path / "phrases.txt").write_text("".join(f"{phrase}\n" for phrase in builder.phrases(20)))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/valid.jsonl").write_text('{"context": ["a red circle", "yes"], "response": "no"}\n')
    (tmp_path / "pair.json").write_text('[{"img_id": "a", "sentf": {"mscoco": ["a red circle"]}}]')
    corpus, few = world.folder / "corpus/lines.txt", ["--num-workers", 1]
    ids, cache = ["--ids-root", f"{world.folder}/ids", *world.roots], ["--cache", f"{world.folder}/cache"]
    retrieve = ["--load", keyed, "--corpus", corpus, "--image-sets", "shapes_train", "--output", tmp_path / "vokens", *few]
    ctx = ["--model", "clip", "--num_workers", 1, "--device", "cpu"]
    for stage, *flags in (
        ("tokenization/prepare_reddit.py", "raw", tmp_path),
        ("tokenization/tokenize_dataset.py", corpus.parent, corpus.name, world.bert),
        ("tokenization/tokenize_dataset.py", tmp_path, "valid.pkl.txt", "clip"),
        ("vokenization/create_image_ids.py", "--image-sets", "shapes_train", *ids),
        ("vokenization/extract_vision_keys.py", "--load", keyed, "--image-sets", "shapes_train", *few, *ids, *cache),
        ("vokenization/vokenize_corpus_mp.py", *retrieve, "--index", "flat"),
        ("vokenization/vokenize_corpus_mp.py", *retrieve, "--index", "auto"),
        ("vokenization/evaluate_retrieval.py", "--load", keyed, "--image-sets", "shapes_valid", *few, *world.roots),
        ("vokenization/evaluate_diversity.py", "--load", keyed, "--image-sets", "shapes_valid", "--corpus", corpus, *world.roots),
        ("ctx/encode_captions.py", *ctx, "--captions", "phrases.txt"),
        ("ctx/encode_images.py", *ctx, "--images", "pictures"),
        ("ctx/build_context.py", *ctx, "--images", "pictures", "--k", 3),
        ("ctx/retrieve_captions.py", *ctx, "--images", "pictures", "--k", 3),
        ("ctx/evaluate_context.py", "--image-sets", "pair", "--lxmert-root", "."),
    ):
        script(stage.removesuffix(".py").replace("/", "."), *flags)
        heavy, said = run(stage, *flags, cwd=tmp_path)
        assert (heavy, "skipped" in said) == (set(), True), f"{stage}: {heavy} {said}"


def test_an_edited_model_is_another_one(tmp_path: Path, script: Callable[..., str], monkeypatch: pytest.MonkeyPatch):
    """What was known of it is found out again, and what was made with it is refused."""
    monkeypatch.chdir(tmp_path)
    builder.save_clip(tmp_path / "clip")
    (tmp_path / "phrases.txt").write_text("a dog\n")
    flags = ["--model", "clip", "--device", "cpu", "--num_workers", 1, "--captions", "phrases.txt"]
    script("ctx.encode_captions", *flags)
    builder.save_clip(tmp_path / "clip", seed=1)
    with pytest.raises(Exception, match="caption_db.hdf5 was made with other settings .model_hash"):
        script("ctx.encode_captions", *flags)
