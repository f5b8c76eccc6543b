"""A trained matcher on disk.

FOLDER/BEST.safetensors       the heads' tensors; its header carries the config. With a bank also bank.text float16 (B, dim) and bank.image
                              float16 (I, dim), vectors of training's captions and pictures, at most BANK of each: see Bank
FOLDER/BEST.json              the same config, for people: model, command line, epoch, metrics
FOLDER/BEST.text_tower/       only if the text tower was trained: a transformers folder
FOLDER/BEST.image_tower.safetensors   only if the image tower was trained
FOLDER/LAST.*                 the same after the last epoch, and LAST.training.safetensors to resume from
FOLDER/tokenizer/             the tokenizer that belongs to the model
FOLDER/metrics.jsonl          one object an epoch
"""

import json
import shlex
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from xvoken import commands
from xvoken.encoders.foreign import refuse_their_folder, refuse_torch_file
from xvoken.encoders.parts import Part, require_head, require_parts
from xvoken.encoders.typed import mistyped
from xvoken.errors import UserError
from xvoken.files.safe import replacing, replacing_files, sha256_of_file, write_json
from xvoken.files.snapshots import tensors_file
from xvoken.kinds import KEY_VIEWS
from xvoken.towers.open_names import OPEN_TOKENIZER

if TYPE_CHECKING:  # torch takes seconds to import, and reading a header needs none of it
    from torch import Tensor

FORMAT = "xvoken-matcher-1"
BANK = 4096  # sentences, and pictures, of a bank
UNIT = 0.01  # so far may the length of a bank's vector, rounded to 16 bits, be from 1


@dataclass(kw_only=True)
class ModelConfig:
    """A snapshot's config["model"], with its keys in order: the towers, as they were before any training, and the heads.

    A field that was added later has a default: its value for older snapshots, which lack the key.
    lang, visn: the towers' names; *_hash: of their weights; lang_layers: counted from the last; *_width: size of their outputs;
    tokenizer: its hash; lang_prompt: text that is put before every sentence; classes: their number for --recipe zeroshot, else 0;
    max_len: the longest caption in tokens; visn_weights: a file, None for the published weights; rank: of the head cca.
    parts: of joined heads, what each is: see Part; empty for a single head, which has all of the towers' outputs.
    key_views: how many of xvoken.pictures.cuts.CUTS a picture's vector is the mean of, where nothing else is asked for.
    hubness: how much of their hubness is taken off scores by default, see xvoken/search/hubness.py; 0: nothing.
    calibration: see xvoken.calibration.Calibration.to_list, None if none was fitted.
    """

    lang: str
    lang_hash: str
    lang_layers: list[int]
    text_pool: str = "cls"
    lang_prompt: str = ""
    text_width: int
    tokenizer: str | None = None
    max_len: int
    visn: str
    visn_hash: str
    visn_weights: str | None = None
    visn_pool: str = "avg"
    image_width: int
    head: str = "mlp"
    dim: int
    hidden: int
    hidden_layers: int = 2
    dropout: float
    level: str = "sentence"
    classes: int = 0
    key_views: int = 1
    rank: int = 768
    parts: list[dict[str, Any]] = field(default_factory=list)
    hubness: float = 0.0
    calibration: list[float] | None = None

    @classmethod
    def read(cls, said: dict[str, Any]) -> "ModelConfig":
        """From JSON; raises UserError for missing keys, values that can't be, unknown heads. Keys of newer versions are ignored."""
        if missing := cls.missing(said):
            raise UserError(f"not a matcher's config (missing: {missing})")
        if wrong := mistyped(cls, said):
            raise UserError(f"not a matcher's config ({wrong})")
        found = cls(**{field.name: said[field.name] for field in fields(cls) if field.name in said})
        if found.hubness < 0 or not 1 <= found.key_views <= max(KEY_VIEWS):
            raise UserError(f"not a matcher's config (hubness: {found.hubness}, key_views: {found.key_views})")
        require_parts(found.parts, found.text_width, found.image_width, found.dim)
        if not found.parts:
            require_head(found.head)
        return found

    @classmethod
    def missing(cls, said: dict[str, Any]) -> list[str]:
        """The keys that `said` lacks though every snapshot has them."""
        return [name for name in (field.name for field in fields(cls)) if name not in said and name not in cls.unsaid()]

    @classmethod
    def unsaid(cls) -> dict[str, Any]:
        """The values that keys have in older snapshots, which lack them."""
        plain = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
        return plain | {field.name: field.default_factory() for field in fields(cls) if field.default_factory is not MISSING}

    @property
    def joined(self) -> list[Part]:
        """The parts in order; one for a single head."""
        whole = Part(self.head, self.dim, [0, self.text_width], [0, self.image_width], 1.0)
        return [Part(**said) for said in self.parts] or [whole]

    @classmethod
    def with_heads(cls, **said: Any) -> "ModelConfig":
        """A config of heads alone, without towers; said: text_width, image_width, dim, hidden, dropout, and other fields of the heads."""
        none: dict[str, Any] = {"lang": "", "lang_hash": "", "lang_layers": [], "max_len": 0, "visn": "", "visn_hash": ""}
        return cls(**{**none, **said})


