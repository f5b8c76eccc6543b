"""A matcher without training and without captions, in seconds: --recipe zeroshot.

A picture is the mean of the names of its likeliest classes, by the classifier that its tower was trained with; a sentence is what the
sentence encoder makes of it (ConSE; Norouzi et al., ICLR 2014). See ClassNamesHead of xvoken/encoders/heads.py.
"""

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from xmatching.finished import remember_towers, tower_start, zeroshot_product
from xmatching.pairs import Towers
from xmatching.report import write_zeroshot_card
from xmatching.settings import model_of
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.dual import own_heads
from xvoken.encoders.frozen import FrozenText, all_batches, require_finite
from xvoken.encoders.heads import ClassNamesHead, UnitHead
from xvoken.encoders.matcher import build_heads
from xvoken.encoders.parts import Part
from xvoken.machine import TEXT_BATCH
from xvoken.towers.image import classifier


def make(args: Namespace, command: list[str]) -> None:
    """Write the snapshot, unless it is there; raises UserError for a classifier whose classes have no names."""
    output, loading = Path(args.output), tower_start(args)
    towers = Towers.from_args(args)
    text, image = towers.text_facts(), towers.image_facts()
    remember_towers(args, text, image, loading)
    with zeroshot_product(args, text, image).alone(wait=True) as todo:
        if not todo:
            return
        names = class_names_head(args, towers, [0, text.text_width])
        model = replace(model_of(args, text, image), dim=text.text_width, classes=len(names.names))
        heads = nn.ModuleDict({**build_heads(model), "image_head": names})
        config = {"model": asdict(model), "training": {"recipe": "zeroshot"}, "epoch": 0}
        snapshots.write_tokenizer(output, towers.tokenizer)
        write_zeroshot_card(output / "README.md", output.name, model)
        snapshots.write(output, "BEST", config, heads.state_dict(), command)
    print(f"wrote a matcher without training to {output} (BEST.safetensors): {model.classes:,} class names, {model.dim} dimensions")


def given_heads(args: Namespace, towers: Towers, part: Part) -> tuple[nn.Module, Any]:
    """The text and the image head of a part that the towers themselves give."""
    if part.head == "own":
        assert towers.dual is not None, "xmatching/duals.py asks for one"
        return own_heads(towers.dual)
    return UnitHead(part.dim), class_names_head(args, towers, part.text)


def class_names_head(args: Namespace, towers: Towers, columns: list[int]) -> ClassNamesHead:
    """The image head of the flags' towers; columns: [start, stop] of the text tower's outputs, the joint space.

    Raises UserError for a classifier whose classes have no names.
    """
    weight, bias, categories = classifier(args.visn, args.visn_weights)
    names = class_vectors(FrozenText(towers.text, towers.tokenizer, "cpu", "fp32"), categories, slice(*columns))
    head = ClassNamesHead(weight.shape[1], names.shape[1], len(categories))
    head.load_state_dict({**head.state_dict(), "classifier.weight": weight, "classifier.bias": bias, "names": names})
    return head


def class_vectors(text: FrozenText, categories: list[str], columns: slice) -> torch.Tensor:
    """These columns of the text tower's vectors of the classes' names: float32 (K, n), each of length 1"""
    tokens, offsets = text.tokenize(categories)
    vectors = torch.empty(len(categories), len(range(text.width)[columns]))
    for rows, features in text.features(tokens, offsets, all_batches(np.diff(offsets), TEXT_BATCH)):
        vectors[rows] = F.normalize(features[:, columns].float(), dim=-1)
    require_finite(vectors.numpy(), lambda row: f"class {categories[row]}", "fp32", unit=True)
    return vectors
