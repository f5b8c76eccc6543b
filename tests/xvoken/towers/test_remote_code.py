"""A folder that brings Python code of its own: the code never runs, and one line says so, whatever stdin answers."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoModel, dynamic_module_utils
from transformers.utils import hub

from tests.builder import save_clip
from tests.running import ROOT, run_here
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


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command on a folder with code of its own, where the code would be left if it ran; answer: what stdin says."""

    def run(folder: Path, command: list[object], answer: str | None) -> subprocess.CompletedProcess[str]:
        (folder / "payload.py").write_text(PAYLOAD.format(trace=str(tmp_path / "trace")))
        for module in (dynamic_module_utils, hub):
            monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "modules"))
        if answer is None:  # also what libraries say by themselves, in a process of its own
            environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
            command = [sys.executable, *map(str, command)]
            return subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        return run_here(*command)

    return run


@pytest.mark.parametrize(
    ("case", "spoil", "said", "answer"),
    [
        ("tokenize", strange_tokenizer, "tokenizer ", "y\n" * 9),
        ("tokenize", strange_tokenizer, "tokenizer ", None),
        ("train", strange_config, "text model ", "y\n" * 9),
        ("captions", strange_config, "model ", "y\n" * 9),
        ("captions", strange_pictures, "image processor ", "y\n" * 9),
        ("keys", strange_pictures, "image processor ", "y\n" * 9),
        ("keys", strange_pictures, "image processor ", None),
    ],
    ids=["tokenize", "tokenize-unanswered", "train", "captions", "captions-pictures", "keys", "keys-unanswered"],
)
def test_code_of_a_folder_is_never_run(world: World, tmp_path: Path, case: str, spoil, said: str, answer: str | None, run):
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


def test_code_that_is_not_needed_is_left_alone(world: World, tmp_path: Path, run):
    """A tokenizer of a class that transformers has, beside the config of a strange model."""
    folder = shutil.copytree(world.bert, tmp_path / "folder")
    (tmp_path / "lines.txt").write_text("a red circle\n")
    strange_config(folder)
    done = run(folder, ["tokenization/tokenize_dataset.py", tmp_path, "lines.txt", folder], "y\n" * 9)
    assert not (tmp_path / "trace").exists()
    assert done.returncode == 0 and "wrote 1 lines" in done.stdout, done.stderr


def test_code_runs_where_it_is_asked_for(world: World, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch):
    """Where the same code is allowed to run, it leaves what the tests above look for: they can fail."""
    folder = shutil.copytree(world.bert, tmp_path / "folder")
    strange_config(folder)
    assert run(folder, ["xmatching/main.py", *world.train_flags(tmp_path / "m"), "--lang", folder], "y\n").returncode == 2
    assert not (tmp_path / "trace").exists()
    monkeypatch.setattr("sys.path", sys.path.copy())
    with suppress(Exception):  # its model has no weights
        AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "trace").exists() and (tmp_path / "modules").exists()
