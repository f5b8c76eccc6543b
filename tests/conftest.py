"""A small world that the tests share: pictures, captions, towers of the real classes, a trained matcher."""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from xvoken.console import show_log

ROOT = Path(__file__).resolve().parents[1]
# What is told to a user must not depend on a hub that may or may not be reached from here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What is started in the background (nohup, CI) ignores Ctrl-C, and so would all that the tests start: as at a terminal instead.
signal.signal(signal.SIGINT, signal.default_int_handler)
# What is kept of models between commands must be that of these tests.
CACHE = tempfile.TemporaryDirectory(prefix="xvoken-tests-")
os.environ["XDG_CACHE_HOME"] = CACHE.name
show_log()  # as commands do
COLOURS = ["red", "green", "blue", "yellow", "black", "white", "orange", "purple", "pink", "brown", "grey", "cyan"]
SHAPES = ["circle", "square"]


@dataclass
class World:
    """folder of everything; bert: a small text model with MiniLM's tokenizer; resnet: weights of a random resnet18."""

    folder: Path
    bert: Path
    resnet: Path

    @property
    def roots(self) -> list[str]:
        return ["--lxmert-root", f"{self.folder}/lxmert", "--image-root", f"{self.folder}/images", "--coco-root", f"{self.folder}/coco"]

    @property
    def towers(self) -> list[str]:
        return ["--lang", str(self.bert), "--visn", "resnet18", "--visn-weights", str(self.resnet)]

    def train_flags(self, output: Path, *more: object) -> list[str]:
        sets = ["--train-imgs", "shapes_train", "--valid-imgs", "shapes_valid"]
        size = ["--hidden", "32", "--dim", "16", "--batch-size", "8", "--epochs", "2", "--precision", "fp32", "--num-workers", "1"]
        cache = ["--cache", f"{self.folder}/cache"]
        return [*self.roots, *self.towers, *sets, *size, *cache, "--output", str(output), *map(str, more)]


def draw(colour: str, shape: str, size: tuple[int, int]):
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", size, "lightgrey")
    pen = ImageDraw.Draw(picture)
    box = (size[0] // 5, size[1] // 5, 4 * size[0] // 5, 4 * size[1] // 5)
    pen.ellipse(box, fill=colour) if shape == "circle" else pen.rectangle(box, fill=colour)
    return picture


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    import torch
    import torchvision
    from safetensors.torch import save_file
    from transformers import BertConfig, BertModel

    from xvoken.encoders.tokenizer import load_tokenizer

    folder = tmp_path_factory.mktemp("world")
    entries = {"train": [], "valid": []}
    (folder / "images").mkdir()
    for number, (colour, shape) in enumerate((c, s) for c in COLOURS for s in SHAPES):
        name = f"{colour}_{shape}"
        draw(colour, shape, (240 + 7 * number, 300 - 5 * number)).save(folder / "images" / f"{name}.png")
        captions = [f"a {colour} {shape}", f"{shape} painted {colour}"]
        entries["valid" if number % 4 == 3 else "train"].append({"img_id": name, "sentf": {"mscoco": captions}})
    (folder / "lxmert").mkdir()
    for split, rows in entries.items():
        (folder / "lxmert" / f"shapes_{split}.json").write_text(json.dumps(rows))

    torch.manual_seed(0)
    bert = folder / "tiny-bert"
    config = BertConfig(hidden_size=32, num_hidden_layers=5, num_attention_heads=4, intermediate_size=64, max_position_embeddings=40)
    BertModel(config).save_pretrained(bert)
    load_tokenizer("minilm").save_pretrained(bert)
    resnet = folder / "resnet18.safetensors"
    save_file(torchvision.models.resnet18().state_dict(), resnet)
    return World(folder, bert, resnet)


@pytest.fixture
def script(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a stage's main() in this process with the given flags; returns what it printed."""

    def run(module: str, *flags: object) -> str:
        capfd.readouterr()
        importlib.import_module(module).main([*map(str, flags)])
        out = capfd.readouterr()
        return out.out + out.err

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as a user does, from the root; the last argument may be more of the environment."""

    def run(*command: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, **environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.run([*map(str, command)], cwd=ROOT, env=env, text=True, capture_output=True, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def matcher(world: World) -> Path:
    """A snapshot trained for two epochs, with the keys of both sets."""
    output = world.folder / "snap" / "matcher"
    command = [sys.executable, "xmatching/main.py", *world.train_flags(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return output


@pytest.fixture(scope="session")
def keyed(world: World, matcher: Path) -> Path:
    """The snapshot with keys for shapes_train and shapes_valid, and a tokenized corpus at world/corpus/lines.txt."""
    corpus = world.folder / "corpus" / "lines.txt"
    corpus.parent.mkdir()
    long = "circle " * 60
    lines = ["a red circle", "", "do you like squares?\tyes , black ones", "   ", f"blue {long}", "x", "a green square and a pink circle"]
    corpus.write_text("\n".join(lines * 3) + "\n")
    ids = ["--ids-root", f"{world.folder}/ids", *world.roots]
    shared = ["--cache", f"{world.folder}/cache", "--num-workers", "1", "--precision", "fp32"]
    sets = ["--image-sets", "shapes_train,shapes_valid"]
    for command in (
        ["vokenization/create_image_ids.py", *sets, *ids],
        ["vokenization/extract_vision_keys.py", "--load-dir", str(matcher), *sets, *ids, *shared],
        ["tokenization/tokenize_dataset.py", str(corpus.parent), corpus.name, str(world.bert)],
    ):
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True, timeout=120)
    return matcher
