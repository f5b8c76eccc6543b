"""Averages of a convolutional tower's earlier maps, beside its last one: --visn-pool maps.

The last map knows the 1,000 classes of ImageNet; what the earlier ones hold (texture, colour, line style) helps where
pictures differ from those classes. Multi-layer features of frozen networks: Hariharan et al., CVPR 2015 (hypercolumns).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

from torch import Tensor, nn

from xvoken.messages import UserError

LEAST_CHANNELS = 48  # of EfficientNet-Lite: maps of an eighth of the picture's size and smaller, as layer2 of a ResNet


def stages(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules whose outputs are averaged, in order: where the channels change next, from an eighth of the size on.

    EfficientNet-Lite: the last block of each stage; ResNet and ResNeXt: layer2, layer3 (layer4 is the last map).
    """
    if hasattr(model, "_blocks"):
        blocks = list(model._blocks)
        channels = [block._project_conv.out_channels for block in blocks]
        return [block for block, (here, after) in zip(blocks, pairwise([*channels, 0]), strict=True) if LEAST_CHANNELS <= here != after]
    if hasattr(model, "layer2") and hasattr(model, "layer3"):
        return [model.layer2, model.layer3]
    raise UserError(f"--visn-pool maps: known for ResNet, ResNeXt and efficientnet_lite2, not for {name}; use --visn-pool grid or avg")


def channels_of(stage: nn.Module) -> int:
    """Channels of a stage's output: those of its last normalization, which is never that of a shortcut of another width."""
    return [module for module in stage.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features


@contextmanager
def averaged(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """Collects, while it is open, the average of each module's output map: float32 (B, channels), in order of running."""
    found: list[Tensor] = []
    hooks = [m.register_forward_hook(lambda module, inputs, out: found.append(out.float().mean((2, 3)))) for m in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
