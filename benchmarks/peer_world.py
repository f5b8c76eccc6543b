"""What benchmarks/peers.py works on, and the environments of the tools that it compares with: made once, in its cache folder."""

import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from PIL import Image, ImageOps
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from benchmarks import worlds
from tests import builder
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.pictures.sources import folder_ids
from xvoken.towers.tokenizer import load_tokenizer

PEERS = Path(__file__).resolve().parent / "peers"


def environment(cache: Path, peer: str) -> Path:
    """The Python of a peer's environment: its own pinned packages, and of the running environment all others, above all torch.

    Raises UserError, with pip's last line, where they can't be installed.
    """
    pins, shared = PEERS / f"{peer}.txt", sysconfig.get_paths()["purelib"]
    folder = cache / f"{peer}-{hashlib.sha256(f'{pins.read_text()}{sys.version}{shared}'.encode()).hexdigest()[:8]}"
    python = folder / "bin/python"
    if (folder / "finished").exists():
        return python
    say(f"{peer}: making the environment {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    install = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed", "-r", pins]
    for command in ([sys.executable, "-m", "venv", folder], install):
        done = subprocess.run([*map(str, command)], capture_output=True, text=True)
        if done.returncode:
            said = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")] or [done.stderr[-300:]]
            raise UserError(f"{peer}: its packages can't be installed here: {said[-1]}")
    # Behind its own packages on the path: the same torch as ours, and not its gigabytes once more.
    (next(folder.glob("lib/python*/site-packages")) / "shared.pth").write_text(shared)
    (folder / "finished").touch()
    return python


def learnt_tokenizer(lines: list[str]) -> CLIPTokenizer:
    """CLIP's kind of tokenizer, learnt from lines, with the two special tokens where OpenAI's has them."""
    special = {"<|startoftext|>": 49_406, "<|endoftext|>": 49_407}
    learnt = CLIPTokenizer(vocab=special, merges=[]).train_new_from_iterator(lines, 49_408, show_progress=False)
    model = json.loads(learnt.backend_tokenizer.to_str())["model"]
    tokens = [token for token in sorted(model["vocab"], key=model["vocab"].get) if token not in special]
    tokens += [f"<|unused{number}|>" for number in range(len(tokens), min(special.values()))]  # no gaps, which tokenizers complains of
    ids = {token: number for number, token in enumerate(tokens)} | special
    return CLIPTokenizer(vocab=ids, merges=[tuple(pair) for pair in model["merges"]], model_max_length=77)


def clip(folder: Path, lines: list[str], layers: int) -> Path:
    """CLIP ViT-B/32, with random weights and a tokenizer learnt from lines."""
    if not (folder / "preprocessor_config.json").exists():
        torch.manual_seed(0)
        text = {"bos_token_id": 49_406, "eos_token_id": 49_407, "pad_token_id": 49_407, "num_hidden_layers": layers}
        config = CLIPConfig(text_config=text, vision_config={"num_hidden_layers": layers})
        for part in (CLIPModel(config), learnt_tokenizer(lines), CLIPImageProcessor()):
            part.save_pretrained(folder)
    return folder


def bert(folder: Path) -> tuple[Path, Path]:
    """BERT-base with random weights and MiniLM's tokenizer, and a matcher's snapshot on top of it."""
    if not (folder / "snap/BEST.json").exists():
        text = worlds.text_tower(folder)
        load_tokenizer("minilm").save_pretrained(folder / "text")
        builder.save_snapshot(folder / "snap", text, worlds.image_tower(folder, "shufflenet_v2_x0_5"))
    return folder / "text", folder / "snap"


def photos(source: Path, folder: Path, number: int) -> Path:
    """Write that many JPEG files of a folder's photos: each time round they are cut by one pixel more and mirrored."""
    names = folder_ids(source)[0]
    if not names:
        raise UserError(f"{source}: there are no pictures; name a folder of photos with --images")
    folder.mkdir(parents=True)
    for i in range(number):
        with Image.open(source / names[i % len(names)]) as picture:
            time = i // len(names)
            picture = picture.convert("RGB").crop((time, time, picture.width, picture.height))
            (ImageOps.mirror(picture) if time % 2 else picture).save(folder / f"{i:05d}.jpg", quality=90)
    return folder
