"""A loss with what belongs to it: margin, warm-up, and the temperature that is learned with the heads."""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xmatching.kinds import LOSSES
from xvoken.kinds import made_by

MAX_SCALE = 100.0  # as in CLIP: beyond it training becomes unstable


class Objective(nn.Module):
    """The loss of a whole batch, by its name in LOSSES; each knob that a loss may have there is an attribute here.

    margin: of the hinges; temperature: where the learned temperature of infonce and sigmoid starts;
    warmup_epochs: hardest_hinge takes all negatives that long, since the hardest ones alone may not start to learn.
    """

    def __init__(self, loss: str, margin: float, temperature: float, warmup_epochs: int):
        super().__init__()
        self.entry, self.margin, self.warmup_epochs = LOSSES[loss], margin, warmup_epochs
        self.epoch = 1
        if "scale" in self.entry.knobs:
            self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        if "bias" in self.entry.knobs:
            self.bias = nn.Parameter(torch.tensor(-10.0))

    @property
    def hardest(self) -> bool:
        return self.epoch > self.warmup_epochs

    @property
    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, text: Tensor, image: Tensor, owner: Tensor, mask: Tensor | None = None) -> Tensor:
        """Arguments as for the functions in xmatching/loss.py, mask on token level only -> scalar"""
        knobs = {name: getattr(self, name) for name in self.entry.knobs}
        if mask is not None:
            return made_by(self.entry.by_token)(text, mask, image, owner, **knobs)
        return made_by(self.entry.function)(text, image, owner, **knobs)

    def average_gradients(self, world: int) -> None:
        """Bring the gradients to those of one process: each process has them of the whole batch, times `world`."""
        for parameter in self.parameters():
            if world > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)  # the same on all; the mean also keeps unlike machines in step
                parameter.grad /= world * world
