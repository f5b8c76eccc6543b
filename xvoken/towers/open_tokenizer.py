"""open_clip's own tokenizers: CLIP's by SimpleTokenizer, or one of transformers behind a cleaning of the text, by HFTokenizer."""

import importlib
import logging
import os
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xvoken.errors import UserError
from xvoken.files.safe import read_json, write_json
from xvoken.towers.open_names import OPEN_TOKENIZER, PREFIX, TOKENIZER_SETTINGS, OpenName, fetch, package
from xvoken.towers.tokenizer import from_pretrained, keep_whole, require_vocabulary

FORMAT = "xvoken-open_clip-tokenizer-1"
CONTEXT = 77  # tokens, where a config does not say
WORDS = 1 << 20  # whose parts are kept: a corpus of any size has ever more


def open_clip() -> Any:
    """The library; raises UserError where it is missing or can't be imported."""
    package()
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise UserError(f"open_clip can't be imported ({error})") from None
    finally:  # which the import sets, and with it the speed of all other tokenizers
        os.environ.pop("TOKENIZERS_PARALLELISM", None)
        if before is not None:
            os.environ["TOKENIZERS_PARALLELISM"] = before


@contextmanager
def silently() -> Generator[None]:
    """Keep open_clip from telling what it does, and from installing a handler for it that would tell what others do too."""
    root, handler, level = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    root.addHandler(handler)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        root.removeHandler(handler)


class _Loader:
    """open_clip's HFTokenizer as a loader of transformers; settings: its own."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings

    def from_pretrained(self, source: str, **options: Any) -> Any:
        """Load it by hub id or folder; options: for AutoTokenizer."""
        return importlib.import_module("open_clip.tokenizer").HFTokenizer(source, **self.settings, **options)


class OpenTokenizer:
    """A tokenizer of open_clip's behind what xvoken uses of one, see xvoken.towers.tokenizer.Tokenizer.

    own: open_clip's SimpleTokenizer or HFTokenizer; settings: what it was made with: context_length and those of TOKENIZER_SETTINGS.
    It is never a fast one: the text is cleaned in Python first, and so no token knows its characters.
    """

    is_fast = False

    def __init__(self, own: Any, settings: dict[str, Any], name: str):
        self.own, self.settings, self.name_or_path = own, settings, name
        self.inner: Any = getattr(own, "tokenizer", None)  # of transformers; None for CLIP's own
        if self.inner is not None:
            require_vocabulary(self.inner, name)
            keep_whole(self.inner)

    @property
    def context_length(self) -> int:
        """The longest input of its model's, special tokens counted in."""
        return self.settings["context_length"]

    @property
    def padding_side(self) -> str:
        """Where padding is put: "right" or "left"."""
        return getattr(self.inner, "padding_side", "right")

    @property
    def pad_token_id(self) -> int | None:
        """The id of padding."""
        return 0 if self.inner is None else self.inner.pad_token_id

    @property
    def eos_token_id(self) -> int | None:
        """The id of the end of a text."""
        return self.own.eot_token_id if self.inner is None else self.inner.eos_token_id

    @property
    def all_special_tokens(self) -> list[str]:
        """The texts of the tokens that no text is made of."""
        return [self.own.decoder[token] for token in self.own.all_special_ids] if self.inner is None else self.inner.all_special_tokens

    def get_vocab(self) -> dict[str, int]:
        """The id of every token."""
        return self.own.encoder if self.inner is None else self.inner.get_vocab()

    def __call__(self, text: str | list[str], /, *, add_special_tokens: bool = True) -> dict[str, Any]:
        """{"input_ids": the ids of one text, or a list of them for a list of texts}, neither cut nor padded."""
        texts = [text] if isinstance(text, str) else text
        found = self._simple(texts, add_special_tokens) if self.inner is None else self._cleaned(texts, add_special_tokens)
        return {"input_ids": found[0] if isinstance(text, str) else found}

    def _simple(self, texts: list[str], special: bool) -> list[list[int]]:
        own = self.own
        if len(own.cache) > WORDS:
            own.cache = {own.decoder[token]: own.decoder[token] for token in own.all_special_ids}
        found = [own.encode(text) for text in texts]
        return [[own.sot_token_id, *ids, own.eot_token_id] for ids in found] if special else found

    def _cleaned(self, texts: list[str], special: bool) -> list[list[int]]:
        if not texts:
            return []
        found = self.inner([self.own.clean_fn(text) for text in texts], add_special_tokens=special)["input_ids"]
        if self.own.strip_sep_token:
            return [[0 if token == self.inner.sep_token_id else token for token in ids] for ids in found]
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write what `load_open_tokenizer` makes the same of: its settings, and beside them the files of one of transformers."""
        if self.inner is not None:
            self.inner.save_pretrained(folder)
        write_json(Path(folder) / OPEN_TOKENIZER, {"format": FORMAT, "transformers": self.inner is not None, **self.settings})


def load_open_tokenizer(name: str) -> OpenTokenizer:
    """The tokenizer of a model of open_clip's, which needs no weights, or one that was written to a folder; raises UserError."""
    if not name.startswith(PREFIX) and (Path(name) / OPEN_TOKENIZER).is_file():
        return _written(name)
    return tokenizer_of(OpenName.read(name))


def tokenizer_of(of: OpenName) -> OpenTokenizer:
    """The tokenizer that a model's config asks for; raises UserError."""
    text = of.config["text_cfg"]
    settings = {"context_length": text.get("context_length", CONTEXT), **(text.get("tokenizer_kwargs") or {})}
    source = text.get("hf_tokenizer_name")
    if not source and "siglip" in of.model.lower():
        raise UserError(f"tokenizer {of.name}: its vocabulary lies outside the hub; take a model with hf_tokenizer_name")
    return _made(of.name, settings, (of.folder or source) if source else "", fetch(source) if source and not of.folder else "")


def _written(folder: str) -> OpenTokenizer:
    path = Path(folder) / OPEN_TOKENIZER
    said = read_json(path, "write it again")
    kinds = {"format": str, "transformers": bool, "context_length": int, **TOKENIZER_SETTINGS}
    wrong = not isinstance(said, dict) or said.get("format") != FORMAT or {"transformers", "context_length"} - said.keys()
    if wrong or any(type(value) is not kinds.get(key) for key, value in said.items()):
        raise UserError(f"{path}: not a tokenizer of open_clip's as xvoken writes it")
    settings = {key: value for key, value in said.items() if key not in ("format", "transformers")}
    return _made(folder, settings, folder if said["transformers"] else "", "")


def _made(name: str, settings: dict[str, Any], source: str, mend: str) -> OpenTokenizer:
    """source: of a tokenizer of transformers, a folder or a hub id; empty for CLIP's own."""
    with silently():
        open_clip()
        what = f"tokenizer {name}"
        if source:
            own = from_pretrained(_Loader(settings), source, what, mend or "its folder needs the tokenizer's files, as tokenizer.json")
            return OpenTokenizer(own, settings, name)
        if settings.keys() - {"context_length", "clean"}:
            raise UserError(f"{what}: CLIP's own tokenizer takes no {', '.join(sorted(settings.keys() - {'context_length', 'clean'}))}")
        try:
            return OpenTokenizer(importlib.import_module("open_clip.tokenizer").SimpleTokenizer(**settings), settings, name)
        except AssertionError as error:  # a cleaning that it does not know
            raise UserError(f"{what}: {error}") from None
