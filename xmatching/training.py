"""One epoch of training, as the stage, the search for a recipe and the benchmarks use it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from xmatching.data import PairBatches
from xmatching.kinds import OPTIMIZERS
from xmatching.loss import Objective
from xmatching.model import Matcher, gather_batch, pad_tokens
from xmatching.settings import Training
from xvoken.kinds import made_by
from xvoken.machine import cores
from xvoken.towers.precision import autocast


def make_optimizer(matcher: Matcher, objective: Objective, training: Training) -> torch.optim.Optimizer:
    """An optimizer of the heads, the trained towers and the objective's parameters (never decayed), each with its learning rate."""
    towers = nn.ModuleList(tower for tower in (matcher.text_tower, matcher.image_tower) if tower)
    groups = [*_decayed(matcher.heads, training, training.lr), *_decayed(towers, training, training.tower_lr)]
    groups.append({"params": list(objective.parameters()), "lr": training.lr, "weight_decay": 0.0})
    for group in groups:
        group["peak"] = group["lr"]
        group |= {"momentum": training.momentum} if training.optim == "sgd" else {}
    return made_by(OPTIMIZERS[training.optim])([group for group in groups if group["params"]])


def _decayed(module: nn.Module, training: Training, lr: float) -> list[dict[str, Any]]:
    """Parameters with their rate and decay; of --optim bert, biases and the weights of layer normalizations apart, which do not decay."""
    named = list(module.named_parameters())
    spared = [p for name, p in named if training.optim == "bert" and name.endswith(("bias", "LayerNorm.weight"))]
    rest = [p for _, p in named if not any(p is other for other in spared)]
    return [{"params": rest, "lr": lr, "weight_decay": training.weight_decay}, {"params": spared, "lr": lr, "weight_decay": 0.0}]


@dataclass
class Learner:
    """All that one process trains with.

    model: the matcher, or DistributedDataParallel around it; whole: what is measured and saved, the matcher, or one that shares its heads.
    """

    model: nn.Module
    matcher: Matcher
    whole: Matcher
    objective: Objective
    optimizer: torch.optim.Optimizer
    training: Training
    device: str

    @classmethod
    def to_train(
        cls, matcher: Matcher, training: Training, device: str, whole: Matcher | None = None, alone: bool = False
    ) -> "Learner":  # fmt: skip
        """alone: whether this process trains by itself, though there may be others."""
        whole = (whole or matcher).to(device)
        matcher = matcher.to(device)
        objective = Objective(training.loss, training.margin, training.temperature, training.hinge_warmup).to(device)
        optimizer = make_optimizer(matcher, objective, training)
        finetune = training.lang_finetune or training.visn_finetune
        many = not alone and dist.is_initialized() and dist.get_world_size() > 1
        model = nn.parallel.DistributedDataParallel(matcher, find_unused_parameters=finetune) if many else matcher
        return cls(model, matcher, whole, objective, optimizer, training, device)

    def epoch(self, number: int, data: PairBatches, rank: int = 0, world: int = 1) -> tuple[float, int]:
        """Train epoch `number` (from 1); returns the mean loss and the number of pairs, over all processes.

        Order, views, dropout and learning rate follow from seed and epoch.
        """
        torch.manual_seed(hash((self.training.seed, number, rank)) & 0xFFFFFFFF)
        data.plan(number, self.training.batch_size, self.training.seed, rank, world)
        self.model.train()
        self.objective.epoch = number
        steps = len(data)
        total, pairs = torch.zeros((), device=self.device), 0
        for step, batch in enumerate(self._batches(data, world)):
            factor = self.training.learning_rate((number - 1) * steps + step, self.training.epochs * steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["peak"] * factor
            loss, size = self.step(*batch, world)
            total += loss * size
            pairs += size
        return total.item() / max(1, pairs), pairs

    def _batches(self, data: PairBatches, world: int) -> Iterator[tuple]:
        decoders = cores() // world if self.training.visn_finetune else 0
        return iter(DataLoader(data, batch_size=None, num_workers=decoders))

    def step(self, text: torch.Tensor, image: torch.Tensor, owner: torch.Tensor, world: int) -> tuple[torch.Tensor, int]:
        """One step on this process's share of a batch -> loss and size of the whole batch"""
        mask = None
        if self.matcher.by_token:
            mask = gather_batch(pad_tokens(text["mask"].to(self.device), world), world)
        with autocast(self.device, self.training.train_precision):
            text, image = self.model(text.to(self.device), image.to(self.device))
        owner = gather_batch(owner.to(self.device), world)
        text = gather_batch(pad_tokens(text.float(), world) if self.matcher.by_token else text.float(), world)
        loss = self.objective(text, gather_batch(image.float(), world), owner, mask)
        self.optimizer.zero_grad()
        (loss * world).backward()  # times world: DDP averages over processes, but gather_batch needs the sum
        self.objective.average_gradients(world)
        nn.utils.clip_grad_norm_(self.matcher.parameters(), self.training.clip)
        self.optimizer.step()
        return loss.detach(), len(owner)
