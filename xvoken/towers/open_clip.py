"""open_clip's models as dual encoders, see xvoken/towers/dual.py; their names are in xvoken/towers/open_names.py.

Features are the towers' outputs before a plain projection, where a tower ends in one (its vision and text transformers), as CLIP's of
transformers are; else what encode_image and encode_text give, in the joint space (Ilharco et al., 2021, doi 10.5281/zenodo.5143773).
"""

import importlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xvoken.errors import UserError, one_line
from xvoken.pictures.open_view import open_clip_view
from xvoken.towers.dual import Dual
from xvoken.towers.hashes import name_settings, weights_hash
from xvoken.towers.open_names import OpenName, fetch, package
from xvoken.towers.open_tokenizer import OpenTokenizer, open_clip, silently, tokenizer_of
from xvoken.towers.siglip2 import require_right_padding
from xvoken.towers.sources import config_of, text_files
from xvoken.towers.text import at
from xvoken.towers.tokenizer import vocabulary_size

# In this order, safetensors first; as open_clip's own, but for transformers' model.safetensors, which may lie beside its .bin.
WEIGHTS = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_pytorch_model.pth",
    "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
ENDINGS = (".safetensors", ".bin", ".pth", ".pt")  # files of tensors; the others of a torch file are refused by weights_only


class OpenImageTower(nn.Module):
    """The vision tower; width: size of its output; view: its preprocessing."""

    def __init__(self, name: str, model: Any, width: int):
        super().__init__()
        self.name, self.model, self.width = name, model, width
        self.view = open_clip_view(model.preprocess_cfg, name)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: uint8 (B, 3, H, W) -> (B, width)"""
        return _vector(self.model(self.view.normalize(pixels)), self.name)


class OpenTextTower(nn.Module):
    """The text tower; width: size of its output; max_tokens: the longest input, special tokens counted in.

    fixed_length: whether every input is padded to max_tokens, as open_clip pads all. A tower that reads from left to right and takes
    the state of the end token does without: nothing behind it is looked at.
    """

    prompt = ""

    def __init__(self, name: str, model: Any, tokenizer: OpenTokenizer, width: int):
        super().__init__()
        self.name, self.model, self.width, self.max_tokens = name, model, width, tokenizer.context_length
        self.causal = _pools_at_the_end(model, tokenizer)
        self.fixed_length = not self.causal and not _masks_padding(model, tokenizer)

    @property
    def fp32_parts(self) -> list[nn.Module]:
        """The first block, by whose weights open_clip chooses the precision of the embeddings before it."""
        blocks = getattr(getattr(self.model, "transformer", None), "resblocks", [])
        return [] if self.causal else list(blocks[:1])

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """ids, mask: int64 (B, T) -> (B, width)"""
        model: Any = self.model
        if not self.causal:
            return _vector(model(ids), self.name)
        length = ids.shape[1]  # as TextTransformer.forward, which takes its whole length alone
        states = model.token_embedding(ids) + model.positional_embedding[:length]
        states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask[:length, :length]))
        ends = ids.argmax(1) if model.pool_type == "argmax" else (ids == model.eos_id).int().argmax(1)
        return at(states, ends)


def _vector(found: Any, name: str) -> Tensor:
    found = found[0] if isinstance(found, tuple) else found  # a CoCa gives its tokens too
    if found.ndim != 2:
        raise UserError(f"model {name}: a tower of it gives no vector, but {tuple(found.shape[1:])} numbers; its config has no pooling")
    return found


def _pools_at_the_end(model: Any, tokenizer: OpenTokenizer) -> bool:
    """Whether the tower takes the state of the end token, and this token looks at nothing behind it."""
    if getattr(model, "cls_emb", None) is not None or getattr(model, "attn_mask", None) is None or model.text_projection is not None:
        return False
    last = tokenizer("a")["input_ids"][-1]
    return model.pool_type == "argmax" and last == vocabulary_size(tokenizer) - 1 or model.pool_type == "eos" and last == model.eos_id


def _masks_padding(model: Any, tokenizer: OpenTokenizer) -> bool:
    """Whether it is a tower of transformers', which is told what padding is, by its id."""
    config = getattr(model, "config", None)
    return config is not None and config.pad_token_id is not None and config.pad_token_id == tokenizer.pad_token_id


