"""A small world for the pins, the same bits on every processor: all that the stages read, and nothing of theirs is used to make it.

Weights follow from whole numbers alone (`fill`), pictures are written as PNG files without compression, so that their sizes, which
go into names of caches, do not hang on a library. Paths in it are relative: the stages run in its folder.
"""

import hashlib
import io
import json
import math
import struct
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers.utils import logging

COLOURS = {"red": (220, 30, 20), "green": (20, 180, 40), "blue": (30, 40, 210)}
SHAPES = ("circle", "square", "bar")
WORDS = [
    "a", "an", "the", "red", "green", "blue", "circle", "square", "bar", "painted", "on", "of", "and", "do", "you",
    "like", "yes", "no", "cafe", "naive", "re", "run", "don", "t", "##s", "##ing", "2021",
]  # fmt: skip
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?'-<>/"
DIM = 8  # of the joint space
LINES = [
    "a red circle", "", "Do you like squares?\tyes , blue ones", "   ", "green " + "circle " * 30, "x", "the blue bar",
    "[SEP] A naïve Café", "unpainted bars\r",
]  # fmt: skip
PHRASES = ["red circle", "blue bar on a square", "", "green", "red circle", "the naïve one", "bar", "x", "like 2021"]


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
    """All parameters of a module by `fill`, in the order of their names; norms near the identity, statistics as they are."""
    norms = (nn.LayerNorm, nn.BatchNorm2d)
    ones = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, norms)}
    with torch.no_grad():
        for number, (name, parameter) in enumerate(sorted(module.named_parameters())):
            parameter.copy_(torch.from_numpy(fill(tuple(parameter.shape), number)) + float(name in ones))
    return module.eval()


def hash_of(tensors: dict[str, Tensor]) -> str:
    """What names weights: sha256 of names and bytes, 16 hex digits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def png(colour: str, shape: str, width: int, height: int) -> bytes:
    """A picture as an uncompressed PNG file."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    inside = {
        "circle": (2 * x - width) ** 2 * height**2 + (2 * y - height) ** 2 * width**2 < (width * height) ** 2 // 2,
        "square": (abs(2 * x - width) < width // 2) & (abs(2 * y - height) < height // 2),
        "bar": abs(2 * y - height) < height // 4,
    }[shape]
    pixels = np.where(inside[..., None], COLOURS[colour], np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], -1)).astype(
        np.uint8
    )
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


def build(folder: Path) -> None:
    """Everything, in an empty folder."""
    logging.disable_progress_bar()
    _pictures(folder)
    _texts(folder)
    towers = _towers(folder)
    save_tokenizer(folder / "bert")
    _snapshot(folder / "snap/pins", towers, "sentence")
    _snapshot(folder / "snap/token", towers, "token")
    _embeddings(folder / "embeddings/few", 5, 3)
    _embeddings(folder / "embeddings/many", 300, 1)
    _clip(folder / "models/clip")


