"""What a command has to know of an encoder before it computes; nothing is loaded for it where that is known from before."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xvoken.interrupts import importing

from xvoken.encoders.snapshot import require_snapshot
from xvoken.encoders.sources import is_transformers, kind_of, text_files
from xvoken.files.known import Start, known, remember

if TYPE_CHECKING:  # a module that is there for type checkers only
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class Identity:
    """As in xvoken.encoders.encoder.Encoder; tokenizer_hash, and vocabulary, which all token ids are below; matcher: or CLIP-like."""

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


@dataclass(frozen=True)
class TextSize:
    """Of a text tower: its longest input, whether every input is as long, and the parameters that each token is multiplied with."""

    max_tokens: int
    fixed_length: bool
    weights_at_work: int


def identify(load: str | Path) -> Identity:
    """The identity of what `load_encoder` would load; raises UserError as that does."""
    facts = _kept("encoder", load, Identity, _identity)
    said: dict[str, Any] = {**facts, "home": Path(facts["home"])}
    return Identity(**said)


def text_size(load: str | Path) -> TextSize:
    """Of its text tower; raises UserError as load_encoder does."""
    return TextSize(**_kept("text tower", load, TextSize, _text_size))


def _kept(what: str, load: str | Path, kind: "type[DataclassInstance]", find_out: Any) -> dict[str, Any]:
    key = {"of": what, **_named(str(load))}
    if (facts := _known(key, kind)) is None:
        start = Start.now(text_files(str(load)))
        if not is_transformers(str(load)):
            require_snapshot(load)  # a mistake in the name is told before torch is imported, which takes seconds
        with importing():
            from xvoken.encoders.encoder import load_encoder
        facts, files = find_out(load_encoder(load, [], "cpu"), str(load))
        if files:
            remember(key, files, facts, start)
    return facts


def _named(name: str) -> dict[str, Any]:
    """A model as it was named, and what that name stands for now: with another cache of the hub, or a folder of that name, another one."""
    return {"load": name, "at": os.getcwd(), "sources": [str(path) for path in text_files(name)]}


def _known(key: dict[str, Any], kind: "type[DataclassInstance]") -> dict[str, Any] | None:
    """The facts that are kept, if they are those that `kind` takes: another version may have kept others."""
    facts = known(key)
    return facts if facts is not None and facts.keys() == {field.name for field in fields(kind)} else None


def _identity(encoder: Any, load: str) -> tuple[dict[str, Any], Sequence[Path]]:
    from xvoken.encoders.tokenizer import tokenizer_hash, vocabulary_size

    facts = Identity(
        encoder.name, encoder.hash, encoder.dim, encoder.max_len, encoder.level, encoder.image_width, encoder.tokenizer_name,
        tokenizer_hash(encoder.tokenizer), vocabulary_size(encoder.tokenizer), encoder.home, encoder.revision, kind_of(load) == "matcher",
    )  # fmt: skip
    return {**asdict(facts), "home": str(facts.home)}, encoder.files


def _text_size(encoder: Any, load: str) -> tuple[dict[str, Any], Sequence[Path]]:
    from torch import nn

    tower = encoder.text_spec.build()
    modules = (module for module in tower.modules() if not isinstance(module, nn.Embedding))  # which are looked up
    weights = sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))
    files = text_files(encoder.text_spec.name)
    return asdict(TextSize(tower.max_tokens, tower.fixed_length, weights)), [*encoder.files, *files] if files else []


@dataclass(frozen=True)
class TokenizerFacts:
    """hash: see xvoken.encoders.tokenizer.tokenizer_hash; vocabulary: all ids are below it."""

    hash: str
    vocabulary: int


def tokenizer_facts(name: str) -> TokenizerFacts:
    """Of a tokenizer by short name, hub id or folder; raises UserError as load_tokenizer does."""
    key = {"of": "tokenizer", **_named(name)}
    if (facts := _known(key, TokenizerFacts)) is None:
        start = Start.now(text_files(name))
        with importing():
            import transformers  # noqa: F401  # which the functions import

            from xvoken.encoders.tokenizer import load_tokenizer, tokenizer_hash, vocabulary_size
        tokenizer = load_tokenizer(name)
        facts = asdict(TokenizerFacts(tokenizer_hash(tokenizer), vocabulary_size(tokenizer)))
        if files := text_files(name):
            remember(key, files, facts, start)
    return TokenizerFacts(**facts)
