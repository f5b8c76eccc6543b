"""Names of open_clip's models, and what is known of them without loading open_clip: their config and their files.

open_clip:MODEL/PRETRAINED      a model that open_clip knows; its weights: a tag of open_clip's, or a file
open_clip:MODEL                 the same for a tokenizer, which needs no weights
open_clip:hf-hub:OWNER/NAME     a repository of the hub with open_clip_config.json
open_clip:FOLDER, or FOLDER     a folder with open_clip_config.json
"""

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xvoken.errors import UserError, one_line
from xvoken.files.snapshots import tensors_file
from xvoken.kinds import DUALS
from xvoken.towers.packages import package_folder

PREFIX, HUB = "open_clip:", "hf-hub:"
CONFIG = "open_clip_config.json"
OPEN_TOKENIZER = "open_clip_tokenizer.json"  # in tokenizer/, where it is one of open_clip's, see xvoken/towers/open_tokenizer.py
# What a config may say. Without a bound, one of a stranger's could keep a loop going, or ask for all memory.
LARGEST = {"layers": 512, "image_size": 4096, "context_length": 8192}
MOST = 1 << 24
BYTES = 1 << 20  # of a config file
TOKENIZER_SETTINGS = {"clean": str, "strip_sep_token": bool, "language": str}


@dataclass(frozen=True)
class OpenName:
    """What a name of open_clip's means: a folder, a repository of the hub, or a model with weights; the others are empty.

    cached: the folder in which the hub's cache has the repository, where nothing shall be fetched.
    """

    name: str
    folder: str = ""
    hub: str = ""
    model: str = ""
    weights: str = ""
    cached: str = ""

    @classmethod
    def read(cls, name: str) -> "OpenName":
        """Take a name apart; nothing is looked up but whether there is such a folder."""
        rest = name.removeprefix(PREFIX)
        if (Path(rest) / CONFIG).is_file():
            return cls(name, folder=rest)
        if rest.startswith(HUB):
            return cls(name, hub=rest.removeprefix(HUB))
        model, _, weights = rest.partition("/")
        return cls(name, model=model, weights=weights)

    @property
    def absolute(self) -> str:
        """The same name for use in any folder."""
        if self.folder:
            return f"{PREFIX}{Path(self.folder).absolute()}"
        return f"{PREFIX}{self.model}/{Path(self.weights).absolute()}" if os.path.isfile(self.weights) else self.name

    @property
    def library(self) -> str:
        """The model as open_clip's functions take it."""
        return f"local-dir:{self.folder}" if self.folder else f"{HUB}{self.hub}" if self.hub else self.model

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's part of the config; raises UserError where there is none, or for values that a model can't have.

        What a hub's repository has is fetched.
        """
        path = self._config_file()
        try:
            said = _read(path)
            found = said if self.model else said["model_cfg"]
            parts = [found, found["vision_cfg"], found["text_cfg"]]
            wrong = _wrong(found)
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"model {self.name}: {path} is not a config of open_clip ({one_line(repr(error))[:120]})") from None
        if not all(isinstance(part, dict) for part in parts):
            raise UserError(f"model {self.name}: {path} is not a config of open_clip (vision_cfg and text_cfg are to be objects)")
        if wrong := wrong or _wrong_names(found):
            raise UserError(f"model {self.name}: {path} has what no model of open_clip's has: {wrong}")
        return found

    def _config_file(self) -> Path:
        if self.folder or self.cached:
            return Path(self.folder or self.cached) / CONFIG
        if self.hub:
            return _fetched(self.name, self.hub)
        models = package() / "model_configs"
        if (path := models / f"{self.model}.json").parent != models or not path.is_file():
            known = sorted(path.stem for path in models.glob("*.json"))
            like = [name for name in known if name.lower().replace("/", "-").startswith(self.model.lower()[:5])] or known
            folder = " (a folder needs open_clip_config.json)" if Path(self.name.removeprefix(PREFIX)).is_dir() else ""
            raise UserError(f"{self.name}: open_clip knows no model {self.model!r}{folder}; among those it knows: {', '.join(like[:20])}")
        return path

    @property
    def pretrained(self) -> list[str]:
        """Names of transformers' that the model takes a config or a tokenizer from, besides its own files."""
        text = self.config["text_cfg"]
        names = [text.get("hf_model_name"), None if self.folder else text.get("hf_tokenizer_name")]
        return [name for name in names if name]


def package() -> Path:
    """The folder of open_clip's code; raises UserError where it is not installed."""
    from xvoken import commands

    found = package_folder("open_clip")
    if found is None:
        raise UserError(f"models of open_clip need the package open_clip_torch, which is missing; {commands.install('open_clip')}")
    return found


