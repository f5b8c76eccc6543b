"""The trainable part of a matcher: two heads, and the towers that are fine-tuned."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xvoken.encoders.matcher import build_heads
from xvoken.encoders.snapshot import ModelConfig
from xvoken.towers.image import ImageTower
from xvoken.towers.text import TextTower, masked_mean


class Matcher(nn.Module):
    """Maps text and image to the joint space. A frozen tower is not part of the module: its output is the module's input."""

    def __init__(
        self, config: ModelConfig | dict[str, Any], text_tower: TextTower | None = None, image_tower: ImageTower | None = None,
        checkpointing: bool = False,
    ):  # fmt: skip
        """config: without towers, the arguments of ModelConfig.with_heads as a dict will do;
        checkpointing: trained towers compute their inner states twice instead of keeping them for the backward pass."""
        super().__init__()
        model = config if isinstance(config, ModelConfig) else ModelConfig.with_heads(**config)
        self.checkpointing = checkpointing
        self.by_token = model.level == "token"
        if text_tower and checkpointing:
            text_tower.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.heads = nn.ModuleDict(build_heads(model))
        self.text_tower, self.image_tower = text_tower, image_tower

    def embed_text(self, inputs: Any) -> Tensor:
        """tower outputs (B, width), or ids and mask for a tower that is trained -> (B, dim); on token level (B, T, dim)"""
        if self.text_tower:
            features = (self.text_tower.tokens if self.by_token else self.text_tower)(inputs["ids"], inputs["mask"])
        else:
            features = inputs["states"] if self.by_token else inputs
        return self.heads["text_head"](features)

    def embed_sentence(self, inputs: Any) -> Tensor:
        """As embed_text -> (B, dim); on token level the mean over the tokens, so that its score is the mean of the tokens' scores"""
        if not self.by_token:
            return self.embed_text(inputs)
        return masked_mean(self.embed_text(inputs), inputs["mask"])

    def embed_image(self, inputs: Tensor) -> Tensor:
        """tower outputs (B, width), or uint8 pixels (B, 3, H, W) for a tower that is trained -> (B, dim)"""
        if not self.image_tower:
            return self.heads["image_head"](inputs)
        if self.checkpointing and self.training:
            features = checkpoint(self.image_tower, inputs, use_reentrant=False)
        else:
            features = self.image_tower(inputs)
        return self.heads["image_head"](features)

    def forward(self, text: Any, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.embed_text(text), self.embed_image(image)

    def train(self, mode: bool = True) -> "Matcher":
        """As nn.Module.train, but batch normalization stays in eval mode with its pretrained statistics, as in Vokenization."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def pad_tokens(local: Tensor, world: int) -> Tensor:
    """Pad (b, t, ...) to the longest t of all `world` processes, so that `gather_batch` can join the rows."""
    if world == 1:
        return local
    longest = torch.tensor([local.shape[1]], device=local.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return torch.cat([local, local.new_zeros(len(local), int(longest) - local.shape[1], *local.shape[2:])], 1)


def gather_batch(local: Tensor, world: int) -> Tensor:
    """The rows of all `world` processes, one process after another: (b, ...) -> (B, ...); b may differ between them.

    Gradients flow into this process's own rows only. Every process computes the loss of the whole batch, so
    that the sum of their gradients is the gradient that one process with the whole batch gets.
    """
    if world == 1:
        return local
    rank = dist.get_rank()
    sizes = [torch.zeros(1, dtype=torch.int64, device=local.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(local)], device=local.device))
    padded = local.new_zeros(int(max(sizes)), *local.shape[1:])
    padded[: len(local)] = local.detach()
    rows = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(rows, padded)
    parts = [part[: int(size)] for part, size in zip(rows, sizes, strict=True)]
    parts[rank] = local
    return torch.cat(parts)
