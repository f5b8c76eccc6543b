"""What a command has to know of an encoder before it computes; nothing is loaded for it where that is known from before."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xvoken.interrupts import importing

from xvoken.encoders.sources import text_files
from xvoken.files.known import known, remember


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
    facts = _kept("encoder", load, _identity)
    return Identity(**{**facts, "home": Path(facts["home"])})


def text_size(load: str | Path) -> TextSize:
    """Of its text tower; raises UserError as load_encoder does."""
    return TextSize(**_kept("text tower", load, _text_size))


def _kept(what: str, load: str | Path, find_out: Any) -> dict[str, Any]:
    key = {"of": what, "load": str(load), "at": str(Path(load).absolute())}
    if (facts := known(key)) is None:
        with importing():
            from xvoken.encoders.encoder import load_encoder
        facts, files = find_out(load_encoder(load, [], "cpu"), str(load))
        if files:
            remember(key, files, facts)
    return facts


def _identity(encoder: Any, load: str) -> tuple[dict[str, Any], list[Path]]:
    from xvoken.encoders.tokenizer import tokenizer_hash, vocabulary_size

    facts = Identity(
        encoder.name, encoder.hash, encoder.dim, encoder.max_len, encoder.level, encoder.image_width, encoder.tokenizer_name,
        tokenizer_hash(encoder.tokenizer), vocabulary_size(encoder.tokenizer), encoder.home, encoder.revision, encoder.matcher,
    )  # fmt: skip
    return {**asdict(facts), "home": str(facts.home)}, encoder.files or text_files(load)


def _text_size(encoder: Any, load: str) -> tuple[dict[str, Any], list[Path]]:
    from torch import nn

    tower = encoder.text_spec.build()
    modules = (module for module in tower.modules() if not isinstance(module, nn.Embedding))  # which are looked up
    weights = sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))
    files = text_files(encoder.text_spec.name)
    return asdict(TextSize(tower.max_tokens, tower.fixed_length, weights)), [*encoder.files, *files] if files else []
