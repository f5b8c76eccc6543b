"""A small world for the pins, the same bits on every processor: all that the stages read, and nothing of theirs is used to make it.

Weights follow from whole numbers alone (`fill`), pictures are written as PNG files without compression, so that their sizes, which
go into names of caches, do not hang on a library. Paths in it are relative: the stages run in its folder.
"""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers.utils import logging

from tests.builder import fill, fill_module, hash_of, png, save_bert, save_clip, save_torchvision, save_wordpiece, sizes

COLOURS = ("red", "green", "blue")
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


def build(folder: Path) -> None:
    """Everything, in an empty folder."""
    logging.disable_progress_bar()
    _pictures(folder)
    _texts(folder)
    towers = _towers(folder)
    save_wordpiece(folder / "bert", WORDS, LETTERS)
    _snapshot(folder / "snap/pins", towers, "sentence")
    _snapshot(folder / "snap/token", towers, "token")
    _embeddings(folder / "embeddings/few", 5, 3)
    _embeddings(folder / "embeddings/many", 300, 1)
    save_clip(folder / "models/clip", dim=DIM, widths=(16, 24), layers=1, positions=16, weights=fill_module)


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
            picture = png(COLOURS[number], "bar", 36 + number, 33)
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


def _towers(folder: Path) -> dict[str, str]:
    """Text and image tower; returns the hashes of their weights, without the classifier that is not used."""
    bert = save_bert(folder / "bert", fill_module, vocab_size=128, **sizes(16, 2, 2, max_position_embeddings=24))
    resnet = save_torchvision(folder / "resnet18.safetensors", "resnet18", fill_module)
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
    save_wordpiece(folder / "tokenizer", WORDS, LETTERS)


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
