"""Training objectives: pure functions of the embeddings of one whole batch.

All take text, image: (B, d), vectors of length 1, row i of both is pair i; owner: int64 (B,), the number of each pair's picture;
and return a scalar. Two pairs with the same picture are never each other's negatives.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from xmatching.kinds import LOSSES
from xvoken.kinds import made_by


def paired_hinge(text: Tensor, image: Tensor, owner: Tensor, margin: float = 0.5) -> Tensor:
    """Pairwise hinge on sentence level (Tan & Bansal, EMNLP 2020, eq. 3; Liang et al., ACL 2021).

    Pair i of the first half and pair j of the second half are each other's negatives:
    mean over i, j of  max(0, m - s_i . v_i + s_i . v_j)  and  max(0, m - s_j . v_j + s_j . v_i).
    In a batch of odd size the last pair is left out.
    """
    half = len(text) // 2
    first, second = slice(0, half), slice(half, 2 * half)
    true_first = (text[first] * image[first]).sum(-1)  # (half,)
    true_second = (text[second] * image[second]).sum(-1)
    false_first = (text[first] * image[second]).sum(-1)
    false_second = (text[second] * image[first]).sum(-1)
    hinge = torch.relu(margin - true_first + false_first) + torch.relu(margin - true_second + false_second)
    different = (owner[first] != owner[second]).to(hinge.dtype)
    return (hinge * different).sum() / (2 * different.sum()).clamp(min=1)


def summed_hinge(text: Tensor, image: Tensor, owner: Tensor, margin: float = 0.5) -> Tensor:
    """The pairwise hinge as Maria's code has it (sent_paired_hinge_rank_loss): the sum over the batch, not the mean.

    Its gradients are so large that clipping at norm 5 brings each to the same length; see docs/training.md.
    """
    half = len(text) // 2
    pairs = 2 * (owner[:half] != owner[half : 2 * half]).sum().clamp(min=1)
    return paired_hinge(text, image, owner, margin) * pairs


def token_hinge(text: Tensor, mask: Tensor, image: Tensor, owner: Tensor, margin: float = 0.5) -> Tensor:
    """The pairwise hinge for every token by itself, averaged over the tokens (Tan & Bansal, EMNLP 2020, eq. 3).

    text: (B, T, d), mask: int64 (B, T), 1 for tokens and 0 for padding; image, owner, margin as for paired_hinge.
    """
    half = len(text) // 2
    other = torch.cat([image[half : 2 * half], image[:half]])  # the negative of each row of both halves
    text, mask = text[: 2 * half], mask[: 2 * half].to(text.dtype)
    different = (owner[:half] != owner[half : 2 * half]).to(text.dtype).repeat(2)
    true = (text * image[: 2 * half, None]).sum(-1)  # (2 half, T)
    false = (text * other[:, None]).sum(-1)
    counted = mask * different[:, None]
    return (torch.relu(margin - true + false) * counted).sum() / counted.sum().clamp(min=1)


def hardest_hinge(text: Tensor, image: Tensor, owner: Tensor, margin: float = 0.2, hardest: bool = True) -> Tensor:
    """Hinge against the hardest negative of the batch, both directions (VSE++; Faghri et al., BMVC 2018, eq. 6).

    mean over i of  max_j max(0, m - s_i . v_i + s_i . v_j)  and  max_j max(0, m - s_i . v_i + s_j . v_i).
    hardest=False, for the warm-up: the mean over all negatives instead of the hardest (eq. 5).
    """
    scores = text @ image.T  # (B, B)
    true = scores.diagonal()
    negative = owner[:, None] != owner[None, :]  # (B, B)
    for_text = torch.relu(margin - true[:, None] + scores) * negative
    for_image = torch.relu(margin - true[None, :] + scores) * negative
    if hardest:
        return (for_text.amax(1) + for_image.amax(0)).mean() / 2 if len(text) else scores.sum()
    return (for_text.sum() + for_image.sum()) / (2 * negative.sum()).clamp(min=1)


def infonce(text: Tensor, image: Tensor, owner: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of finding the true row among the batch, both directions (InfoNCE as in CLIP; Radford et al., 2021).

    scale: scalar, the inverse of the temperature.
    """
    logits = (scale * text @ image.T).masked_fill(_same_picture(owner), -torch.inf)  # (B, B)
    target = torch.arange(len(text), device=text.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2 if len(text) else logits.sum()


def sigmoid(text: Tensor, image: Tensor, owner: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Binary classification of every text-image combination in the batch (SigLIP; Zhai et al., ICCV 2023, eq. 2).

    - 1/B sum over i, j of  log sigmoid(z_ij (scale s_i . v_j + bias)),  z_ij = 1 where i = j, else -1.
    scale, bias: scalars; they start at 10 and -10 in the paper.
    """
    logits = scale * text @ image.T + bias  # (B, B)
    sign = 2 * torch.eye(len(text), device=text.device, dtype=text.dtype) - 1
    judged = F.logsigmoid(sign * logits).masked_fill(_same_picture(owner), 0)
    return -judged.sum() / max(1, len(text))


def _same_picture(owner: Tensor) -> Tensor:
    """Whether two different rows show the same picture: bool (B, B)"""
    same = owner[:, None] == owner[None, :]
    return same.fill_diagonal_(False)


MAX_SCALE = 100.0  # as in CLIP: beyond it training becomes unstable


class Objective(nn.Module):
    """The loss of a whole batch, by its name in LOSSES; its knobs (see xmatching.kinds.Loss) are attributes here.

    margin: of the hinges; temperature: initial value of the learned temperature of infonce and sigmoid;
    warmup_epochs: for so many epochs hardest_hinge uses all negatives, as training on the hardest ones alone may never start to learn.
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
        """Make this module's gradients those of a single process: each process has those of the whole batch, times `world`."""
        for parameter in self.parameters():
            if world > 1 and parameter.grad is not None:
                dist.all_reduce(parameter.grad)  # equal on all processes; the mean also keeps different machines in step
                parameter.grad /= world * world
