"""The bash scripts, as one would call them, on the small world."""

from collections.abc import Callable
from pathlib import Path

from tests.conftest import World


def test_training_on_gpus_that_this_machine_has_not_runs_on_the_cpu(world: World, tmp_path: Path, process: Callable):
    flags = world.train_flags(tmp_path / "m", "--epochs", 1)
    done = process("bash", "scripts/run_xmatching.bash", "0,1", *flags, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert "no GPU on this machine" in done.stderr
    assert (tmp_path / "m/BEST.safetensors").exists()


def test_a_mistake_in_two_processes_is_one_line_and_code_2(world: World, tmp_path: Path, process: Callable):
    done = process("bash", "scripts/run_xmatching.bash", "0,1", "--lxmert-root", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("no GPU")]
    assert len(said) == 1, done.stderr
    assert "mscoco_train.json does not exist" in said[0]


def test_tokenizing_and_retrieving_reddit(world: World, keyed: Path, tmp_path: Path, process: Callable):
    for split in ("valid", "test", "train"):
        (tmp_path / f"{split}.pkl.txt").write_text(f"a red circle\tin {split}\n\n")
    places = {"DATA_DIR": str(tmp_path), "TOKENIZER": str(world.bert)}
    done = process("bash", "tokenization/tokenize_reddit_bert.bash", **places)
    assert done.returncode == 0, done.stderr
    places |= {"LOAD": str(keyed), "IMAGE_SETS": "shapes_train"}
    output = tmp_path / "vokens"
    done = process("bash", "scripts/mpvokenize_reddit.bash", "--output", output, "--num-workers", 1, **places)
    assert done.returncode == 0, done.stderr
    for split in ("valid", "test", "train"):
        first, second, end = (output / f"{split}.pkl.txt.shapes_train").read_text().split("\n")
        assert len(first.split("\t")) == 5
        assert second == end == ""
