"""What names a tower: its weights, and the settings of its own that its output depends on besides."""

import hashlib
import json
from typing import Any

import torch
from torch import nn


def weights_hash(module: nn.Module) -> str:
    """16 hex digits that name a module's weights: of the SHA-256 over its tensors' names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def name_settings(module: nn.Module, said: Any) -> None:
    """Let weights_hash name what a module computes with besides its weights: with another activation, pooling or size it is another one.

    said: anything that JSON holds, kept as a tensor of bytes. Set on a tower, not on the model inside, it is in no file of its weights.
    """
    text = json.dumps(said, sort_keys=True).encode()
    module.register_buffer("xvoken_settings", torch.frombuffer(bytearray(text), dtype=torch.uint8))
