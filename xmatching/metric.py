"""Validation: embed the whole gallery, then recall in both directions."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xmatching.data import PairBatches
from xmatching.model import Matcher
from xvoken.encoders.snapshot import Bank
from xvoken.recall import Less, evaluate
from xvoken.search.hubness import offsets

BATCH = 1024


@torch.inference_mode()
def validate(model: Matcher, data: PairBatches, device: str, bank: Bank | None = None, hubness: float = 0.0) -> dict[str, Any]:
    """The record of xvoken.recall.evaluate for every caption against every usable picture of `data`, the mean over its views.

    hubness: how much of it in the bank is taken off the scores, as in evaluation.
    """
    model.eval()
    text, image, kept = [], [], []
    for start in range(0, data.text.rows_count(), BATCH):
        inputs, _ = data.text.load(np.arange(start, min(start + BATCH, data.text.rows_count())))
        text.append(model.embed_sentence(inputs.to(device)).float().cpu())
    for start in range(0, data.images.rows_count(), BATCH):
        rows = np.arange(start, min(start + BATCH, data.images.rows_count()))
        views = [inputs.load(rows) for inputs in (data.images, *data.others)]
        vectors = [model.embed_image(inputs.to(device)).float().cpu() for inputs, _ in views]
        image.append(vectors[0] if len(views) == 1 else F.normalize(torch.stack(vectors).mean(0), dim=-1))
        kept.append(start + views[0][1])
    row_of = torch.full((data.images.rows_count(),), -1)
    rows = torch.cat(kept)
    row_of[rows] = torch.arange(len(rows))
    owner = row_of[torch.from_numpy(data.image_rows)]
    usable = owner >= 0
    texts, images = torch.cat(text)[torch.from_numpy(data.text_rows)[usable]], torch.cat(image)
    return evaluate(texts, images, owner[usable], taken_off(texts, images, bank, hubness) if bank and hubness else None)


def taken_off(text: Tensor, image: Tensor, bank: Bank, hubness: float) -> Less:
    """What is taken off the scores of captions (C, dim) and of pictures (N, dim) for their hubness in the bank."""
    sides = ((text, bank.image), (image, bank.text))
    return Less(*(torch.from_numpy(offsets(one.numpy(), other.float().numpy(), hubness)) for one, other in sides))
