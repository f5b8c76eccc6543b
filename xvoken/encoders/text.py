"""Pretrained text towers of transformers, and their pooling."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from xvoken.encoders.tokenizer import _load
from xvoken.errors import UserError
from xvoken.kinds import TEXT_POOLS, full_name, made_by


def weights_hash(module: nn.Module) -> str:
    """16 hex digits that name a module's weights: of the SHA-256 over its tensors' names and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of [CLS]: states (B, T, d), mask (B, T) -> (B, d)"""
    return states[:, 0]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens: states (B, T, d), mask (B, T), 1 for tokens and 0 for padding -> (B, d)"""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the last token, which alone has seen all others where a tower reads from left to right: states, mask -> (B, d)"""
    return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]


def _settle_missing(model: nn.Module, missing: Iterable[str], name: str) -> None:
    """Set a pooler that the files lack, as RoBERTa's do, to 0: no state depends on it, but random weights would be others each time.

    Raises UserError where anything else is missing.
    """
    if others := sorted(key for key in missing if not key.startswith("pooler.")):
        raise UserError(f"text model {name}: its files lack weights ({others[0]}), which would be random; take a whole model")
    for key in missing:
        nn.init.zeros_(model.get_parameter(key))


class TextTower(nn.Module):
    """Hidden states of some layers, concatenated, at the first token or averaged over all tokens.

    pool: an entry of TEXT_POOLS: "cls" (first token, as published), "mean" (of all tokens, special ones counted in) or "last".
    layers: counted from the last one, (4, 3, 2, 1) = the last four, as in Vokenization (Tan & Bansal, 2020).
    width: size of the output; max_tokens: the longest input, special tokens counted in.
    fixed_length: whether every input is padded to max_tokens; prompt: text that is put before every sentence.
    """

    fixed_length = False

    def __init__(self, name: str, layers: tuple[int, ...] = (4, 3, 2, 1), pool: str = "cls", prompt: str = ""):
        super().__init__()
        from transformers import AutoModel

        self.prompt = prompt
        self.name, self.layers, self.pool, self.pooling = full_name(name), layers, pool, made_by(TEXT_POOLS[pool])
        self.model, found = _load(AutoModel, name, "text model", use_safetensors=True, output_loading_info=True)
        _settle_missing(self.model.float(), found["missing_keys"], name)
        config = self.model.config
        if not layers or min(layers) < 1 or max(layers) > config.num_hidden_layers:
            raise UserError(f"--lang-layers {','.join(map(str, layers))}: {name} has layers 1 to {config.num_hidden_layers}")
        self.width = config.hidden_size * len(layers)
        # RoBERTa's positions start behind its padding id, so that two of them are never used.
        reserved = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
        self.max_tokens = config.max_position_embeddings - reserved

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 (B, T), mask 1 for tokens and 0 for padding -> (B, width)"""
        return self.pooling(self.tokens(ids, mask), mask)

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask as in `forward` -> (B, T, width): the layers' states of every token, without pooling"""
        states = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
        return torch.cat([states[-layer] for layer in sorted(self.layers, reverse=True)], dim=-1)
