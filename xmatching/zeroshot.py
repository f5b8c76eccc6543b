"""A matcher without training and without captions, in seconds: --recipe zeroshot.

A picture is the mean of the names of its likeliest classes, by the classifier that its tower was trained with; a sentence is what the
sentence encoder makes of it (ConSE; Norouzi et al., ICLR 2014). See ClassNamesHead of xvoken/encoders/heads.py.
"""

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from xmatching.finished import remember_towers, tower_start, zeroshot_product
from xmatching.pairs import Towers
from xmatching.report import write_zeroshot_card
from xmatching.settings import model_of
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.frozen import FrozenText, all_batches, require_finite
from xvoken.encoders.image import classifier
from xvoken.encoders.matcher import build_heads
from xvoken.machine import TEXT_BATCH


def make(args: Namespace, command: list[str]) -> None:
    """Write the snapshot, unless it is there; raises UserError for a classifier whose classes have no names."""
    output, loading = Path(args.output), tower_start(args)
    towers = Towers.from_args(args)
    text, image = towers.text_facts(), towers.image_facts()
    remember_towers(args, text, image, loading)
    with zeroshot_product(args, text, image).alone(wait=True) as todo:
        if not todo:
            return
        weight, bias, categories = classifier(args.visn, args.visn_weights)
        model = replace(model_of(args, text, image), dim=text.text_width, classes=len(categories))
        heads = nn.ModuleDict(build_heads(model))
        names = class_vectors(FrozenText(towers.text, towers.tokenizer, "cpu", "fp32"), categories)
        found = {"classifier.weight": weight, "classifier.bias": bias, "names": names}
        heads["image_head"].load_state_dict({**heads["image_head"].state_dict(), **found})
        config = {"model": asdict(model), "training": {"recipe": "zeroshot"}, "epoch": 0}
        snapshots.write_tokenizer(output, towers.tokenizer)
        write_zeroshot_card(output / "README.md", output.name, model)
        snapshots.write(output, "BEST", config, heads.state_dict(), command)
    print(f"wrote a matcher without training to {output} (BEST.safetensors): {len(categories):,} class names, {model.dim} dimensions")


def class_vectors(text: FrozenText, categories: list[str]) -> torch.Tensor:
    """The text tower's vectors of the classes' names: float32 (K, width), each of length 1"""
    tokens, offsets = text.tokenize(categories)
    vectors = torch.empty(len(categories), text.width)
    for rows, features in text.features(tokens, offsets, all_batches(np.diff(offsets), TEXT_BATCH)):
        vectors[rows] = F.normalize(features.float(), dim=-1)
    require_finite(vectors.numpy(), lambda row: f"class {categories[row]}", "fp32", unit=True)
    return vectors
