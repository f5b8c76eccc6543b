"""Image towers of timm: --visn timm:NAME, for any name that timm.create_model takes."""

import difflib
import logging
import math
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xvoken import commands
from xvoken.errors import UserError, one_line
from xvoken.pictures.framed import FramedView
from xvoken.towers.image import load_into, load_state_dict
from xvoken.towers.sources import require_bounded
from xvoken.towers.states import Layout, StatesTower, grid_of

SCHEME, SOURCES = "timm:", ("hf-hub:", "local-dir:")


class TimmTower(StatesTower):
    """A model of timm without its classifier; own: timm's forward_head(pre_logits=True), what the classifier is given.

    name: with the scheme, timm:vit_base_patch16_224, timm:hf-hub:OWNER/NAME or timm:local-dir:FOLDER. weights: a file, .safetensors or
    .pth state dict, with the classifier or without, instead of the published weights.
    """

    def __init__(self, name: str, weights: str | None = None, pool: str = "own"):
        with _missing_weights() as missing:
            model = _created(name, pretrained=not weights)
        view = _view(model, name)
        _remove_classifier(model)
        _require_whole(model, missing, name)
        if weights:
            known = model.state_dict()
            state = load_state_dict(Path(weights))
            load_into(model, {key: tensor for key, tensor in state.items() if key in known}, f"--visn {name} --visn-weights {weights}")
        super().__init__(name, pool, model, view)

    def states(self, pixels: Tensor) -> Any:
        """What forward_features gives."""
        return self.model.forward_features(pixels)

    def tokens(self, states: Any) -> Tensor | None:
        """Some models give several tensors, or a dict; of those only their own pooling is known."""
        return states if isinstance(states, Tensor) and states.ndim in (3, 4) else None

    def own(self, states: Any) -> Tensor:
        """(B, width)"""
        found = self.model.forward_head(states, pre_logits=True)
        return found.flatten(1) if found.ndim == 4 and found.shape[2:] == (1, 1) else found

    def found_layout(self, tokens: Tensor, pixels: Tensor) -> Layout | None:
        """By the attributes that timm's models have for it."""
        model = self.model
        if tokens.ndim == 4:
            return Layout(last=_channels_last(tokens, model))
        has_cls, prefix = getattr(model, "cls_token", None) is not None, getattr(model, "num_prefix_tokens", None)
        if prefix is None and has_cls or tokens.shape[2] != model.num_features:
            return None
        patches = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        square = pixels.shape[2] == pixels.shape[3]
        grid = grid_of(tokens.shape[1] - (prefix or 0), [patches] if patches else [], square)
        return Layout(prefix or 0, has_cls, grid) if grid else None  # CoaT has a class token of which no attribute tells


def _channels_last(states: Tensor, model: Any) -> bool:
    """Whether a map is (B, h, w, C)."""
    axes = [axis for axis in (1, 3) if states.shape[axis] == model.num_features]
    return axes == [3] or (len(axes) != 1 and getattr(model, "output_fmt", "NCHW") == "NHWC")


