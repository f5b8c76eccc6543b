"""Validation: embed the whole gallery, then recall in both directions."""

from typing import Any

import numpy as np
import torch

from xmatching.data import PairBatches
from xmatching.model import Matcher
from xvoken.encoders.heads import mean_of_views
from xvoken.encoders.snapshot import Bank
from xvoken.recall import evaluate
from xvoken.search.hubness import taken_off

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
        image.append(mean_of_views(torch.stack(vectors, 1)))
        kept.append(start + views[0][1])
    row_of = torch.full((data.images.rows_count(),), -1)
    rows = torch.cat(kept)
    row_of[rows] = torch.arange(len(rows))
    owner = row_of[torch.from_numpy(data.image_rows)]
    usable = owner >= 0
    texts, images = torch.cat(text)[torch.from_numpy(data.text_rows)[usable]], torch.cat(image)
    less = None
    if bank and hubness:
        less = taken_off(texts.numpy(), images.numpy(), bank.text.float().numpy(), bank.image.float().numpy(), hubness)
    return evaluate(texts, images, owner[usable], less)
