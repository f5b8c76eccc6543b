"""A trained matcher as an encoder: towers loaded by name, or from the snapshot if trained, and the snapshot's heads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xvoken.calibration import Calibration
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.encoder import Encoder
from xvoken.encoders.frozen import Placed
from xvoken.encoders.heads import JoinedHead
from xvoken.encoders.parts import Part
from xvoken.encoders.snapshot import ModelConfig, Snapshot
from xvoken.errors import UserError, one_line
from xvoken.kinds import HEADS, IMAGE_TOWERS, TEXT_TOWERS, base_name, made_by
from xvoken.towers.dual import Dual, dual_of
from xvoken.towers.hashes import weights_hash
from xvoken.towers.interface import AnyImageTower, AnyTextTower
from xvoken.towers.sources import SCALED, image_kind, one_dual, text_kind
from xvoken.towers.tokenizer import load_tokenizer


@dataclass(frozen=True)
class TextTowerSpec:
    """What another process builds a text tower from: a name as --lang takes it, the layers used, how tokens are pooled, and a prompt."""

    name: str
    layers: tuple[int, ...]
    pool: str = "cls"
    prompt: str = ""

    @classmethod
    def of(cls, model: ModelConfig, lang: str) -> "TextTowerSpec":
        """The tower that a snapshot's config describes; lang: its name, or the folder of one that was trained."""
        return cls(lang, tuple(model.lang_layers), model.text_pool, model.lang_prompt)

    def build(self) -> AnyTextTower:
        """Load the tower on the CPU, in fp32, without gradients; raises UserError if it can't be loaded."""
        made = made_by(TEXT_TOWERS[text_kind(self.name)])
        return made(self.name, self.layers, self.pool, self.prompt).eval().requires_grad_(False)


@dataclass(frozen=True)
class ImageTowerSpec:
    """What another process builds an image tower from: a name as --visn takes it, a weights file (None: published), the pooling."""

    visn: str
    weights: str | None = None
    pool: str = "avg"

    @property
    def name(self) -> str:
        """The tower's name, fit for a file's name."""
        return base_name(self.visn)

    def build(self) -> AnyImageTower:
        """Load the tower on the CPU, in fp32, without gradients; raises UserError if it can't be loaded."""
        return made_by(IMAGE_TOWERS[image_kind(self.visn)])(self.visn, self.weights, self.pool).eval().requires_grad_(False)


def build_towers(text: TextTowerSpec, image: ImageTowerSpec, wanted: Sequence[str] = ("text", "image")) -> tuple[Any, Any, Dual | None]:
    """The towers that are wanted, and the dual encoder that both are of, loaded once for both; None for what there is not."""
    taken_whole = not (text.prompt or image.weights)  # else the tower itself refuses it
    if {"text", "image"} <= set(wanted) and taken_whole and one_dual(text.name, image.visn):
        dual = dual_of(text.name)
        return dual.text, dual.image, dual
    return text.build() if "text" in wanted else None, image.build() if "image" in wanted else None, None


def load_matcher(load: str, towers: Sequence[str], placed: Placed) -> Encoder:
    """Load a snapshot (folder or .safetensors file) with the towers asked for.

    Raises UserError if there is no snapshot, or if a tower's weights are not those that the heads were trained on.
    """
    snapshot = snapshots.read(load)
    model = snapshot.model
    lang, visn_weights = snapshots.tower_sources(snapshot)
    text_spec = TextTowerSpec.of(model, lang)
    image_spec = ImageTowerSpec(model.visn, visn_weights, model.visn_pool)
    _require_tensors(snapshot, load)
    heads = nn.ModuleDict(build_heads(model)).eval().requires_grad_(False)
    heads.load_state_dict(snapshot.tensors)
    encoder = Encoder(
        name=snapshot.folder.name, hash=snapshot.hash, dim=model.dim, max_len=model.max_len,
        tokenizer=load_tokenizer(str(snapshots.tokenizer_folder(snapshot.folder))),
        text_spec=text_spec, image_spec=image_spec, image_width=model.image_width,
        text_head=heads["text_head"], image_head=heads["image_head"],
        tokenizer_name=model.lang, home=snapshot.folder, level=model.level, key_views=model.key_views, hubness=model.hubness,
        bank=snapshot.bank, calibration=_calibration(model, load),
        files=(snapshots.tensors_file(snapshot.folder, snapshot.tag), snapshots.tokenizer_folder(snapshot.folder)),
    )  # fmt: skip
    text, image, _ = build_towers(text_spec, image_spec, towers)
    if text:
        _same_tower(text, model.lang_hash, "text tower", text_spec.name, load)
        encoder.text = placed.text(text, encoder.tokenizer)
    if image:
        _same_tower(image, model.visn_hash, "image tower", image_spec.visn, load)
        encoder.image = placed.image(image)
    return encoder


def _calibration(model: ModelConfig, load: str | Path) -> list[float] | None:
    if not model.calibration:
        return None
    try:
        return Calibration.from_list(model.calibration).to_list()
    except UserError as error:
        raise UserError(f"{load}: {error}") from None


def _require_tensors(snapshot: Snapshot, load: str | Path) -> None:
    """Raise UserError for tensors of other names, sizes or types than the config's heads have, before any memory is taken for those."""
    try:
        with torch.device("meta"):
            heads = nn.ModuleDict(build_heads(snapshot.model)).state_dict()
    except (RuntimeError, TypeError) as error:  # sizes that no tensor can have
        raise UserError(f"{load}: no heads can be made as its config says ({one_line(error)[:120]})") from None
    described, found = ({name: (one.shape, one.dtype) for name, one in tensors.items()} for tensors in (heads, snapshot.tensors))
    if wrong := sorted(name for name in described.keys() | found.keys() if described.get(name) != found.get(name)):
        raise UserError(f"{load}: its tensors are not those of the heads that its config describes ({wrong[0]}); train again")


def build_heads(model: ModelConfig) -> dict[str, nn.Module]:
    """The two heads that a config describes, with random weights."""
    made = [_build_part(model, part) for part in model.joined]
    if not model.parts:
        return {"text_head": made[0][0], "image_head": made[0][1]}
    weights = [part.weight for part in model.joined]
    text, image = zip(*made, strict=True)
    return {
        "text_head": JoinedHead(text, [part.text for part in model.joined], weights),
        "image_head": JoinedHead(image, [part.image for part in model.joined], weights),
    }


def _build_part(model: ModelConfig, part: Part) -> tuple[nn.Module, nn.Module]:
    kind = HEADS[part.head]
    size = {**{name: getattr(model, name) for name in ("hidden", "dropout", *kind.knobs)}, "dim": part.dim}
    text, image = made_by(kind.text), made_by(kind.image or kind.text)
    return text(part.text[1] - part.text[0], **size), image(part.image[1] - part.image[0], **size)


def _same_tower(tower: Any, expected: str, what: str, name: str, load: str | Path) -> None:
    found = weights_hash(tower)
    if found != expected:
        older = ", or it was trained by a version that gave it pixels which its weights do not expect" if name in SCALED else ""
        raise UserError(
            f"{load}: its {what} {name} has other weights here ({found}) than in training ({expected}), "
            f"or other settings of its own{older}; bring its files back, or train again"
        )