class _Missing(logging.Handler):
    """Collects the names of weights that timm reports as missing."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """As logging.Handler.emit."""
        if found := re.match(r"Missing keys \((.*)\) discovered", record.getMessage()):
            self.names += found.group(1).split(", ")


@contextmanager
def _missing_weights() -> Generator[list[str]]:
    """While open, collects the names of weights that a file lacks: where timm does not ask for all, it says so in its log alone."""
    logger, handler = logging.getLogger("timm.models._builder"), _Missing()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield handler.names
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _require_whole(model: Any, missing: list[str], name: str) -> None:
    """Raise UserError for missing weights that would be random; those that begin as one number throughout are the same each time."""
    state = model.state_dict()
    for key in missing:
        if key in state and state[key].numel() and bool((state[key] != state[key].flatten()[0]).any()):
            raise UserError(f"--visn {name}: its files lack weights ({key}), which would be random; take a whole model")


def _created(name: str, pretrained: bool) -> Any:
    """The model, with its classifier, without which timm would not ask for all weights."""
    try:
        import timm
    except ImportError:
        raise UserError(f"--visn {name}: timm is not installed; run: {commands.install('timm')}") from None
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it reports every retry where the hub does not answer
    plain = name.removeprefix(SCHEME)
    _require_known(plain, name, timm)
    try:
        return timm.create_model(plain, pretrained=pretrained).float().eval().requires_grad_(False)
    except MemoryError:
        raise
    except Exception as error:  # a config of a stranger, a damaged file or a hub that does not answer can raise anything
        raise UserError(f"--visn {name}: timm can't make it ({one_line(error)[:120]}); {_mend(plain, timm)}") from None


def _require_known(plain: str, name: str, timm: Any) -> None:
    if ":" in plain:
        if plain.startswith(SOURCES):
            require_bounded(plain.partition(":")[2].partition("@")[0], f"--visn {name}")
            return
        raise UserError(f"--visn {name}: timm takes timm:NAME, timm:hf-hub:OWNER/NAME and timm:local-dir:FOLDER")
    published = timm.list_pretrained()
    if "/" in plain or not timm.is_model(plain):
        close = difflib.get_close_matches(plain.rpartition("/")[2], [*timm.list_models(), *published], 3)
        folder = f"a folder is named timm:local-dir:{plain}, a model of the hub timm:hf-hub:{plain}"
        hint = f"did you mean {' or '.join(SCHEME + one for one in close)}?" if close else "vit_base_patch16_224, for example, is one"
        raise UserError(f"--visn {name}: timm has no such model; {folder if '/' in plain else hint}")
    kind, dot, _ = plain.partition(".")
    tags = [one for one in published if one.partition(".")[0] == kind]
    if dot and plain not in tags:
        raise UserError(f"--visn {name}: timm has no weights of this name; there are {', '.join(tags[:8]) or f'none of {kind}'}")


def _mend(plain: str, timm: Any) -> str:
    """What the user can do where a model can't be made."""
    if plain.startswith("local-dir:"):
        return "its folder needs config.json, as timm writes it, and model.safetensors"
    hub = plain.removeprefix("hf-hub:") if ":" in plain else getattr(timm.models.get_pretrained_cfg(plain), "hf_hub_id", None)
    if not hub:
        return "name a file with its weights: --visn-weights FILE"
    folder = f"models/{Path(hub).name}"
    return (
        f"where the hub is reached, fetch it: hf download {hub} --local-dir {folder}; then --visn {SCHEME}local-dir:{folder}, or name a "
        "file with its weights: --visn-weights FILE"
    )


def _remove_classifier(model: Any) -> None:
    """Replace it by an identity, which `own` does not reach: reset_classifier would set back the pooling of some models."""
    found = model.get_classifier()
    found = found if isinstance(found, list | tuple | nn.ModuleList) else [found]
    classifiers = {getattr(one, "fc", one) for one in found}  # of some models it is the whole head, of which fc is the classifier
    for path, module in list(model.named_modules()):
        if module in classifiers and path:
            owner, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Identity())


def _view(model: Any, name: str) -> FramedView:
    """The view that the pretrained config describes; raises UserError for one that it can't describe."""
    from timm.data import resolve_model_data_config

    try:
        said = resolve_model_data_config(model)
        channels, *size = (int(side) for side in said["input_size"])
        crop, mean, std = float(said["crop_pct"]), *(tuple(float(value) for value in said[key]) for key in ("mean", "std"))
        if channels != 3 or not 0 < crop <= 1:
            raise UserError(f"{channels} colours of crop_pct {crop}; 3, and at most 1, are needed")
        height, width = size
        scaled = math.floor(height / crop), math.floor(width / crop)
        return FramedView(scaled, (height, width), mean, std, said["crop_mode"] or "center", said["interpolation"])
    except (UserError, KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"--visn {name}: no pictures can be made as its config says ({one_line(error)[:160]})") from None
