"""Validation: embed the whole gallery, then recall in both directions."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from xmatching.data import PairBatches
from xmatching.model import Matcher
from xvoken.recall import evaluate

BATCH = 1024


@torch.inference_mode()
def validate(model: Matcher, data: PairBatches, device: str) -> dict[str, Any]:
    """The record of xvoken.recall.evaluate for every caption against every usable picture of `data`, the mean over its views."""
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
    return evaluate(torch.cat(text)[torch.from_numpy(data.text_rows)[usable]], torch.cat(image), owner[usable])
