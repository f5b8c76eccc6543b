"""Facts about an encoder that a command needs before it computes; kept between runs, so that mostly no model is loaded for them."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xvoken.interrupts import importing

from xvoken.encoders.snapshot import require_snapshot
from xvoken.files.known import Start, known, remember
from xvoken.towers.open_names import is_open_clip, without_weights
from xvoken.towers.sources import is_dual, kind_of, text_files

if TYPE_CHECKING:  # a module that exists for type checkers only
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Identity:
    """Fields as in xvoken.encoders.encoder.Encoder, and three more.

    tokenizer_hash: see xvoken.towers.tokenizer; vocabulary: the largest token id + 1; matcher: False for a CLIP-like model.
    """

    name: str
    hash: str
    dim: int
    max_len: int
    level: str
    image_width: int
    tokenizer_name: str
    tokenizer_hash: str
    vocabulary: int
    home: Path
    revision: str
    matcher: bool
    hubness: float
    key_views: int
    calibration: list[float] | None


def said(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as files keep them: without key_views where it is 1, as in files from before there was a choice."""
    return {name: value for name, value in settings.items() if (name, value) != ("key_views", 1)}


@dataclass(frozen=True)
class TextSize:
    """Sizes of a text tower.

    max_tokens: the longest input; fixed_length: whether every input has that length; weights_at_work: number of parameters that each
    token is multiplied with, which is all but the embeddings.
    """

    max_tokens: int
    fixed_length: bool
    weights_at_work: int


def identify(load: str | Path, key_views: int | None = None) -> Identity:
    """The identity of the encoder that `load_encoder` would load; raises UserError as load_encoder does.

    key_views: how many views of a picture are asked for, instead of the encoder's own number (None).
    """
    facts = _kept("encoder", load, Identity, _identity)
    said: dict[str, Any] = {**facts, "home": Path(facts["home"])}
    identity = Identity(**said)
    return identity if key_views is None else replace(identity, key_views=key_views)


def text_size(load: str | Path) -> TextSize:
    """Sizes of the text tower of the encoder that `load` names; raises UserError as load_encoder does."""
    return TextSize(**_kept("text tower", load, TextSize, _text_size))


def _kept(what: str, load: str | Path, kind: "type[DataclassInstance]", find_out: Any) -> dict[str, Any]:
    key = {"of": what, **_named(str(load))}
    if (facts := _known(key, kind)) is None:
        start = Start.now(text_files(str(load)))
        if kind_of(str(load)) == "matcher":
            require_snapshot(load)  # a wrong name is reported before torch is imported, which takes seconds
        with importing():
            from xvoken.encoders.encoder import load_encoder
        facts, files = find_out(load_encoder(load, [], "cpu"), str(load))
        if files:
            remember(key, files, facts, start)
    return facts


def _named(name: str) -> dict[str, Any]:
    """What facts are kept under: a model's name, and its folders, as the same name means another model in another folder or hub cache."""
    sources = [str(path) for path in text_files(name)]
    if not sources and is_open_clip(name):  # weights by a tag: open_clip alone knows where they lie in the hub's cache
        from huggingface_hub.constants import HF_HUB_CACHE

        sources = [HF_HUB_CACHE]
    return {"load": name, "at": os.getcwd(), "sources": sources}


def _known(key: dict[str, Any], kind: "type[DataclassInstance]") -> dict[str, Any] | None:
    """The kept facts, or None if there are none with the fields of `kind`: another version may have kept other fields."""
    facts = known(key)
    return facts if facts is not None and facts.keys() == {field.name for field in fields(kind)} else None


def _identity(encoder: Any, load: str) -> tuple[dict[str, Any], Sequence[Path]]:
    from xvoken.towers.tokenizer import tokenizer_hash, vocabulary_size

    facts = Identity(
        encoder.name, encoder.hash, encoder.dim, encoder.max_len, encoder.level, encoder.image_width, encoder.tokenizer_name,
        tokenizer_hash(encoder.tokenizer), vocabulary_size(encoder.tokenizer), encoder.home, encoder.revision, kind_of(load) == "matcher",
        encoder.hubness, encoder.key_views, encoder.calibration,
    )  # fmt: skip
    return {**asdict(facts), "home": str(facts.home)}, encoder.files


def _text_size(encoder: Any, load: str) -> tuple[dict[str, Any], Sequence[Path]]:
    from torch import nn

    tower = encoder.text_spec.build()
    modules = (module for module in tower.modules() if not isinstance(module, nn.Embedding))  # embeddings are looked up, not multiplied
    weights = sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))
    files = text_files(encoder.text_spec.name)
    return asdict(TextSize(tower.max_tokens, tower.fixed_length, weights)), [*encoder.files, *files] if files else []


@dataclass(frozen=True)
class TokenizerFacts:
    """hash: see xvoken.towers.tokenizer.tokenizer_hash; vocabulary: the largest token id + 1."""

    hash: str
    vocabulary: int


def tokenizer_facts(name: str) -> TokenizerFacts:
    """Facts about a tokenizer given by short name, hub id or folder; raises UserError as load_tokenizer does."""
    name = without_weights(name)
    key = {"of": "tokenizer", **_named(name)}
    if (facts := _known(key, TokenizerFacts)) is None:
        start = Start.now(text_files(name))
        with importing():
            import transformers  # noqa: F401  # the functions below import it

            from xvoken.towers.tokenizer import load_tokenizer, tokenizer_hash, vocabulary_size
        tokenizer = load_tokenizer(name, slow=is_dual(name))
        facts = asdict(TokenizerFacts(tokenizer_hash(tokenizer), vocabulary_size(tokenizer)))
        if files := text_files(name):
            remember(key, files, facts, start)
    return TokenizerFacts(**facts)
