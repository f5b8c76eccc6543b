"""Every mistake of a user: one clear line, exit code 2, nothing lost."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.running import run_here
from tests.worlds import World
from xvoken.errors import UserError


@pytest.fixture
def copy(world: World, keyed: Path, tmp_path: Path) -> Path:
    """A copy of the snapshot with its keys, to be damaged; the corpus lies beside it."""
    shutil.copytree(keyed, tmp_path / "matcher")
    shutil.copytree(world.folder / "corpus", tmp_path / "corpus")
    return tmp_path / "matcher"


def vokenize(script: Callable[..., str], load: Path, *more: object, corpus: str = "lines.txt") -> str:
    sets = ["--image-sets", "shapes_train", "--num-workers", 1]
    return script("vokenization.vokenize_corpus_mp", "--load", load, "--corpus", load.parent / "corpus" / corpus, *sets, *more)


def rewrite(path: Path, change: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        change(file)


def test_no_snapshot(copy: Path, script: Callable[..., str], world: World):
    with pytest.raises(UserError, match=r"no snapshot at .*nowhere.*run_xmatching.bash"):
        vokenize(script, copy.parent / "nowhere")
    (copy / "BEST.safetensors").write_bytes(b"cut off")
    with pytest.raises(UserError, match=r"BEST.safetensors: not a whole safetensors file"):
        vokenize(script, copy)


def test_snapshot_of_other_towers(copy: Path, script: Callable[..., str], world: World):
    from xvoken.encoders import snapshot as snapshots

    tensors, config = snapshots.read_tensors(copy / "BEST.safetensors")
    config["model"]["lang_hash"] = "0" * 16
    snapshots.write_tensors(copy / "BEST.safetensors", tensors, config)
    rewrite(copy / "keys/shapes_valid.hdf5", lambda file: file.attrs.modify("snapshot_hash", snapshots.read(copy).hash))
    with pytest.raises(UserError, match="text tower .* has other weights here"):
        script("vokenization.evaluate_retrieval", "--load", copy, "--image-sets", "shapes_valid", *world.roots)


def test_missing_and_foreign_keys(copy: Path, script: Callable[..., str]):
    keys = copy / "keys/shapes_train.hdf5"
    rewrite(keys, lambda file: file.attrs.modify("snapshot_hash", "0" * 16))
    with pytest.raises(UserError, match=r"keys of another snapshot .*extract_vision_keys.py"):
        vokenize(script, copy)

    def halve(file: h5py.File) -> None:
        narrow = file["keys"][:, :8]
        del file["keys"]
        file["keys"] = narrow

    rewrite(keys, halve)
    with pytest.raises(UserError, match=r"keys of 8 dimensions, the snapshot's sentences have 16"):
        vokenize(script, copy)
    keys.unlink()
    with pytest.raises(UserError, match=r"shapes_train.hdf5 does not exist; make it with: python vokenization/extract"):
        vokenize(script, copy)
    keys.write_bytes(b"no hdf5")
    with pytest.raises(UserError, match="no whole hdf5 file"):
        vokenize(script, copy)


def test_tokens_of_another_tokenizer_or_none(copy: Path, script: Callable[..., str]):
    tokens = copy.parent / "corpus/lines.txt.tiny-bert.hdf5"
    rewrite(tokens, lambda file: file.attrs.modify("tokenizer_hash", "0" * 16))
    with pytest.raises(UserError, match=r"made by another tokenizer \(tiny-bert"):
        vokenize(script, copy)
    rewrite(tokens, lambda file: file.attrs.__delitem__("tokenizer_hash"))
    assert "does not say which tokenizer" in vokenize(script, copy)  # a predecessor's file
    with pytest.raises(UserError, match=r"other.txt.tiny-bert.hdf5 does not exist; make it with: python tokenization/tokenize"):
        vokenize(script, copy, corpus="other.txt")
    line = copy.parent / "corpus/lines.txt.tiny-bert.line"
    line.write_text(line.read_text() + "99999\n")
    with pytest.raises(UserError, match="ends at token 99999"):
        vokenize(script, copy)


def test_the_tokenizer_of_a_fine_tuned_tower(world: World, copy: Path, script: Callable[..., str]):
    """Its name is that of the tower it was trained from; its own folder holds no tokenizer."""
    (copy / "BEST.text_tower").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(world.bert / name, copy / "BEST.text_tower")
    assert "wrote the top 5" in vokenize(script, copy)
    with pytest.raises(
        UserError, match=f"make it with: python tokenization/tokenize_dataset.py {copy.parent}/corpus other.txt {world.bert}"
    ):
        vokenize(script, copy, corpus="other.txt")
    tokens = copy.parent / "corpus/lines.txt.tiny-bert.hdf5"
    rewrite(tokens, lambda file: file.attrs.modify("tokenizer_hash", "0" * 16))
    with pytest.raises(UserError, match=f"tokenize_dataset.py DATA_DIR FILE {world.bert}"):
        vokenize(script, copy)


def test_token_ids_beyond_the_vocabulary(copy: Path, script: Callable[..., str]):
    tokens = copy.parent / "corpus/lines.txt.tiny-bert.hdf5"

    def spoil(file: h5py.File) -> None:
        del file.attrs["tokenizer_hash"]
        file["tokens"][3] = 40000

    rewrite(tokens, spoil)
    with pytest.raises(UserError, match=r"token id 40000 .* 30522"):
        vokenize(script, copy)


def test_topk_and_numbers(copy: Path, script: Callable[..., str]):
    with pytest.raises(UserError, match=r"--topk 19: there are only 18 images"):
        vokenize(script, copy, "--topk", 19)
    with pytest.raises(UserError, match="--num-workers 0"):
        vokenize(script, copy, "--num-workers", 0)
    with pytest.raises(UserError, match="--device gpu"):
        vokenize(script, copy, "--device", "gpu")


@pytest.mark.parametrize(
    ("stage", "flag", "value"),
    [
        ("vokenization.create_image_ids", "--limit", 0), ("vokenization.create_image_ids", "--num-images", 0),
        ("vokenization.extract_vision_keys", "--limit", 0), ("vokenization.extract_vision_keys", "--batch-size", 0),
        ("vokenization.vokenize_corpus_mp", "--limit", 0), ("vokenization.vokenize_corpus_mp", "--topk", 0),
        ("vokenization.vokenize_corpus_mp", "--max-img-num", 0), ("vokenization.vokenize_corpus_mp", "--max-img-num", -2),
        ("vokenization.export_embeddings", "--rows-per-file", 0), ("tokenization.tokenize_dataset", "--limit", 0),
        ("tokenization.tokenize_dataset", "--num-workers", "x"), ("tokenization.prepare_reddit", "--limit", -3),
        ("xmatching.main", "--limit", 0), ("xmatching.main", "--num-workers", 0), ("xmatching.main", "--batch-size", 1),
        ("xmatching.main", "--views", -1),
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense(script: Callable[..., str], capfd: pytest.CaptureFixture[str], stage: str, flag: str, value: object):
    with pytest.raises(SystemExit) as caught:
        script(stage, flag, value)
    assert caught.value.code == 2
    assert f"argument {flag}" in (said := capfd.readouterr().err) and f"{value}: a whole number of at least" in said


@pytest.mark.parametrize("stage", ["vokenize_corpus_mp", "evaluate_retrieval", "export_embeddings"])
def test_image_sets_given_twice(world: World, copy: Path, script: Callable[..., str], stage: str):
    corpus = ["--corpus", copy.parent / "corpus/lines.txt"] if stage == "vokenize_corpus_mp" else []
    with pytest.raises(UserError, match="image set shapes_train is given 2 times"):
        script(f"vokenization.{stage}", "--load", copy, "--image-sets", "shapes_train,shapes_valid,shapes_train", *corpus)


def test_image_sets(world: World, copy: Path, tmp_path: Path, script: Callable[..., str]):
    ids = ["--ids-root", tmp_path / "ids", *world.roots]
    with pytest.raises(UserError, match=r"image set nosuch: unknown; known here: .*shapes_train"):
        script("vokenization.create_image_ids", "--image-sets", "nosuch", *ids)
    with pytest.raises(UserError, match=r"shapes_train: its order is not fixed yet; run: python vokenization/create_image_ids"):
        script("vokenization.extract_vision_keys", "--load-dir", copy, "--image-sets", "shapes_train", *ids)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no pictures in it"):
        script("vokenization.create_image_ids", "--image-sets", f"x={tmp_path / 'empty'}", *ids)
    with pytest.raises(UserError, match="no such folder"):
        script("vokenization.create_image_ids", "--image-sets", f"x={tmp_path / 'nowhere'}", *ids)
    with pytest.raises(UserError, match="names are made of letters"):
        script("vokenization.create_image_ids", "--image-sets", "../x", *ids)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/x.jpg").write_bytes(b"no picture")
    script("vokenization.create_image_ids", "--image-sets", f"bad={tmp_path / 'bad'}", *ids)
    with pytest.raises(UserError, match=r"bad: none of the 1 pictures can be used \(not a picture\)"):
        script("vokenization.extract_vision_keys", "--load-dir", copy, "--image-sets", "bad", *ids, "--cache", tmp_path / "cache")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"shapes_train.json does not exist; docs/data.md"),
        ("[{", "is not valid JSON .line 1"),
        ("{}", "a list of .img_id, sentf. was expected, this is a JSON dict"),
        ('[{"id": 3}]', "entry 0 is not"),
        ('[{"img_id": 3, "sentf": {"mscoco": ["x"]}}]', "must be texts"),
        (
            '[{"img_id": "a", "sentf": {"mscoco": "a cat"}}]',
            'entry 0: .*"sentf": {"mscoco": "a cat"}}, a list of sentences was expected: .*{"mscoco": ."a caption", "another caption".}}',
        ),
        ('[{"img_id": "a", "sentf": {"mscoco": {"a cat": 3}}}]', 'entry 0: .*{"mscoco": {"a cat": 3}}}, a list of sentences was expected'),
        ('[{"img_id": "a", "sentf": {"mscoco": 3}}]', "a list of sentences was expected"),
        ('[{"img_id": "a", "sentf": ["x"]}]', "entry 0 is not .img_id, sentf"),
        ('[{"img_id": "a", "sentf": "x"}]', "entry 0 is not .img_id, sentf"),
        ('[{"img_id": "a", "sentf": {"vg": ["x"]}}]', "no sentence of mscoco in it; its sources are: vg"),
        ('[{"img_id": "a", "sentf": {"mscoco": ["x"]}}, {"img_id": "a", "sentf": {}}]', "picture a is listed twice"),
        ("[]", "no sentence of mscoco"),
    ],
)
def test_lxmert_files(world: World, tmp_path: Path, script: Callable[..., str], content: str | None, message: str):
    if content is not None:
        (tmp_path / "shapes_train.json").write_text(content)
    with pytest.raises(UserError, match=message):
        script("xmatching.main", *world.train_flags(tmp_path / "m", "--lxmert-root", tmp_path))
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_mistakes_end_with_code_2_and_one_line(world: World, tmp_path: Path, process: Callable):
    """As a user sees it: through the shell."""
    wrong = [
        ["python", "xmatching/main.py", "--lxmert-root", tmp_path],
        ["python", "xmatching/main.py", *world.train_flags(tmp_path / "m", "--visn", "resnet9000")],
        ["python", "-m", "vokenization.vokenize_corpus_mp", "--load", tmp_path, "--corpus", "x"],
        ["bash", "scripts/run_xmatching.bash", "0,0"],
        ["bash", "scripts/extract_keys.bash"],
    ]
    for command in wrong:
        done = process(*command, IMAGE_SETS="nosuch")
        assert done.returncode == 2, command
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("error: ")
    done = run_here("xmatching/main.py", "--loss", "nosuch")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_damaged_files_are_found_by_check(copy: Path, script: Callable[..., str]):
    from xvoken.files import keys, vokens

    vokenize(script, copy)
    rewrite(copy / "vokens/lines.txt.shapes_train.hdf5", lambda file: file["indices"].__setitem__((0, 0), 18))
    with pytest.raises(UserError, match="row 18 is beyond the 18 ids"):
        vokens.check(copy / "vokens", "lines.txt", "shapes_train")
    rewrite(copy / "keys/shapes_train.hdf5", lambda file: file["keys"].__setitem__(4, np.zeros(16)))
    with pytest.raises(UserError, match="row 4 is not of length 1"):
        keys.check(copy / "keys", "shapes_train")
    (copy / "keys/shapes_train.ids").write_text("x\n")
    with pytest.raises(UserError, match="has 1 lines for 18 keys"):
        keys.check(copy / "keys", "shapes_train")


def test_damaged_results_are_refused(copy: Path, script: Callable[..., str]):
    from xvoken.files import vokens

    vokenize(script, copy)
    results = copy / "vokens/lines.txt.shapes_train.hdf5"
    results.write_bytes(results.read_bytes()[:3000])
    for call in (lambda: vokenize(script, copy), lambda: vokens.read(copy / "vokens", "lines.txt", "shapes_train")):
        with pytest.raises(UserError, match=r"no whole hdf5 file .*remove it, then make it with: python vokenization/vokenize_corpus_mp"):
            call()


def test_evaluation_without_captions(world: World, copy: Path, tmp_path: Path, script: Callable[..., str]):
    (tmp_path / "shapes_valid.json").write_text(json.dumps([{"img_id": "other", "sentf": {"mscoco": ["x"]}}]))
    with pytest.raises(UserError, match="none of its captions belongs to one of its 6 keys"):
        script("vokenization.evaluate_retrieval", "--load", copy, "--image-sets", "shapes_valid", "--lxmert-root", tmp_path)
