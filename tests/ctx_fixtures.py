"""Small dual encoders of random weights, and pictures of every shape, for the tests of the context."""

import contextlib
import importlib
import io
import os
import random
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from xvoken.cli.main import run_main

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"landscape": (160, 97), "portrait": (61, 148), "square": (96, 96), "tiny": (1, 1), "pair": (3, 2), "huge": (2301, 1702)}
WORDS = [
    *[
        "red",
        "blue",
        "old",
        "small",
        "big",
        "dog",
        "cat",
        "car",
        "tree",
        "house",
        "near",
        "on",
        "under",
        "behind",
        "with",
        "and",
        "of",
        "the",
        "a",
        "sky",
    ]
]


def save_clip(folder: Path, seed: int = 0, dim: int = 24, eos: int = 1) -> Path:
    """A CLIP model, its tokenizer and its image processor; eos: 1 as it should be, 2 as in OpenAI's own config files."""
    torch.manual_seed(seed)
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()))
    vocabulary = ["<|startoftext|>"] + letters + [f"{letter}</w>" for letter in letters]
    ids = {token: number for number, token in enumerate(vocabulary)}
    ids["<|endoftext|>"] = len(ids)  # the highest id, as in OpenAI's
    tokenizer = CLIPTokenizer(vocab=ids, merges=[])
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(ids),
        "max_position_embeddings": 40, "bos_token_id": 0, "eos_token_id": eos if eos == 2 else ids["<|endoftext|>"], "pad_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim)).eval()
    _spread(model)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def save_siglip(folder: Path, seed: int = 0) -> Path:
    """A SigLIP model with a fast tokenizer that puts one end token behind a text, as SigLIP 2's does."""
    torch.manual_seed(seed)
    ids = {token: number for number, token in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    text = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": len(ids),
        "max_position_embeddings": 12, "projection_size": 32,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()
    _spread(model)
    processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def _spread(model: torch.nn.Module) -> None:
    """Larger weights than those a training starts with, so that different inputs give clearly different outputs."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)


def save_pictures(folder: Path, sizes: dict[str, tuple[int, int]] = SIZES) -> Path:
    """One PNG of blurred noise per size, so that crops of a picture differ."""
    folder.mkdir(parents=True, exist_ok=True)
    random_numbers = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        small = random_numbers.integers(0, 256, (max(1, height // 8), max(1, width // 8), 3), np.uint8)
        picture = Image.fromarray(small).resize((width, height)).filter(ImageFilter.GaussianBlur(1))
        picture.save(folder / f"{name}.png", compress_level=1)
    return folder


def phrases(number: int) -> list[str]:
    chosen = random.Random(0)
    return list(dict.fromkeys(" ".join(chosen.choices(WORDS, k=chosen.randint(1, 6))) for _ in range(number)))


def run_script(name: str, work: Path, *flags: object, code: int = 0) -> str:
    """Run a script of ctx/ in a folder, in this process; returns its last line on stdout, or on stderr for an exit `code`."""
    module = importlib.import_module(f"ctx.{name}")
    before = os.getcwd()
    out, error, found = io.StringIO(), io.StringIO(), 0
    os.chdir(work)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            run_main(partial(module.main, ["--device", "cpu", *map(str, flags)]))
    except SystemExit as end:
        found = end.code
    finally:
        os.chdir(before)
    assert found == code, error.getvalue()
    return (error if code else out).getvalue().strip().split("\n")[-1]
