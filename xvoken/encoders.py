"""One interface for every dual encoder: text tower and head, image tower and head, one joint space."""

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
    """A matcher ready for use, on the CPU, in eval mode.

    name: what its files say made them; hash: 16 hex digits of the snapshot; dim: size of the joint space.
    text_tower (ids, mask) -> features -> text_head -> (B, dim); image_tower (pixels) -> features -> image_head.
    A tower is None if it was not asked for. level: "sentence", or "token" for heads that take text_tower.tokens.
    """

    name: str
    hash: str
    dim: int
    max_len: int
    tokenizer: Any
    text_spec: TextTowerSpec
    image_spec: ImageTowerSpec
    text_head: nn.Module
    image_head: nn.Module
    text_tower: TextTower | None = None
    image_tower: ImageTower | None = None
    level: str = "sentence"


def load_encoder(load: str, text: bool = False, image: bool = False) -> Encoder:
    """Load a matcher's snapshot (folder or .safetensors file) with the towers asked for.

    Raises UserError when there is no snapshot, or when a tower is not the one that the heads were trained on.
    """
    snapshot = snapshots.read(load)
    model = {**snapshots.MODEL_DEFAULTS, **snapshot.config["model"]}
    text_folder = snapshots.text_tower_folder(snapshot.folder, snapshot.tag)
    image_file = snapshots.image_tower_file(snapshot.folder, snapshot.tag)
    text_spec = TextTowerSpec(str(text_folder) if text_folder.exists() else model["lang"], tuple(model["lang_layers"]), model["text_pool"])
    image_spec = ImageTowerSpec(model["visn"], str(image_file) if image_file.exists() else model.get("visn_weights"), model["visn_pool"])
    heads = nn.ModuleDict(build_heads(model)).eval().requires_grad_(False)
    heads.load_state_dict(snapshot.tensors)
    encoder = Encoder(
        name=snapshot.folder.name, hash=snapshot.hash, dim=model["dim"], max_len=model["max_len"],
        tokenizer=load_tokenizer(str(snapshots.tokenizer_folder(snapshot.folder))),
        text_spec=text_spec, image_spec=image_spec, text_head=heads["text_head"], image_head=heads["image_head"],
        level=model["level"],
    )  # fmt: skip
    if text:
        encoder.text_tower = text_spec.build()
        _same_tower(encoder.text_tower, model["lang_hash"], "text tower", text_spec.name, load)
    if image:
        encoder.image_tower = image_spec.build()
        _same_tower(encoder.image_tower, model["visn_hash"], "image tower", image_spec.name, load)
    return encoder


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
