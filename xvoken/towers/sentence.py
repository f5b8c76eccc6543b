"""What sentence-transformers puts behind a text model: its pooling of the tokens, Dense and Normalize, read without that library."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xvoken.errors import UserError
from xvoken.towers.hashes import name_settings
from xvoken.towers.image import load_state_dict
from xvoken.towers.sentence_files import Module, file_of, sentence_model
from xvoken.towers.text import at
from xvoken.towers.tokenizer import load_tokenizer

# What may be applied behind a Dense module, by the last part of its name, which begins with torch.nn.
ACTIVATIONS = {one.__name__: one for one in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid, nn.SiLU, nn.LeakyReLU, nn.ELU)}


class OwnPooling(nn.Module):
    """A model's own modules behind its tokens' states, as its modules.json says.

    name: of the model; width: of its states; prompt: what stands before every sentence. self.width: size of the output.
    The settings that have no weights are kept as a tensor of bytes, so that a tower's hash names them too.
    Raises UserError for modules that are not known here, or whose weights do not fit them.
    """

    def __init__(self, name: str, width: int, prompt: str = ""):
        super().__init__()
        said = sentence_model(name)
        self.modes, self.skip = said.modes, prompt_tokens(name, prompt) if said.skip_prompt and prompt else 0
        self.max_tokens = said.max_tokens
        self.width = width * len(said.modes)
        self.after = nn.ModuleList()
        for module, settings in said.after:
            made = Unit() if module.kind == "Normalize" else _dense(name, module, settings, self.width)
            self.width = made.width or self.width
            self.after.append(made)
        after = [[module.kind, settings] for module, settings in said.after]
        name_settings(self, [self.modes, said.skip_prompt, after, said.max_tokens])

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Tokens' states (B, T, d), mask int64 (B, T), 1 for tokens and 0 for padding, which is behind them -> (B, width)"""
        taken = mask * (torch.arange(mask.shape[1], device=mask.device) >= self.skip) if self.skip else mask
        found = torch.cat([pooled(mode, states, taken) for mode in self.modes], -1)
        for module in self.after:
            found = module(found)
        return found


def pooled(mode: str, states: Tensor, mask: Tensor) -> Tensor:
    """Pool the states (B, T, d) of the tokens in mask (B, T) by an entry of MODES -> (B, d), as sentence-transformers does.

    Where the mask holds no token, as of an empty sentence whose prompt is left out, a mean is 0.
    """
    if mode == "cls":  # the first one behind a prompt that is left out
        return at(states, mask.int().argmax(1))
    if mode == "max":
        return states.masked_fill(mask[..., None] == 0, -torch.inf).amax(1)
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    if mode == "lasttoken":
        last = (mask * places).amax(1)
        return at(states, (last - 1).clamp(min=0)) * (last > 0)[:, None]
    weights = (mask * places if mode == "weightedmean" else mask).to(states.dtype)
    total = weights.sum(1, keepdim=True).clamp(min=1e-9)
    return (states * weights[..., None]).sum(1) / (total.sqrt() if mode == "mean_sqrt_len_tokens" else total)


class Unit(nn.Module):
    """Brings vectors to length 1."""

    width = 0  # that of its input

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, d) -> (B, d)"""
        return F.normalize(vectors, dim=-1)


class Dense(nn.Module):
    """A linear map, an activation, and the input added if it is residual: by another linear map, where the sizes differ."""

    def __init__(self, linear: nn.Linear, activation: nn.Module, use_residual: bool, residual: nn.Linear | None):
        super().__init__()
        self.linear, self.activation, self.use_residual, self.residual = linear, activation, use_residual, residual
        self.width = linear.out_features

    def forward(self, vectors: Tensor) -> Tensor:
        """(B, in_features) -> (B, out_features)"""
        found = self.activation(self.linear(vectors))
        if not self.use_residual:
            return found
        return found + (self.residual(vectors) if self.residual else vectors)


def _dense(name: str, module: Module, said: dict[str, Any], width: int) -> Dense:
    """A Dense module with its weights; width: of its input."""
    activation = ACTIVATIONS.get(said["activation"].rpartition(".")[2]) if said["activation"].startswith("torch.nn.") else None
    if activation is None:
        known = ", ".join(sorted(ACTIVATIONS))
        raise UserError(f"{name}: its {module.path} applies {said['activation'][:80]!r}, known are {known}; take --text-pool mean")
    files = [file_of(name, f"{module.path}/{file}") for file in ("model.safetensors", "pytorch_model.bin")]
    path = next((file for file in files if file), None)
    if path is None:
        raise UserError(f"{name}: {module.path}/model.safetensors is missing; fetch the whole model again")
    inside, outside = said["in_features"], said["out_features"]
    shapes = {"linear.weight": (outside, inside), **({"linear.bias": (outside,)} if said["bias"] else {})}
    projects = said["use_residual"] and inside != outside
    shapes |= {"residual.weight": (outside, inside)} if projects else {}
    state = _floats(load_state_dict(path), path)
    if {key: tuple(tensor.shape) for key, tensor in state.items()} != shapes or inside != width:
        raise UserError(f"{path}: its tensors are not those of a Dense from {width} to {outside} numbers; fetch the whole model again")
    with torch.device("meta"):
        made = Dense(
            nn.Linear(inside, outside, said["bias"]), activation(), said["use_residual"],
            nn.Linear(inside, outside, bias=False) if projects else None,
        )  # fmt: skip
    made.load_state_dict(state, assign=True)
    return made


def _floats(state: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(state, dict) or not all(isinstance(one, Tensor) and one.is_floating_point() for one in state.values()):
        raise UserError(f"{path}: not a file of plain tensors; fetch the whole model again")
    return {str(key): tensor.float() for key, tensor in state.items()}


def prompt_tokens(name: str, prompt: str) -> int:
    """How many tokens sentence-transformers counts to a prompt: all by itself, without a special one at its end."""
    tokenizer = load_tokenizer(name)
    ids = tokenizer(prompt)["input_ids"]
    return len(ids) - (ids[-1] in tokenizer.all_special_ids) if ids else 0