@dataclass(frozen=True)
class Bank:
    """Vectors in which hubness is measured: text (B, dim) of sentences, image (I, dim) of pictures, tensors of one type."""

    text: "Tensor"
    image: "Tensor"

    @property
    def tensors(self) -> "dict[str, Tensor]":
        """The tensors by their names in a snapshot's file."""
        return {"bank.text": self.text, "bank.image": self.image}


@dataclass
class Snapshot:
    """A trained matcher as it was read from its file.

    folder and tag ("BEST" or "LAST") name the file; config: its whole header; model: the header's part "model"; tensors: the heads' by
    name; hash: the first 16 hex digits of the file's SHA-256; bank: float32, None if the file has none.
    """

    folder: Path
    tag: str
    config: dict[str, Any]
    model: ModelConfig
    tensors: "dict[str, Tensor]"
    hash: str
    bank: Bank | None = None


def training_file(folder: Path) -> Path:
    """Where the state of a training after its last finished epoch lies, see xmatching/resume.py."""
    return folder / "LAST.training.safetensors"


def text_tower_folder(folder: Path, tag: str) -> Path:
    """Where a trained text tower lies; no such folder if it was frozen."""
    return folder / f"{tag}.text_tower"


def image_tower_file(folder: Path, tag: str) -> Path:
    """Where a trained image tower's weights lie; no such file if it was frozen."""
    return folder / f"{tag}.image_tower.safetensors"


def tower_sources(snapshot: Snapshot) -> tuple[str, str | None]:
    """Name or folder of the text tower, and weights file of the image tower (None: the published weights)."""
    text, image = text_tower_folder(snapshot.folder, snapshot.tag), image_tower_file(snapshot.folder, snapshot.tag)
    return str(text) if text.exists() else snapshot.model.lang, str(image) if image.exists() else snapshot.model.visn_weights


def tokenizer_folder(folder: Path) -> Path:
    """Where the matcher's tokenizer lies."""
    return folder / "tokenizer"


def metrics_file(folder: Path) -> Path:
    """Where a training writes the metrics of each epoch."""
    return folder / "metrics.jsonl"


def write_tokenizer(folder: Path, tokenizer: Any) -> Path:
    """Save a tokenizer with the snapshot; returns its folder."""
    with replacing_files(tokenizer_folder(folder)) as temporary:
        tokenizer.save_pretrained(temporary)
    return tokenizer_folder(folder)


def has_tokenizer(folder: Path) -> bool:
    """Whether the snapshot's folder has the file of a fast tokenizer or of one of open_clip's."""
    return any((tokenizer_folder(folder) / name).is_file() for name in ("tokenizer.json", OPEN_TOKENIZER))


def write(folder: Path, tag: str, config: dict[str, Any], tensors: "dict[str, Tensor]", command: list[str]) -> None:
    """Write heads and config. One file holds both, so that a kill never leaves one without the other."""
    write_json(folder / f"{tag}.json", {"format": FORMAT, **config, "command": shlex.join(command)})
    write_tensors(tensors_file(folder, tag), tensors, {"format": FORMAT, **config})


