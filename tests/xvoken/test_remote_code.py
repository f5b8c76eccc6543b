"""A folder that brings Python code of its own: the code never runs, and one line says so, whatever stdin answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.builder import save_clip
from tests.running import ROOT
from tests.worlds import World

PAYLOAD = """
from transformers import CLIPImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
open({trace!r}, "a").write("ran")
class Config(PreTrainedConfig):
    model_type = "strange"
class Model(PreTrainedModel):
    config_class = Config
class Tokens(PreTrainedTokenizerFast):
    pass
class Pictures(CLIPImageProcessor):
    pass
"""


def rewrite(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def strange_config(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="strange", auto_map={"AutoConfig": "payload.Config", "AutoModel": "payload.Model"})


def strange_tokenizer(folder: Path) -> None:
    rewrite(folder / "config.json", model_type="strange")  # of a type that transformers knows, it would take its own class
    rewrite(folder / "tokenizer_config.json", tokenizer_class="Tokens", auto_map={"AutoTokenizer": [None, "payload.Tokens"]})


def strange_pictures(folder: Path) -> None:
    rewrite(folder / "preprocessor_config.json", image_processor_type="Pictures", auto_map={"AutoImageProcessor": "payload.Pictures"})


def run(folder: Path, command: list[object], answer: str | None) -> subprocess.CompletedProcess[str]:
    (folder / "payload.py").write_text(PAYLOAD.format(trace=str(folder.parent / "trace")))
    env = {**os.environ, "HF_MODULES_CACHE": str(folder.parent / "modules")}
    stdin = {"stdin": subprocess.DEVNULL} if answer is None else {"input": answer}
    return subprocess.run([sys.executable, *map(str, command)], cwd=ROOT, env=env, text=True, capture_output=True, timeout=60, **stdin)


@pytest.mark.parametrize("answer", ["y\n" * 9, None], ids=["answered", "unanswered"])
@pytest.mark.parametrize(
    ("case", "spoil", "said"),
    [
        ("tokenize", strange_tokenizer, "tokenizer "),
        ("train", strange_config, "text model "),
        ("captions", strange_config, "model "),
        ("captions", strange_pictures, "image processor "),
        ("keys", strange_pictures, "image processor "),
    ],
)
def test_code_of_a_folder_is_never_run(world: World, tmp_path: Path, case: str, spoil, said: str, answer: str | None):
    folder = tmp_path / "folder"
    if case in ("captions", "keys"):
        save_clip(folder)
    else:
        shutil.copytree(world.bert, folder)
    (tmp_path / "lines.txt").write_text("a red circle\n")
    spoil(folder)
    command = {
        "tokenize": ["tokenization/tokenize_dataset.py", tmp_path, "lines.txt", folder],
        "train": ["xmatching/main.py", *world.train_flags(tmp_path / "m"), "--lang", folder],
        "captions": ["ctx/encode_captions.py", "--model", folder, "--captions", tmp_path / "lines.txt"],
        "keys": ["vokenization/extract_vision_keys.py", "--load", folder, "--image-sets", f"x={world.folder}/images"],
    }[case]
    done = run(folder, command, answer)
    assert not (tmp_path / "trace").exists()
    assert done.returncode == 2, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not line.startswith("this CPU has bf16 units")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"error: {said}{folder}: needs Python code of its own (auto_map"), lines
    assert not (tmp_path / "modules").exists()


def test_code_that_is_not_needed_is_left_alone(world: World, tmp_path: Path):
    """A tokenizer of a class that transformers has, beside the config of a strange model."""
    folder = shutil.copytree(world.bert, tmp_path / "folder")
    (tmp_path / "lines.txt").write_text("a red circle\n")
    strange_config(folder)
    done = run(folder, ["tokenization/tokenize_dataset.py", tmp_path, "lines.txt", folder], "y\n" * 9)
    assert not (tmp_path / "trace").exists()
    assert done.returncode == 0 and "wrote 1 lines" in done.stdout, done.stderr
