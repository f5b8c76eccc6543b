"""One interface for every dual encoder: text tower and head, image tower and head, one joint space."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from xvoken import snapshot as snapshots
from xvoken.heads import HEADS
from xvoken.image_towers import ImageTower
from xvoken.messages import UserError
from xvoken.text_towers import TextTower, load_tokenizer, weights_hash


@dataclass(frozen=True)
class TextTowerSpec:
    """How a process builds a text tower: a name or folder, the layers used and how tokens are pooled."""

    name: str
    layers: tuple[int, ...]
    pool: str = "cls"

    def build(self) -> TextTower:
        return TextTower(self.name, self.layers, self.pool).eval().requires_grad_(False)


@dataclass(frozen=True)
class ImageTowerSpec:
    """How a process builds an image tower: a name, a weights file or the published weights, and the pooling."""

    name: str
    weights: str | None = None
    pool: str = "avg"

    def build(self) -> ImageTower:
        return ImageTower(self.name, self.weights, self.pool).eval().requires_grad_(False)


@dataclass
class Encoder:
    """A dual encoder ready for use, on the CPU, in eval mode: a matcher's snapshot, or a CLIP-like model.

    name: what its files say made them; hash: 16 hex digits of its weights; dim: size of the joint space.
    text_tower (ids, mask) -> features -> text_head -> (B, dim); image_tower (pixels) -> features -> image_head.
    A tower is None if it was not asked for. fixed_length: every sentence is padded to the tower's length.
    level: "sentence", or "token" for heads that take text_tower.tokens.
    tokenizer_name: what was given as the text tower's name, whose tokenizer it is: a trained tower's folder holds none.
    home: folder for what is made with it; revision: the hub's commit, where there is one.
    """

    name: str
    hash: str
    dim: int
    max_len: int
    tokenizer: Any
    text_spec: Any
    image_spec: Any
    text_head: nn.Module
    image_head: nn.Module
    text_tower: nn.Module | None = None
    image_tower: nn.Module | None = None
    fixed_length: bool = False
    tokenizer_name: str = ""
    home: Path = Path()
    revision: str = ""
    level: str = "sentence"


def load_encoder(load: str, text: bool = False, image: bool = False) -> Encoder:
    """Load what `load` names, with the towers asked for; what lies there decides.

    A matcher's snapshot (folder or .safetensors file), else a folder or hub id of a CLIP or SigLIP model of
    transformers. Raises UserError when there is neither, or when a tower is not the one that the heads were
    trained on.
    """
    if _is_transformers(load):
        from xvoken.clip_encoder import load_clip

        return load_clip(load, text, image)
    snapshot = snapshots.read(load)
    model = {**snapshots.MODEL_DEFAULTS, **snapshot.config["model"]}
    lang, visn_weights = snapshots.tower_sources(snapshot)
    text_spec = TextTowerSpec(lang, tuple(model["lang_layers"]), model["text_pool"])
    image_spec = ImageTowerSpec(model["visn"], visn_weights, model["visn_pool"])
    heads = nn.ModuleDict(build_heads(model)).eval().requires_grad_(False)
    heads.load_state_dict(snapshot.tensors)
    encoder = Encoder(
        name=snapshot.folder.name, hash=snapshot.hash, dim=model["dim"], max_len=model["max_len"],
        tokenizer=load_tokenizer(str(snapshots.tokenizer_folder(snapshot.folder))),
        text_spec=text_spec, image_spec=image_spec, text_head=heads["text_head"], image_head=heads["image_head"],
        tokenizer_name=model["lang"], home=snapshot.folder, level=model["level"],
    )  # fmt: skip
    if text:
        encoder.text_tower = text_spec.build()
        _same_tower(encoder.text_tower, model["lang_hash"], "text tower", text_spec.name, load)
    if image:
        encoder.image_tower = image_spec.build()
        _same_tower(encoder.image_tower, model["visn_hash"], "image tower", image_spec.name, load)
    return encoder


def _is_transformers(load: str) -> bool:
    path = Path(load)
    if path.is_dir():
        return (path / "config.json").is_file() and not snapshots.tensors_file(path, "BEST").exists()
    # owner/name: a hub id, unless it starts with a folder that is here.
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", load)) and not path.exists() and not path.parent.exists()


def build_heads(model: dict[str, Any]) -> dict[str, nn.Module]:
    """The two heads that a config describes, with random weights."""
    size = {"hidden": model["hidden"], "dim": model["dim"], "dropout": model["dropout"]}
    name = model.get("head", "mlp")
    head = HEADS[name]
    if name == "mlp":
        size["hidden_layers"] = model.get("hidden_layers", 2)
    return {"text_head": head(model["text_width"], **size), "image_head": head(model["image_width"], **size)}


def _same_tower(tower: nn.Module, expected: str, what: str, name: str, load: str | Path) -> None:
    found = weights_hash(tower)
    if found != expected:
        raise UserError(
            f"{load}: its {what} {name} has other weights here ({found}) than in training ({expected}); "
            "bring those weights back, or train again"
        )
