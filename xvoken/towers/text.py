"""Pretrained text towers of transformers, and their pooling."""

import os
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from xvoken.errors import UserError
from xvoken.kinds import TEXT_POOLS, full_name, made_by
from xvoken.towers.reading import reads
from xvoken.towers.sentence_files import _source, json_of, subfolder
from xvoken.towers.sources import require_bounded
from xvoken.towers.tokenizer import _load


def first_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of [CLS]: states (B, T, d), mask (B, T) -> (B, d)"""
    return states[:, 0]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens: states (B, T, d), mask (B, T), 1 for tokens and 0 for padding -> (B, d)"""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def last_token(states: Tensor, mask: Tensor) -> Tensor:
    """The state of the last token, which alone has seen all others where a tower reads from left to right: states, mask -> (B, d)"""
    return at(states, mask.sum(1) - 1)


def at(states: Tensor, places: Tensor) -> Tensor:
    """The state at a place of each sentence: states (B, T, d), places int64 (B,) -> (B, d); in a form that a trace takes for any B, T"""
    return states.gather(1, places[:, None, None].expand(-1, 1, states.shape[-1])).squeeze(1)


def _settle_missing(model: nn.Module, missing: Iterable[str], name: str) -> None:
    """Set a pooler that the files lack, as RoBERTa's do, to 0: no state depends on it, but random weights would be others each time.

    Raises UserError where anything else is missing.
    """
    if others := sorted(key for key in missing if not key.startswith("pooler.")):
        raise UserError(f"text model {name}: its files lack weights ({others[0]}), which would be random; take a whole model")
    for key in missing:
        nn.init.zeros_(model.get_parameter(key))


LONGEST = 512  # tokens, where neither a model nor its tokenizer says how many it takes
UNBOUNDED = 1_000_000  # tokens: larger numbers mean that there is no limit


def _load_model(name: str) -> Any:
    """The model in fp32; of an encoder-decoder its encoder. Raises UserError where it can't be had."""
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    if os.path.isfile(os.path.join(_source(name), subfolder(name), "adapter_config.json")):  # would be passed over without a word
        raise UserError(
            f"text model {name}: an adapter for another model (adapter_config.json); merge both with peft, and give that folder"
        )
    require_bounded(name, f"text model {name}")
    config = _load(AutoConfig, name, "text model")
    encoder = reads(config.model_type) == "encoder"  # once it was saved by itself, its config is that of no encoder-decoder
    if config.is_encoder_decoder and not encoder:
        kind = f"an encoder-decoder ({config.model_type}) whose encoder transformers can't load by itself"
        raise UserError(f"text model {name}: {kind}; take another model, such as a T5, or an encoder")
    loader = AutoModelForTextEncoding if encoder else AutoModel
    model, found = _load(loader, name, "text model", use_safetensors=True, output_loading_info=True)
    _settle_missing(model.float(), found["missing_keys"], name)
    return model


def _positions(model: nn.Module, sizes: Any) -> int | None:
    """The longest input that a model has positions for, in tokens; None where its positions are relative."""
    positions = getattr(sizes, "max_position_embeddings", None)
    if not isinstance(positions, int) or not 0 < positions < UNBOUNDED:
        return None
    # RoBERTa's positions start behind its padding id, so that two of them are never used; MPNet's and others' too.
    tables = [part for key, part in model.named_modules() if key.endswith("position_embeddings") and isinstance(part, nn.Embedding)]
    return positions - max((table.padding_idx + 1 for table in tables if table.padding_idx is not None), default=0)


def _said_by_tokenizer(name: str) -> int | None:
    said = json_of(name, os.path.join(subfolder(name), "tokenizer_config.json"))
    found = said.get("model_max_length") if isinstance(said, dict) else None
    return int(found) if isinstance(found, int | float) and 0 < found < UNBOUNDED else None


class TextTower(nn.Module):
    """Hidden states of some layers, concatenated, and pooled to one vector.

    pool: an entry of TEXT_POOLS: "cls" (first token, as published), "mean" (of all tokens, special ones counted in), "last" (the last
    one) or "own", the modules that sentence-transformers put behind the model.
    layers: counted from the last one, (4, 3, 2, 1) = the last four, as in Vokenization (Tan & Bansal, 2020).
    width: size of the output; max_tokens: the longest input, special tokens counted in.
    fixed_length: whether every input is padded to max_tokens; prompt: text that is put before every sentence.
    """

    fixed_length = False

    def __init__(self, name: str, layers: tuple[int, ...] = (4, 3, 2, 1), pool: str = "cls", prompt: str = ""):
        super().__init__()
        self.name, self.layers, self.pool, self.prompt = full_name(name), layers, pool, prompt
        self.model = _load_model(name)
        sizes = self.model.config.get_text_config()  # of a model of texts and pictures, that of its texts
        if not all(isinstance(getattr(sizes, size, None), int) for size in ("num_hidden_layers", "hidden_size")):
            raise UserError(f"text model {name}: a {sizes.model_type}, of which no layers of tokens' states can be had; take another model")
        if not layers or min(layers) < 1 or max(layers) > sizes.num_hidden_layers:
            raise UserError(f"--lang-layers {','.join(map(str, layers))}: {name} has layers 1 to {sizes.num_hidden_layers}")
        self.width, positions = sizes.hidden_size * len(layers), _positions(self.model, sizes)
        self.options = {"use_cache": False} if reads(sizes.model_type) == "forward" and getattr(sizes, "use_cache", None) else {}
        self.ends_in_cls = sizes.model_type == "xlnet"
        made, longest = made_by(TEXT_POOLS[pool]), None
        self.pooling = made(name, self.width, prompt) if pool == "own" else made
        if pool == "own":
            self.width, longest = self.pooling.width, self.pooling.max_tokens
        if pool == "own" or positions is None:
            longest = longest or _said_by_tokenizer(name)
        self.max_tokens = min(longest or positions or LONGEST, positions or UNBOUNDED)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 (B, T), mask 1 for tokens and 0 for padding -> (B, width)"""
        return self.pooling(self.tokens(ids, mask), mask)

    def tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask as in `forward` -> (B, T, width): the layers' states of every token, without pooling"""
        options: dict[str, Any] = {**self.options, "output_hidden_states": max(self.layers) > 1}
        if self.ends_in_cls:  # XLNet's tokenizer says that <cls>, which is the last token, is of a kind of its own
            places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
            options["token_type_ids"] = 2 * (places == mask.sum(1, keepdim=True))
        found = self.model(input_ids=ids, attention_mask=mask, **options)
        # The last layer as the model gives it, behind its last norm, which some have not among the hidden states.
        states = [found.last_hidden_state if layer == 1 else found.hidden_states[-layer] for layer in sorted(self.layers, reverse=True)]
        return torch.cat(states, dim=-1)
