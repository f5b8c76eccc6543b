"""Loading pretrained tokenizers and models by short name, hub id or folder; a tokenizer's hash, and tokenizing."""

import hashlib
import os
from itertools import chain
from logging import ERROR, getLogger
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError, one_line
from xvoken.kinds import SHORT_NAMES, TOKENIZERS, full_name, made_by
from xvoken.towers.open_names import is_open_tokenizer
from xvoken.towers.sentence_files import _source, lowers, subfolder


class Tokenizer(Protocol):
    """What xvoken uses of a tokenizer of transformers."""

    name_or_path: str

    @property
    def is_fast(self) -> bool:
        """Whether it is a FastTokenizer."""
        ...

    @property
    def pad_token_id(self) -> int | None:
        """The id of padding; None if the tokenizer has none."""
        ...

    @property
    def eos_token_id(self) -> int | None:
        """The id of a text's end; None if the tokenizer has none."""
        ...

    @property
    def all_special_tokens(self) -> list[str]:
        """The texts of [CLS], [SEP] and the like."""
        ...

    def get_vocab(self) -> dict[str, int]:
        """The id of every token."""
        ...

    def __call__(self, text: Any, /, *, add_special_tokens: bool = True) -> Any:
        """A mapping with "input_ids": the ids of one text, or a list of them for a list of texts."""
        ...


class FastTokenizer(Tokenizer, Protocol):
    """A tokenizer that the tokenizers package (in Rust) runs."""

    @property
    def backend_tokenizer(self) -> Any:
        """The tokenizers.Tokenizer inside."""
        ...


def is_fast(tokenizer: Tokenizer) -> TypeGuard[FastTokenizer]:
    """Whether the tokenizers package (in Rust) runs it."""
    return tokenizer.is_fast


def from_pretrained(loader: Any, source: str, what: str, mend: str, **options: Any) -> Any:
    """Call a transformers `from_pretrained` on a folder or hub id; raises UserError: `what` can't be loaded, and `mend`, what would help.

    Code that comes with a model is never run: transformers itself would ask at the terminal, and a "y" typed ahead, or piped in,
    would let a stranger's file do what it likes.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel(ERROR)  # it reports every retry where the hub does not answer
    try:
        return loader.from_pretrained(source, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file or a config with wrong types can raise anything
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{what}: needs Python code of its own (auto_map in its config), which is never run here; "
                "take a model whose class is part of transformers"
            ) from None
        raise UserError(f"{what}: can't be loaded from {source} ({one_line(error)[:200]}); {mend}") from None


def _load(loader: Any, name: str, what: str, **options: Any) -> Any:
    """`from_pretrained` for a text model or tokenizer, which may have a short name too."""
    source, short = _source(name), ", ".join(SHORT_NAMES)
    if not os.path.isdir(source) and (source.count("/") > 1 or source.startswith((".", "/"))):
        raise UserError(f"{what} {name}: no such folder (short names: {short}; else a hub id)")
    mend = f"give a folder that holds it, or a short name ({short})"
    if not os.path.isdir(source):
        mend += f", or fetch it first where the hub is reached: hf download {full_name(name)}"
    if inside := subfolder(name):  # sentence-transformers may keep the model itself in a folder of its own, 0_Transformer
        source, options = (os.path.join(source, inside), options) if os.path.isdir(source) else (source, {**options, "subfolder": inside})
    return from_pretrained(loader, source, f"{what} {name}", mend, **options)


def load_tokenizer(name: str, slow: bool = False) -> Any:
    """A tokenizer by short name, hub id or folder, or of a model of open_clip's; raises UserError for one that has no vocabulary.

    slow: whether one of transformers may be a slow one, without tokenizer.json, as that of SigLIP's first models.
    """
    if is_open_tokenizer(name):
        return made_by(TOKENIZERS["open_clip"])(name)
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, name, "tokenizer")
    require_vocabulary(tokenizer, name)
    if not isinstance(longest := tokenizer.model_max_length, int | float):
        raise UserError(f"tokenizer {name}: its tokenizer_config.json says model_max_length {str(longest)[:60]!r}, which is no number")
    if not (slow or tokenizer.is_fast):
        raise UserError(f"tokenizer {name}: has no tokenizer.json (fast tokenizer); convert it with transformers first")
    keep_whole(tokenizer)
    if tokenizer.is_fast and lowers(name):
        _lower(tokenizer.backend_tokenizer)
    return tokenizer


def keep_whole(tokenizer: Any) -> None:
    """Let a fast tokenizer neither cut nor pad, whatever its file says: both are done when sentences are encoded."""
    if tokenizer.is_fast:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


def _lower(backend: Any) -> None:
    """Bring texts to lower case before anything else, as sentence-transformers does for its do_lower_case."""
    from tokenizers.normalizers import Lowercase, Sequence

    own = [] if backend.normalizer is None else [backend.normalizer]
    if not any("Lowercase" in repr(one) for one in own):  # once it is saved with the tokenizer, it is there
        backend.normalizer = Sequence([Lowercase(), *own])


def require_offsets(tokenizer: Tokenizer, name: str, what: str) -> None:
    """Raise UserError for a tokenizer that does not say which characters a token stands for; what: asks for them."""
    if not is_fast(tokenizer):
        raise UserError(f"tokenizer {name}: does not say which characters of a line its tokens stand for, which {what} asks for")


def require_vocabulary(tokenizer: Tokenizer, name: str) -> None:
    """Raise UserError for a tokenizer that transformers made from config.json alone: every word would be the unknown token."""
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, "\u2581"}:  # the blank of sentencepiece
        raise UserError(
            f"tokenizer {name}: no words in it, only {len(tokenizer.get_vocab())} special tokens; its files (tokenizer.json, "
            "vocab.txt or similar) are missing: put them there, or give the folder or model that has them"
        )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """16 hex digits that name a tokenizer by its vocabulary and by the ids of a probe text.

    Equal for copies of one tokenizer, whatever their files are called and whichever library version wrote them.
    """
    probe = "A Café\tnaïve RE-run, 北京 2021: don't 😀 <b>unaffable</b>\u200b!"
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index} {token}\n".encode("utf-8", "surrogatepass"))
    digest.update(str(tokenizer(probe)["input_ids"]).encode())
    return digest.hexdigest()[:16]


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The largest token id + 1; more than the number of tokens if the vocabulary has holes."""
    return max(tokenizer.get_vocab().values()) + 1


def special_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids put before and behind a sentence: [CLS] and [SEP] for BERT, nothing and an end for SigLIP, nothing at all for GPT-2.

    Raises UserError for a tokenizer that does something else with a sentence.
    """
    probe = "a sentence"
    plain, whole = tokenizer(probe, add_special_tokens=False)["input_ids"], tokenizer(probe)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    raise UserError(f"tokenizer {tokenizer.name_or_path}: changes a sentence's own tokens where it puts special ones around it")


def tokenize(tokenizer: Tokenizer, sentences: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids without special ones, one sentence after another: int32 (N,), and offsets: int64 (len(sentences) + 1,)."""
    return joined(token_lists(tokenizer, sentences))


def token_lists(tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    """The token ids of each sentence, without special ones."""
    if is_fast(tokenizer):
        return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch_fast(sentences, add_special_tokens=False)]
    return tokenizer(sentences, add_special_tokens=False)["input_ids"]  # SigLIP's sentencepiece tokenizer


def joined(ids: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Concatenate lists of ids: int32 (N,), and where each list starts: int64 (len(ids) + 1,)."""
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(list(map(len, ids)), out=offsets[1:])
    return np.fromiter(chain.from_iterable(ids), np.int32, offsets[-1]), offsets
