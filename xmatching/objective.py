"""A loss with what belongs to it: margin, warm-up, and the temperature that is learned with the heads."""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xmatching.loss import hardest_hinge, infonce, paired_hinge, sigmoid, token_hinge

LOSSES = ("paired_hinge", "hardest_hinge", "infonce", "sigmoid")
MAX_SCALE = 100.0  # as in CLIP: beyond it training becomes unstable


class Objective(nn.Module):
    """The loss of a whole batch, by name.

    margin: of the hinges; temperature: where the learned temperature of infonce and sigmoid starts;
    warmup_epochs: hardest_hinge takes all negatives that long, since the hardest ones alone may not start to learn.
    """

    def __init__(self, loss: str, margin: float, temperature: float, warmup_epochs: int):
        super().__init__()
        self.loss, self.margin, self.warmup_epochs = loss, margin, warmup_epochs
        self.epoch = 1
        if loss in ("infonce", "sigmoid"):
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        if loss == "sigmoid":
            self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, text: Tensor, image: Tensor, owner: Tensor, mask: Tensor | None = None) -> Tensor:
        """Arguments as for the functions in xmatching/loss.py, mask on token level only -> scalar"""
        if mask is not None:
            return token_hinge(text, mask, image, owner, self.margin)
        if self.loss == "paired_hinge":
            return paired_hinge(text, image, owner, self.margin)
        if self.loss == "hardest_hinge":
            return hardest_hinge(text, image, owner, self.margin, hardest=self.epoch > self.warmup_epochs)
        scale = self.log_scale.exp().clamp(max=MAX_SCALE)
        if self.loss == "infonce":
            return infonce(text, image, owner, scale)
        return sigmoid(text, image, owner, scale, self.bias)

    def average_gradients(self, world: int) -> None:
        """Bring the gradients to those of one process: each process has them of the whole batch, times `world`."""
        for parameter in self.parameters():
            if world > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)  # the same on all; the mean also keeps unlike machines in step
                parameter.grad /= world * world