def _pictures(folder: Path) -> None:
    for name in ("images", "lxmert", "mine/sub", "tars"):
        (folder / name).mkdir(parents=True)
    entries: dict[str, list[dict[str, Any]]] = {"train": [], "valid": []}
    for number, (colour, shape) in enumerate((colour, shape) for colour in COLOURS for shape in SHAPES):
        name, data = f"{colour}_{shape}", png(colour, shape, 40 + 7 * number, 60 - 3 * number)
        (folder / "images" / f"{name}.png").write_bytes(data)
        if shape == "circle":
            (folder / "mine" / ("sub" if number else ".") / f"{name}.png").write_bytes(data)
        captions = {"mscoco": [f"a {colour} {shape}", f"{shape} painted {colour}"], "vg": [f"{colour}, or so"]}
        entries["valid" if number % 3 == 2 else "train"].append({"img_id": name, "sentf": captions})
    for split, rows in entries.items():
        (folder / "lxmert" / f"shapes_{split}.json").write_text(json.dumps(rows))
    _coco(folder / "coco")
    (folder / "mine/broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (folder / "mine/empty.jpg").touch()
    (folder / "mine/notes.txt").write_text("no picture")
    for number in range(2):
        with tarfile.open(folder / f"tars/{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for path in [*sorted((folder / "images").glob("*.png"))[number::4], folder / "mine/notes.txt"]:
                member = tarfile.TarInfo(f"{number}/{path.name}")
                member.size = path.stat().st_size
                tar.addfile(member, io.BytesIO(path.read_bytes()))


def _coco(folder: Path) -> None:
    """Pictures and captions as COCO lays them out, with the files of the Karpathy split."""
    (folder / "annotations").mkdir(parents=True)
    first = 0
    for split, parts in (("train", ("train",)), ("val", ("restval", "dev"))):
        (folder / f"{split}2014").mkdir()
        images = [{"id": 30 - first - number, "file_name": f"{split}_{number}.png"} for number in range(3)]
        for number, image in enumerate(images):
            picture = png(list(COLOURS)[number], "bar", 36 + number, 33)
            (folder / f"{split}2014" / image["file_name"]).write_bytes(picture)
        rows = [{"id": first + number, "image_id": images[number // 2]["id"], "caption": f"caption {number}"} for number in range(6)]
        (folder / f"annotations/captions_{split}2014.json").write_text(json.dumps({"images": images, "annotations": rows}))
        for number, part in enumerate(parts):
            np.save(folder / f"annotations/coco_{part}_ids.npy", np.arange(first + 4 * number, first + 4 * number + 3 - number))
        first += 10
    np.save(folder / "annotations/coco_test_ids.npy", np.zeros(0, np.int64))


def _texts(folder: Path) -> None:
    for name in ("corpus", "raw", "genome"):
        (folder / name).mkdir()
    (folder / "corpus/lines.txt").write_bytes("\n".join(LINES).encode() + b"\n")
    (folder / "corpus/long.txt").write_bytes("\n".join(LINES * 500).encode() + b"\n")  # three parts of vokens
    (folder / "corpus/phrases.txt").write_bytes("\n".join(PHRASES).encode() + b"\n")
    rows = [
        {"context": ["hello  there", " general\tkenobi "], "response": "you are\na bold one"}, {"context": "alone", "response": "yes"},
        {"context": [], "response": "no"}, {"context": ["a", 1], "response": "b"}, {"response": "c"}, {"context": ["late"], "response": ""},
        {"context": '["in", "a cell"]', "response": "ok"}, {"context": ["last"], "response": "é"},
    ]  # fmt: skip
    lines = [json.dumps(row) for row in rows]
    (folder / "raw/train.jsonl").write_text("\n".join([*lines[:4], "{broken", *lines[4:]]) + "\n")
    (folder / "raw/valid.csv").write_text('context,response\n"[""one"", ""two""]",x\nplain text,y\n,z\n"a ""quoted"" cell",\n')
    (folder / "raw/test.tsv").write_text("id\tcontext\tresponse\n1\tfirst\tr\n2\t\tr\n")
    many = [f"{colour} {number}" for number in range(700) for colour in COLOURS]  # two groups of phrases
    (folder / "corpus/many.txt").write_bytes("\n".join(many).encode() + b"\n")
    attributes = [{"attributes": [{"synsets": ["dog.n.01"], "attributes": ["Brown", " big "]}, {"synsets": [], "attributes": ["lost"]}]}]
    dog, sofa = {"synsets": ["dog.n.01"]}, {"synsets": ["sofa.n.01", "lounge.n.02"]}
    relations = [
        {"relationships": [{"predicate": "ON", "subject": dog, "object": sofa}, {"predicate": "", "subject": dog, "object": sofa}]}
    ]
    (folder / "genome/attributes.json").write_text(json.dumps(attributes))
    (folder / "genome/relationships.json").write_text(json.dumps(relations))


def save_tokenizer(folder: Path) -> None:
    """A WordPiece tokenizer as BERT's, of few words and all letters."""
    from transformers import PreTrainedTokenizerFast

    special = {name: f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    tokens = list(dict.fromkeys([*special.values(), *WORDS, *LETTERS, *(f"##{letter}" for letter in LETTERS)]))
    ids = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])]
    backend.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {f"{name.lower()}_token": token for name, token in special.items()}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)


def _towers(folder: Path) -> dict[str, str]:
    """Text and image tower; returns the hashes of their weights, without the classifier that is not used."""
    import torchvision
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=128, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, max_position_embeddings=24
    )
    bert, resnet = fill_module(BertModel(config)), fill_module(torchvision.models.resnet18())
    bert.save_pretrained(folder / "bert")
    save_file(resnet.state_dict(), folder / "resnet18.safetensors")
    image = {f"model.{name}": tensor for name, tensor in resnet.state_dict().items() if not name.startswith("fc.")}
    return {"lang_hash": hash_of({f"model.{name}": tensor for name, tensor in bert.state_dict().items()}), "visn_hash": hash_of(image)}


def _snapshot(folder: Path, towers: dict[str, str], level: str) -> None:
    """A matcher as a training writes it, its heads by `fill`; the text tower is the folder ./bert, which is no short name."""
    head = {"sentence": "mlp", "token": "linear"}[level]
    sizes = {"mlp": {"layers.0": (16, None), "layers.3": (DIM, 16)}, "linear": {"layers.2": (DIM, None)}}[head]
    tensors = {}
    for part, width in (("text_head", 32), ("image_head", 512)):
        for layer, (rows, columns) in sizes.items():
            tensors[f"{part}.{layer}.weight"] = torch.from_numpy(fill((rows, columns or width), len(tensors)))
            tensors[f"{part}.{layer}.bias"] = torch.from_numpy(fill((rows,), len(tensors)))
    model = {
        "lang": "./bert", "lang_layers": [2, 1], "text_pool": "cls", "text_width": 32, "max_len": 12, "visn": "resnet18",
        "visn_weights": "resnet18.safetensors", "visn_pool": "avg", "image_width": 512, **towers,
        "head": head, "dim": DIM, "hidden": 16, "hidden_layers": 1, "dropout": 0.0, "level": level,
    }  # fmt: skip
    folder.mkdir(parents=True)
    header = {"format": "xvoken-matcher-1", "model": model, "training": {}, "epoch": 1}
    save_file(tensors, folder / "BEST.safetensors", metadata={"json": json.dumps(header, sort_keys=True)})
    save_tokenizer(folder / "tokenizer")


def _embeddings(folder: Path, number: int, step: int) -> None:
    """Keys as another tool wrote them, of length 1 to the last bit: four numbers of plus or minus a half, no two keys alike."""
    places = [row for row in range(1 << DIM) if row.bit_count() == 4]
    keys = np.zeros((number, DIM), np.float32)
    for row in range(number):
        at, signs = divmod((row * 377 + 17) * step % (len(places) * 16), 16)
        for bit, column in enumerate(c for c in range(DIM) if places[at] >> c & 1):
            keys[row, column] = 0.5 - (signs >> bit & 1)
    (folder / "img_emb").mkdir(parents=True)
    np.save(folder / "img_emb/img_emb_0000.npy", keys)


def _clip(folder: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    letters = sorted(set(pre_tokenizers.ByteLevel.alphabet()))
    ids = {token: number for number, token in enumerate(["<|startoftext|>", *letters, *(f"{letter}</w>" for letter in letters)])}
    ids["<|endoftext|>"] = len(ids)
    text = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": len(ids),
        "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": ids["<|endoftext|>"], "pad_token_id": 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    fill_module(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM))).save_pretrained(folder)
    CLIPTokenizer(vocab=ids, merges=[]).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