def write_tensors(path: Path, tensors: "dict[str, Tensor]", header: dict[str, Any]) -> None:
    """Tensors and a JSON header in one safetensors file, atomically; equal input gives equal bytes."""
    from safetensors.torch import save_file

    plain, places = {}, set()
    for name, tensor in tensors.items():  # safetensors takes no tensor twice, as T5 has its embeddings
        one = tensor.detach().cpu().contiguous()
        plain[name] = one.clone() if one.data_ptr() in places else one
        places.add(one.data_ptr())
    with replacing(path) as temporary:
        save_file(plain, temporary, metadata={"json": json.dumps(header, sort_keys=True)})


def read_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Tensors and header of a file made by `write_tensors`; raises UserError for any other file."""
    with _opened(path, "pt") as file:
        header = _header(file)
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118


def read_header(path: Path) -> dict[str, Any]:
    """The header of a file made by `write_tensors`, with the same errors as `read_tensors`; needs no torch."""
    with _opened(path, "np") as file:
        return _header(file)


def has_bank(load: str | Path) -> bool:
    """Whether the snapshot `load` has a bank, see Bank; raises UserError as `read` does; needs no torch."""
    with _opened(require_snapshot(load), "np") as file:
        return "bank.text" in file.keys()  # noqa: SIM118


@contextmanager
def _opened(path: Path, framework: str) -> Generator[Any]:
    try:
        with safe_open(path, framework) as file:
            yield file
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file of xvoken ({error})") from None


def _header(file: Any) -> dict[str, Any]:
    found = json.loads((file.metadata() or {}).get("json", "{}"))
    return found if isinstance(found, dict) else {}


def require_snapshot(load: str | Path) -> Path:
    """The file of the snapshot `load`: a folder's BEST.safetensors, or the .safetensors file given; raises UserError if it is missing."""
    path = Path(load)
    if path.is_dir():
        path = tensors_file(path, "BEST")
        if not path.exists():
            refuse_their_folder(path.parent)
    if not path.is_file():
        raise UserError(f"no snapshot at {load} ({path.absolute()} is missing); train one: {commands.train()}")
    refuse_torch_file(path)
    return path


def read(load: str | Path) -> Snapshot:
    """Read the snapshot `load`: a folder (its best epoch) or one of its .safetensors files; raises UserError if it can't be read."""
    path = require_snapshot(load)
    tensors, config = read_tensors(path)
    said = config.get("model", {})
    missing = ModelConfig.missing(said if isinstance(said, dict) else {})
    if config.get("format") != FORMAT or missing:
        raise UserError(f"{path}: not a matcher's snapshot (format {config.get('format')}, missing: {missing or 'nothing'})")
    try:
        model = ModelConfig.read(said)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return Snapshot(path.parent, path.stem, config, model, tensors, sha256_of_file(path)[:16], _taken_bank(path, tensors, model.dim))


def _taken_bank(path: Path, tensors: "dict[str, Tensor]", dim: int) -> Bank | None:
    """The bank, in float32, whose tensors are taken out of `tensors`; raises UserError for tensors that are none."""
    found = [tensors.pop(name) for name in ("bank.text", "bank.image") if name in tensors]
    if not found:
        return None
    sized = len(found) == 2 and all(one.ndim == 2 and one.shape[1] == dim and 0 < len(one) <= BANK for one in found)
    found = [one.float() for one in found]
    if not sized or not all(((one.norm(dim=1) - 1).abs() < UNIT).all() for one in found):  # false for NaN
        what = f"bank.text and bank.image must be 1 to {BANK} rows of {dim} numbers, of length 1"
        raise UserError(f"{path}: not a matcher's snapshot ({what})")
    return Bank(*found)


def check(folder: Path) -> str:
    """Read a snapshot whole and describe it in one line; raises UserError if it is damaged or has no tokenizer."""
    snapshot = read(folder)
    model = snapshot.model
    if not has_tokenizer(snapshot.folder):
        raise UserError(f"{snapshot.folder}: its tokenizer/ is missing")
    epoch = f"epoch {snapshot.config['epoch']}" if "epoch" in snapshot.config else "converted"
    return f"matcher {model.visn} + {model.lang}, {model.dim}-d, {epoch}, {snapshot.hash}"