def load_open_clip(name: str) -> Dual:
    """Load a model of open_clip's by any of its names; raises UserError."""
    of = OpenName.read(name)
    _require_plain(of)
    tokenizer = tokenizer_of(of)
    with silently():
        library = open_clip()
        weights = _weights(of, library)
        model = _loaded(of, library, weights)
    text, image = model.text, model.visual
    _require_vocabulary(text, tokenizer, name)
    dim = _dim(of)
    _name_settings(of, model)
    found = weights_hash(model)
    text_projection, image_projection = _taken(text, "text_projection"), _taken(image, "proj")
    text_width, image_width = (dim if one is None else one.in_features for one in (text_projection, image_projection))
    tower = OpenTextTower(name, text, tokenizer, text_width)
    if tower.fixed_length:
        require_right_padding(tokenizer, name)
    return Dual(
        tower, OpenImageTower(name, image, image_width), text_projection, image_projection, dim, tokenizer, found,
        files=tuple(_files(of, weights)),
    )  # fmt: skip


def _name_settings(of: OpenName, model: Any) -> None:
    """An edited config, or another model with the same file of weights, makes other vectors of the same tensors."""
    quick = {"quick_gelu": bool(of.config.get("quick_gelu", False))}
    name_settings(model.text, {**quick, **of.config["text_cfg"]})
    seen = asdict(open_clip_view(model.visual.preprocess_cfg, of.name))
    name_settings(model.visual, {**quick, **of.config["vision_cfg"], "pixels": seen})


def _files(of: OpenName, weights: Path) -> list[Path]:
    """What it was loaded from, weights by a tag too, whose place open_clip alone knows beforehand; empty where a part is not known."""
    main = weights.parents[2] / "refs" / "main" if len(weights.parents) > 2 else weights
    found = [[package() / "version.py"], [weights.parent, main] if main.is_file() else [weights], *map(text_files, of.pretrained)]
    return [path for files in found for path in files] if all(found) else []


def _dim(of: OpenName) -> int:
    found = of.config.get("embed_dim")
    if type(found) is not int or found < 1:
        raise UserError(f"model {of.name}: its config has no size of the joint space (embed_dim: {found!r})")
    return found


def _require_plain(of: OpenName) -> None:
    """Raise UserError for a text tower of transformers' that has code of its own, which open_clip would ask at the terminal to run."""
    if (name := of.config["text_cfg"].get("hf_model_name")) and "auto_map" in config_of(name):
        raise UserError(f"model {of.name}: its text tower {name} needs Python code of its own (auto_map), which is never run here")


def _weights(of: OpenName, library: Any) -> Path:
    """The file of the weights; raises UserError where there is none."""
    if of.folder:
        return _in_folder(Path(of.folder))
    if of.hub:
        pretrained = importlib.import_module("open_clip.pretrained")
        return _downloaded(of, of.hub, lambda: pretrained.download_pretrained_from_hf(of.hub))
    if os.path.isfile(of.weights):
        return _of_tensors(Path(of.weights))
    tags = library.list_pretrained_tags_by_model(of.model)
    said = library.get_pretrained_cfg(of.model, of.weights) if of.weights else {}
    if not said:
        there = f"open_clip:{of.model}/TAG with one of: {', '.join(tags)}; or" if tags else "no tag has weights of it;"
        raise UserError(f"{of.name}: {of.weights or 'no weights'} is neither a tag of {of.model} nor a file; {there} give a file")
    _require_activation(of, library, said)
    repository = os.path.dirname(said.get("hf_hub", "")) or "REPOSITORY"
    return _downloaded(of, repository, lambda: library.download_pretrained(said))


