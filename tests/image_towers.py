"""Small random image towers of timm and of transformers, saved as their libraries do it."""

from pathlib import Path
from typing import Any

import timm
import torch
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    ConvNextConfig,
    ConvNextImageProcessor,
    ConvNextModel,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTImageProcessor,
    DINOv3ViTModel,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from tests import builder

VIT = builder.sizes(32, 2, 2, image_size=32, patch_size=8)
CONV = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SQUARE, LARGE = {"height": 32, "width": 32}, {"height": 64, "width": 64}
# Model, image processor, and the number of tokens before those of the patches; None: a map.
VISION: dict[str, Any] = {
    "vit": (lambda: ViTModel(ViTConfig(**VIT)), lambda: ViTImageProcessor(size=SQUARE), 1),
    "dinov2": (
        lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**{**VIT, "image_size": 40}, mlp_ratio=2, num_register_tokens=3)),
        lambda: BitImageProcessor(size={"shortest_edge": 40}, crop_size=SQUARE), 4,
    ),
    "dinov3": (
        lambda: DINOv3ViTModel(DINOv3ViTConfig(**VIT, num_register_tokens=3)), lambda: DINOv3ViTImageProcessor(size=SQUARE), 4,
    ),
    "dinov3_convnext": (
        lambda: DINOv3ConvNextModel(DINOv3ConvNextConfig(**CONV)), lambda: DINOv3ViTImageProcessor(size=LARGE), 1,
    ),
    "siglip": (lambda: SiglipVisionModel(SiglipVisionConfig(**VIT)), lambda: SiglipImageProcessor(size=SQUARE), 0),
    "clip": (
        lambda: CLIPVisionModel(CLIPVisionConfig(**VIT)), lambda: CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SQUARE), 1,
    ),
    "convnext": (lambda: ConvNextModel(ConvNextConfig(**CONV)), lambda: ConvNextImageProcessor(size={"shortest_edge": 64}), None),
    "swin": (
        lambda: SwinModel(SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4)),
        lambda: ViTImageProcessor(size=LARGE), 0,
    ),
}  # fmt: skip
# Arguments of timm.create_model, and the same number.
SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2}
TIMM: dict[str, Any] = {
    "vit_tiny_patch16_224": ({**SMALL, "img_size": 32, "patch_size": 8}, 1),
    "vit_small_patch14_reg4_dinov2": ({**SMALL, "img_size": 28}, 5),
    "vit_base_patch16_siglip_224": ({**SMALL, "img_size": 32}, 0),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, None),
    "swin_tiny_patch4_window7_224": ({"img_size": 56, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2)}, None),
}


def save_vision(folder: Path, kind: str) -> Path:
    model, processor, _ = VISION[kind]
    torch.manual_seed(0)
    builder.spread(model()).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def save_timm(folder: Path, kind: str) -> tuple[Any, str]:
    """A model, and its name in our flags."""
    folder.mkdir()
    torch.manual_seed(0)
    options, _ = TIMM[kind]
    size = options.get("img_size")
    model = builder.spread(timm.create_model(kind, pretrained_cfg_overlay={"input_size": (3, size, size)} if size else None, **options))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model, f"timm:local-dir:{folder}"