def is_open_clip(name: str) -> bool:
    """Whether `name` means a model of open_clip's, with open_clip: before it or as a folder that transformers can't load."""
    if name.startswith(PREFIX):
        return True
    folder = Path(name)
    if not (folder / CONFIG).is_file() or tensors_file(folder, "BEST").exists():
        return False
    with suppress(OSError, ValueError, RecursionError):  # timm's config.json, which says nothing of a model_type, may lie there too
        said = _read(folder / "config.json")
        return not isinstance(said, dict) or said.get("model_type") not in tuple(DUALS)
    return True


def is_open_tokenizer(name: str) -> bool:
    """Whether `name` means a tokenizer of open_clip's: a model's, or one that was written to a folder."""
    return is_open_clip(name) or (Path(name) / OPEN_TOKENIZER).is_file()


def without_weights(name: str) -> str:
    """The name by which a model's tokenizer is known: of a model of open_clip's, its weights are left out."""
    of = OpenName.read(name) if name.startswith(PREFIX) else None
    return f"{PREFIX}{of.model}" if of and of.weights else name


def tokenizer_file(name: str) -> str:
    """The file of a model's tokenizer, written last when it is kept with a snapshot."""
    return OPEN_TOKENIZER if is_open_clip(name) else "tokenizer.json"


def open_files(name: str, others: Any) -> list[Path]:
    """Folders and files that a model of open_clip's is loaded from; empty where one of them is not known without loading it.

    others: the function that gives the same for a name of transformers'. Of weights by a tag, open_clip alone knows the repository.
    """
    try:
        of = OpenName.read(name)
        code = [package() / "version.py"]
        if of.folder:
            code.append(Path(of.folder).absolute())
        elif of.hub:
            if not (found := hub_revision(of.hub, CONFIG)):
                return []
            of, code = replace(of, cached=str(found[0])), code + found
        elif of.weights:
            if not os.path.isfile(of.weights):
                return []
            code.append(Path(of.weights).absolute())
        more = [others(one) for one in of.pretrained]
    except UserError:  # the loader reports it
        return []
    return [*code, *(path for files in more for path in files)] if all(more) else []


def hub_revision(repository: str, *files: str) -> list[Path]:
    """The folder that the hub's cache has of a repository's main branch, or of OWNER/NAME@REVISION, and the file that says which it is.

    Empty where it has none of these files, which may lie in subfolders.
    """
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = repository.partition("@")
    with suppress(ValueError):  # not a valid hub id: the loader reports it
        for file in files:
            found = try_to_load_from_cache(repository, file, revision=revision or None)
            if isinstance(found, str):
                folder = Path(found).parents[file.count("/")]  # CACHE/models--owner--name/snapshots/REVISION: links to the files
                head = folder.parents[1] / "refs" / (revision or "main")
                return [folder.absolute(), head.absolute()] if head.is_file() else [folder.absolute()] if revision else []
    return []


def _fetched(name: str, repository: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, CONFIG))
    except Exception as error:  # no network, no such repository, a name that is none
        raise UserError(f"model {name}: {CONFIG} can't be had from the hub ({one_line(error)[:120]}); {fetch(repository)}") from None


def fetch(repository: str) -> str:
    """What to do where the hub is not reached."""
    folder = f"models/{Path(repository).name}"
    return f"where the hub is reached: hf download {repository} --local-dir {folder}; then give open_clip:{folder}"


def _read(path: Path) -> Any:
    if path.stat().st_size > BYTES:
        raise ValueError(f"larger than {BYTES} bytes")
    return json.loads(path.read_text("utf-8"))


def _wrong(said: Any, key: str = "") -> str:
    """Which value of a config, or of a part of it, can't be; empty if all can."""
    if isinstance(said, dict):
        return next(filter(None, (_wrong(value, name) for name, value in said.items())), "")
    if isinstance(said, list):
        return next(filter(None, (_wrong(value, key) for value in said)), "")
    if isinstance(said, int | float) and not isinstance(said, bool):
        most = LARGEST.get(key, MOST)
        return "" if abs(said) <= most else f"{key}: {said}"  # not so for NaN either
    return ""


def _wrong_names(config: dict[str, Any]) -> str:
    """Which name in a config would lead out of what a model may load, or which way to tokenize is not known here; empty if none."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    hub = r"[\w-][\w.-]*(/[\w-][\w.-]*)?"
    for name, part, form in (("timm_model_name", vision, r"[\w.-]+"), ("hf_model_name", text, hub), ("hf_tokenizer_name", text, hub)):
        if (value := part.get(name)) and not (isinstance(value, str) and re.fullmatch(form, value)):
            return f"{name}: {value!r}"
    if text.get("tokenizer_mode"):
        return f"tokenizer_mode: {text['tokenizer_mode']!r}"
    settings = text.get("tokenizer_kwargs") or {}
    if not isinstance(settings, dict):
        return f"tokenizer_kwargs: {settings!r}"
    wrong = [name for name, value in settings.items() if not isinstance(value, TOKENIZER_SETTINGS.get(name, ()))]
    return f"tokenizer_kwargs: {wrong[0]}={settings[wrong[0]]!r}" if wrong else ""
