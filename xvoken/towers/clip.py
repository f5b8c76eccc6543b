"""CLIP and SigLIP models of transformers as dual encoders, see xvoken/towers/dual.py.

Features are the towers' pooled outputs. Widths, text length,
special ids and preprocessing come from the model's own files (Radford et al., ICML 2021; Zhai et al., ICCV 2023).
"""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xvoken.errors import UserError
from xvoken.kinds import DUALS
from xvoken.pictures.processed import processor_view
from xvoken.towers.dual import Dual
from xvoken.towers.hashes import weights_hash
from xvoken.towers.siglip2 import Siglip2ImageTower, require_right_padding
from xvoken.towers.sources import require_bounded
from xvoken.towers.tokenizer import from_pretrained, keep_whole, require_vocabulary

PROJECTED = ("clip", "metaclip_2")  # families with a linear layer behind each tower; SigLIP's towers end in the joint space
FAMILIES = tuple(name for name, loader in DUALS.items() if loader == DUALS["clip"])


class ClipImageTower(nn.Module):
    """The vision model; width: size of its pooled output; view: its preprocessing."""

    def __init__(self, name: str, model: Any, processor: Any):
        super().__init__()
        self.name, self.model = name, model
        self.width = model.config.hidden_size
        self.view = processor_view(processor, name)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (B, 3, H, W) -> (B, width), pooled, before the projection"""
        return self.model(pixel_values=self.view.normalize(pixels)).pooler_output


class ClipTextTower(nn.Module):
    """The text model; width: size of its pooled output; max_tokens: the longest input, special tokens counted in.

    fixed_length: whether every input is padded to max_tokens, as in SigLIP's training.
    """

    prompt = ""

    def __init__(self, name: str, model: Any, width: int):
        super().__init__()
        self.name, self.model, self.width = name, model, width
        self.max_tokens, self.fixed_length = model.config.max_position_embeddings, model.config.model_type.startswith("siglip")

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 (B, T) -> (B, width), pooled, before the projection"""
        # No mask: a causal tower pools at the first end token, before any padding; SigLIP looks at its padding by design.
        return self.model(input_ids=ids).pooler_output


def load_clip(name: str) -> Dual:
    """Load a CLIP or SigLIP model by hub id or folder, from safetensors only; raises UserError."""
    from transformers import AutoImageProcessor, AutoTokenizer

    model = _load_model(name)
    tokenizer = from_pretrained(AutoTokenizer, name, f"tokenizer {name}", _mend(name))
    require_vocabulary(tokenizer, name)
    keep_whole(tokenizer)
    processor = from_pretrained(AutoImageProcessor, name, f"image processor {name}", _mend(name), backend="torchvision")
    projected, sizes = model.config.model_type in PROJECTED, model.config.text_config
    kind: Any = ClipImageTower
    if model.config.model_type == "siglip2":
        kind = Siglip2ImageTower
        require_right_padding(tokenizer, name)
    text = ClipTextTower(name, model.text_model, sizes.hidden_size if projected else sizes.projection_size)
    return Dual(
        text, kind(name, model.vision_model, processor),
        *((model.text_projection, model.visual_projection) if projected else (None, None)),
        dim=model.config.projection_dim if projected else text.width, tokenizer=tokenizer, hash=weights_hash(model),
        revision=getattr(model.config, "_commit_hash", None) or "",
    )  # fmt: skip


def _load_model(name: str) -> Any:  # Any: the attributes of config and model differ by family
    from transformers import AutoConfig, AutoModel

    require_bounded(name, f"model {name}")
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
