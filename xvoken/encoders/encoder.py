"""One interface for every dual encoder: text tower and head, image tower and head, one joint space."""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from xvoken.encoders.snapshot import tensors_file
from xvoken.kinds import ENCODERS, made_by


@dataclass
class Encoder:
    """A dual encoder ready for use, on the CPU, in eval mode: a matcher's snapshot, or a CLIP-like model.

    name: what its files say made them; hash: 16 hex digits of its weights; dim: size of the joint space.
    text_tower (ids, mask) -> features -> text_head -> (B, dim); image_tower (pixels) -> features -> image_head.
    A tower is None if it was not asked for. fixed_length: every sentence is padded to the tower's length.
    level: "sentence", or "token" for heads that take text_tower.tokens.
    tokenizer_name: what was given as the text tower's name, whose tokenizer it is: a trained tower's folder holds none.
    home: folder for what is made with it; revision: the hub's commit, where there is one.
    """

    name: str
    hash: str
    dim: int
    max_len: int
    tokenizer: Any
    text_spec: Any
    image_spec: Any
    text_head: nn.Module
    image_head: nn.Module
    text_tower: nn.Module | None = None
    image_tower: nn.Module | None = None
    fixed_length: bool = False
    tokenizer_name: str = ""
    home: Path = Path()
    revision: str = ""
    level: str = "sentence"


def load_encoder(load: str, text: bool = False, image: bool = False) -> Encoder:
    """Load what `load` names, with the towers asked for; what lies there decides.

    A matcher's snapshot (folder or .safetensors file), else a folder or hub id of a CLIP or SigLIP model of
    transformers. Raises UserError when there is neither, or when a tower is not the one that the heads were
    trained on.
    """
    return made_by(ENCODERS[kind_of(load)])(load, text, image)


def kind_of(load: str) -> str:
    """The entry of ENCODERS that loads it: what lies there decides. A model of an unknown type is left to CLIP's loader, which says so."""
    path = Path(load)
    if path.is_dir():
        here = (path / "config.json").is_file() and not tensors_file(path, "BEST").exists()
    else:  # owner/name: a hub id, unless it starts with a folder that is here.
        here = bool(re.fullmatch(r"[\w.-]+/[\w.-]+", load)) and not path.exists() and not path.parent.exists()
    if not here:
        return "matcher"
    from transformers import PretrainedConfig

    with suppress(Exception):  # missing or damaged: the loader has a line for that
        model_type = PretrainedConfig.get_config_dict(load)[0].get("model_type")
        return model_type if model_type in ENCODERS else "clip"
    return "clip"
