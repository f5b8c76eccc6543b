"""CLIP and SigLIP models of transformers behind the interface of xvoken.encoders.encoder.

Features are the towers' pooled outputs, heads the projections behind them, L2-normalized. Widths, text length,
special ids and preprocessing come from the model's own files (Radford et al., ICML 2021; Zhai et al., ICCV 2023).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from xvoken.encoders.encoder import Encoder
from xvoken.encoders.frozen import Placed
from xvoken.encoders.sources import text_files
from xvoken.encoders.text import weights_hash
from xvoken.encoders.tokenizer import from_pretrained, require_vocabulary
from xvoken.errors import UserError
from xvoken.kinds import ENCODERS
from xvoken.pictures.view import ProcessorView

PROJECTED = ("clip", "metaclip_2")  # families with a linear layer behind each tower; SigLIP's towers end in the joint space
FAMILIES = tuple(name for name in ENCODERS if name != "matcher")


class ClipImageTower(nn.Module):
    """The vision model; width: size of its pooled output; view: its preprocessing."""

    def __init__(self, name: str, model: Any, processor: Any):
        super().__init__()
        self.name, self.model = name, model
        self.width = model.config.hidden_size
        self.view = ProcessorView.from_processor(processor, name)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (B, 3, H, W) -> (B, width), pooled, before the projection"""
        return self.model(pixel_values=self.view.normalize(pixels)).pooler_output


class ClipTextTower(nn.Module):
    """The text model; width: size of its pooled output; max_tokens: the longest input, special tokens counted in.

    fixed_length: whether every input is padded to max_tokens, as in SigLIP's training.
    """

    def __init__(self, name: str, model: Any, width: int):
        super().__init__()
        self.name, self.model, self.width = name, model, width
        self.max_tokens, self.fixed_length = model.config.max_position_embeddings, model.config.model_type.startswith("siglip")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 (B, T) -> (B, width), pooled, before the projection"""
        # No mask: a causal tower pools at the first end token, before any padding; SigLIP looks at its padding by design.
        return self.model(input_ids=ids).pooler_output


class ProjectionHead(nn.Module):
    """The model's projection (none for SigLIP), L2-normalized."""

    def __init__(self, projection: nn.Module | None):
        super().__init__()
        self.projection = projection or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., dim), each of length 1"""
        return F.normalize(self.projection(x), dim=-1)


@dataclass(frozen=True)
class ClipTextSpec:
    """What another process builds the text tower from; name: hub id or folder."""

    name: str
    layers: ClassVar[tuple[int, ...]] = ()  # no choice: a CLIP-like tower has one pooled output
    pool: ClassVar[str] = "cls"

    def build(self) -> ClipTextTower:
        """Load the tower on the CPU, in fp32, without gradients; raises UserError if it can't be loaded."""
        return _towers(self.name, _load_model(self.name))[0]


@dataclass(frozen=True)
class ClipImageSpec:
    """What another process builds the image tower from; load: hub id or folder; name: its last part, fit for a file's name."""

    name: str
    load: str
    pool: ClassVar[str] = "avg"

    def build(self) -> ClipImageTower:
        """Load the tower on the CPU, in fp32, without gradients; raises UserError if it can't be loaded."""
        return _towers(self.load, _load_model(self.load))[1]


def load_clip(name: str, towers: Sequence[str], placed: Placed) -> Encoder:
    """Load a CLIP or SigLIP model by hub id or folder, from safetensors only; raises UserError."""
    from transformers import AutoTokenizer

    model = _load_model(name)
    tokenizer = from_pretrained(AutoTokenizer, name, f"tokenizer {name}", _mend(name))
    require_vocabulary(tokenizer, name)
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()
    found = weights_hash(model)  # before the towers are changed for a precision
    text_tower, image_tower = _towers(name, model)
    base = Path(name).resolve().name if Path(name).is_dir() else Path(name).name
    projected = model.config.model_type in PROJECTED
    return Encoder(
        name=base, hash=found, dim=model.config.projection_dim if projected else text_tower.width,
        max_len=text_tower.max_tokens, tokenizer=tokenizer,
        text_spec=ClipTextSpec(name), image_spec=ClipImageSpec(base, name), image_width=image_tower.width, files=tuple(text_files(name)),
        text_head=ProjectionHead(model.text_projection if projected else None),
        image_head=ProjectionHead(model.visual_projection if projected else None),
        text=placed.text(text_tower, tokenizer) if "text" in towers else None,
        image=placed.image(image_tower) if "image" in towers else None,
        tokenizer_name=name, home=Path("snap/xmatching") / base, revision=getattr(model.config, "_commit_hash", None) or "",
    )  # fmt: skip


def _towers(name: str, model: Any) -> tuple[ClipTextTower, ClipImageTower]:
    from transformers import AutoImageProcessor

    text = model.config.text_config
    text_width = text.hidden_size if model.config.model_type in PROJECTED else text.projection_size
    processor = from_pretrained(AutoImageProcessor, name, f"image processor {name}", _mend(name), backend="torchvision")
    return ClipTextTower(name, model.text_model, text_width), ClipImageTower(name, model.vision_model, processor)


def _load_model(name: str) -> Any:  # Any: the attributes of config and model differ by family
    from transformers import AutoConfig, AutoModel

    config = from_pretrained(AutoConfig, name, f"model {name}", _mend(name))
    if config.model_type not in FAMILIES:
        raise UserError(f"model {name}: its type is {config.model_type}; the dual encoders that can be loaded: {', '.join(FAMILIES)}")
    model = from_pretrained(AutoModel, name, f"model {name}", _mend(name), use_safetensors=True, config=config)
    return model.float().eval().requires_grad_(False)


def _mend(name: str) -> str:
    """What the user can do where a part of the model can't be loaded."""
    folder = Path(name)
    if not folder.is_dir():
        return (
            f"on a machine that reaches the hub, fetch it: hf download {name} --local-dir models/{folder.name}; "
            f"then give that folder: models/{folder.name}"
        )
    if (folder / "pytorch_model.bin").exists() and not (folder / "model.safetensors").exists():
        convert = f"from transformers import AutoModel; AutoModel.from_pretrained('{name}').save_pretrained('{name}')"
        return f'only safetensors are read; convert its pytorch_model.bin once: python -c "{convert}"'
    return (
        "its folder needs config.json, model.safetensors, preprocessor_config.json and the tokenizer's files; "
        f"fetch it again: hf download ID --local-dir {name}"
    )
