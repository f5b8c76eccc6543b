"""A trained matcher on disk.

FOLDER/BEST.safetensors       the heads' tensors; its header carries the config
FOLDER/BEST.json              the same config, for people: model, command line, epoch, metrics
FOLDER/BEST.text_tower/       only if the text tower was trained: a transformers folder
FOLDER/BEST.image_tower.safetensors   only if the image tower was trained
FOLDER/LAST.*                 the same after the last epoch, and LAST.training.safetensors to resume from
FOLDER/tokenizer/             the tokenizer that belongs to the model
FOLDER/metrics.jsonl          one object an epoch
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xvoken.errors import UserError
from xvoken.files.safe import replacing, replacing_files, sha256_of_file, write_json

FORMAT = "xvoken-matcher-1"
CONFIG_KEYS = (
    "lang", "lang_hash", "lang_layers", "text_width", "visn", "visn_hash", "image_width",
    "dim", "hidden", "dropout", "max_len",
)  # fmt: skip
# What snapshots from before there was a choice do not say.
MODEL_DEFAULTS = {"head": "mlp", "hidden_layers": 2, "text_pool": "cls", "visn_pool": "avg", "level": "sentence"}


@dataclass
class Snapshot:
    """folder and tag ("BEST" or "LAST"), config["model"] (see CONFIG_KEYS), tensors by name, hash of the file."""

    folder: Path
    tag: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    hash: str


def tensors_file(folder: Path, tag: str) -> Path:
    return folder / f"{tag}.safetensors"


def training_file(folder: Path) -> Path:
    """Where the state of an unfinished training stands, see xmatching/resume.py."""
    return folder / "LAST.training.safetensors"


def text_tower_folder(folder: Path, tag: str) -> Path:
    return folder / f"{tag}.text_tower"


def image_tower_file(folder: Path, tag: str) -> Path:
    return folder / f"{tag}.image_tower.safetensors"


def tower_sources(snapshot: Snapshot) -> tuple[str, str | None]:
    """Name or folder of the text tower, and weights file of the image tower (None: the published weights)."""
    model = snapshot.config["model"]
    text, image = text_tower_folder(snapshot.folder, snapshot.tag), image_tower_file(snapshot.folder, snapshot.tag)
    return str(text) if text.exists() else model["lang"], str(image) if image.exists() else model.get("visn_weights")


def tokenizer_folder(folder: Path) -> Path:
    return folder / "tokenizer"


def metrics_file(folder: Path) -> Path:
    return folder / "metrics.jsonl"


def write_tokenizer(folder: Path, tokenizer: Any) -> Path:
    """Save a tokenizer of transformers with the snapshot; returns its folder."""
    with replacing_files(tokenizer_folder(folder)) as temporary:
        tokenizer.save_pretrained(temporary)
    return tokenizer_folder(folder)


def has_tokenizer(folder: Path) -> bool:
    return (tokenizer_folder(folder) / "tokenizer.json").is_file()


def write(folder: Path, tag: str, config: dict[str, Any], tensors: dict[str, Tensor], command: list[str]) -> None:
    """Write heads and config. One file holds both, so that a kill never leaves one without the other."""
    write_tensors(tensors_file(folder, tag), tensors, {"format": FORMAT, **config})
    write_json(folder / f"{tag}.json", {"format": FORMAT, **config, "command": shlex.join(command)})


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Tensors and a JSON header in one safetensors file, atomically; equal input gives equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata={"json": json.dumps(header, sort_keys=True)})


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file made by `write_tensors`; raises UserError for any other file."""
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("json", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file of xvoken ({error})") from None


def read(load: str | Path) -> Snapshot:
    """Read the snapshot that `load` names: its folder (the best epoch) or one of its .safetensors files."""
    path = Path(load)
    if path.is_dir():
        path = tensors_file(path, "BEST")
    if not path.is_file():
        raise UserError(f"no snapshot at {load} ({path.name} is missing); train one: bash scripts/run_xmatching.bash 0")
    tensors, config = read_tensors(path)
    missing = [key for key in CONFIG_KEYS if key not in config.get("model", {})]
    if config.get("format") != FORMAT or missing:
        raise UserError(f"{path}: not a matcher's snapshot (format {config.get('format')}, missing: {missing or 'nothing'})")
    return Snapshot(path.parent, path.stem, config, tensors, sha256_of_file(path)[:16])


def check(folder: Path) -> str:
    """Read a snapshot whole and say what it is; raises UserError."""
    snapshot = read(folder)
    model = snapshot.config["model"]
    if not has_tokenizer(snapshot.folder):
        raise UserError(f"{snapshot.folder}: its tokenizer/ is missing")
    return f"matcher {model['visn']} + {model['lang']}, {model['dim']}-d, epoch {snapshot.config.get('epoch')}, {snapshot.hash}"