def _in_folder(folder: Path) -> Path:
    there = [folder / name for name in WEIGHTS if (folder / name).is_file()] or sorted(folder.glob("*.safetensors"))
    if len(there) == 1 or (there and there[0].name in WEIGHTS):
        return _of_tensors(there[0])
    many = f"several files, {', '.join(path.name for path in there)}" if there else "no file"
    raise UserError(f"model {folder}: {many} of weights in it; name one open_clip_model.safetensors, or fetch it again: hf download ID")


def _of_tensors(path: Path) -> Path:
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: weights of open_clip's are read from {', '.join(ENDINGS)} alone")
    return path


def _downloaded(of: OpenName, repository: str, download: Any) -> Path:
    try:
        path = Path(download())
    except MemoryError:
        raise
    except Exception as error:  # no network, a repository without weights
        raise UserError(f"model {of.name}: its weights can't be had from the hub ({one_line(error)[:120]}); {fetch(repository)}") from None
    return _of_tensors(path)


def _require_activation(of: OpenName, library: Any, said: dict[str, Any]) -> None:
    """Raise UserError for weights that were trained with another activation than the model has; open_clip computes, and warns."""
    if (quick := bool(said.get("quick_gelu", False))) != bool(of.config.get("quick_gelu", False)):
        other = f"{of.model}-quickgelu" if quick else of.model.removesuffix("-quickgelu")
        mend = f"take open_clip:{other}/{of.weights}" if library.get_pretrained_cfg(other, of.weights) else "take other weights"
        raise UserError(f"{of.name}: these weights were trained with {'QuickGELU' if quick else 'GELU'}, which {of.model} has not; {mend}")


def _loaded(of: OpenName, library: Any, weights: Path) -> Any:
    """The model, as CustomTextCLIP or CoCa, in fp32 on the CPU; raises UserError where its config and its weights do not go together."""
    # A built-in model with a tag takes its preprocessing from the tag. No part is fetched: the weights are whole.
    tag = of.weights if of.model and library.get_pretrained_cfg(of.model, of.weights) else None
    plain: dict[str, Any] = {
        "model_name": of.library, "pretrained": tag, "load_weights": False, "pretrained_text": False, "force_custom_text": True,
    }  # fmt: skip
    factory = importlib.import_module("open_clip.factory")
    try:
        with torch.device("meta"):
            described = sum(one.numel() for one in library.create_model(**plain, device="meta").state_dict().values())
        if described > weights.stat().st_size:  # before any memory is taken: there is no weight of less than a byte
            raise ValueError(f"the config describes {described:,} numbers, more than {weights.name} can hold")
        model = library.create_model(**plain)
        factory.load_checkpoint(model, str(weights), strict=True, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a config with wrong types or a file of another model can raise anything
        raise UserError(f"model {of.name}: can't be loaded from {weights} ({one_line(error)[:200]}); is it the model's own file?") from None
    return model.float().eval().requires_grad_(False)


def _taken(tower: Any, name: str) -> nn.Linear | None:
    """The tower's last projection, a matrix that is multiplied from the right, out of the tower; None where it has none.

    One with a bias, as SigLIP's, is left in it.
    """
    found = getattr(tower, name, None)
    if not isinstance(found, nn.Parameter):
        return None
    setattr(tower, name, None)
    made = nn.Linear(*found.shape, bias=False).requires_grad_(False)
    made.weight.copy_(found.T)
    return made


def _require_vocabulary(text: Any, tokenizer: OpenTokenizer, name: str) -> None:
    """Raise UserError for a tokenizer with more words than the tower knows; tokens that no text is made of may be beyond."""
    added = set() if tokenizer.inner is None else set(tokenizer.inner.get_added_vocab())
    largest = max(index for token, index in tokenizer.get_vocab().items() if token not in added)
    ends = tokenizer("a")["input_ids"]
    if max(largest, *ends) >= text.vocab_size:
        raise UserError(f"model {name}: its text tower knows {text.vocab_size} tokens, fewer than its tokenizer has ({largest + 1})")
    length = getattr(text, "context_length", tokenizer.context_length)
    if tokenizer.context_length < 3 or length < tokenizer.context_length:
        raise UserError(f"model {name}: its text tower takes {length} tokens, its tokenizer makes {tokenizer.context_length}")
