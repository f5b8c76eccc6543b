"""Vision models of transformers as image towers: --visn with a hub id or a folder."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xvoken.errors import UserError, one_line
from xvoken.pictures.processed import processor_view
from xvoken.towers.image import load_into, load_state_dict
from xvoken.towers.sources import config_of, require_bounded
from xvoken.towers.states import Layout, StatesTower, grid_of
from xvoken.towers.tokenizer import from_pretrained

# Names of the parameters of class tokens, and of others behind them.
CLASS_TOKENS, MORE_TOKENS = ("cls_token", "class_embedding"), ("distillation_token",)
POOLED_FIRST = ("dinov3_convnext",)  # families whose tokens begin with their pooled map, as if it were a class token


class VisionTower(StatesTower):
    """A vision model of transformers, from safetensors alone; own: its pooler_output.

    Where its files hold no pooler, as those of ViT classifiers, own is the class token, which their classifier takes.
    weights: a file, .safetensors or .pth state dict of the model, instead of its own.
    """

    def __init__(self, name: str, weights: str | None = None, pool: str = "own"):
        model = _loaded(name, weights)
        super().__init__(name, pool, model, _view(name))

    def states(self, pixels: Tensor) -> Any:
        """The model's output."""
        return self.model(pixel_values=pixels)

    def tokens(self, states: Any) -> Tensor | None:
        """last_hidden_state"""
        found = getattr(states, "last_hidden_state", None)
        return found if isinstance(found, Tensor) and found.ndim in (3, 4) else None

    def own(self, states: Any) -> Tensor | None:
        """(B, width)"""
        found = getattr(states, "pooler_output", None)
        if isinstance(found, Tensor):
            return found.flatten(1) if found.ndim == 4 and found.shape[2:] == (1, 1) else found
        tokens = self.tokens(states)
        return tokens[:, 0] if tokens is not None and tokens.ndim == 3 and self._has(CLASS_TOKENS) else None

    def found_layout(self, tokens: Tensor, pixels: Tensor) -> Layout | None:
        """Class token, distillation token and registers are in front; what is left has to be as many as the patches."""
        if tokens.ndim == 4:
            return Layout()
        config, height, width = self.model.config, *pixels.shape[2:]
        has_cls = self._has(CLASS_TOKENS) or config.model_type in POOLED_FIRST
        registers = int(getattr(config, "num_register_tokens", 0) or 0)
        prefix = has_cls + self._has(MORE_TOKENS) + registers
        patch = getattr(config, "patch_size", None)
        down, across = patch if isinstance(patch, list | tuple) and len(patch) == 2 else (patch, patch)
        shapes = [(height // down, width // across)] if isinstance(down, int) and isinstance(across, int) and down * across else []
        grid = grid_of(tokens.shape[1] - prefix, shapes, height == width)
        return Layout(prefix, has_cls, grid) if grid else None

    def _has(self, names: tuple[str, ...]) -> bool:
        """Whether the model has a parameter of one of these names."""
        return any(path.rpartition(".")[2] in names for path, _ in self.model.named_parameters())


def _loaded(name: str, weights: str | None) -> Any:
    """The model in fp32, without a pooler of which there are no weights; raises UserError."""
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging

    if not Path(name).is_dir() and not re.fullmatch(r"\w[\w.-]*/[\w.-]+", name):
        raise UserError(f"--visn {name}: no such folder (a model of the hub is named OWNER/NAME, one of timm timm:NAME)")
    if "architecture" in config_of(name):
        raise UserError(f"--visn {name}: a model of timm; name it timm:{'local-dir' if Path(name).is_dir() else 'hf-hub'}:{name}")
    what, mend = f"--visn {name}", _mend(name)
    logging.set_verbosity_error()
    require_bounded(name, what)
    config = from_pretrained(AutoConfig, name, what, mend)
    if weights:
        model = _made(AutoModel, config, what)
        state = load_state_dict(Path(weights))
        known = model.state_dict()
        _drop_pooler(model, [key for key in known if key not in state], what)
        known = model.state_dict()
        load_into(model, {key: tensor for key, tensor in state.items() if key in known}, f"{what} --visn-weights {weights}")
    else:
        model, found = from_pretrained(
            AutoModel, name, what, mend, config=config, use_safetensors=True, output_loading_info=True, dtype="float32"
        )
        _drop_pooler(model, sorted(found["missing_keys"]), what)
    if model.main_input_name != "pixel_values":
        raise UserError(f"{what}: takes {model.main_input_name}, not pictures alone; take a vision model, or a CLIP model as a whole")
    return model.float().eval().requires_grad_(False)


def _made(loader: Any, config: Any, what: str) -> nn.Module:
    try:
        return loader.from_config(config, dtype="float32", trust_remote_code=False)
    except MemoryError:
        raise
    except Exception as error:  # a config with wrong types can raise anything
        raise UserError(f"{what}: its config describes no model ({one_line(error)[:200]})") from None


def _drop_pooler(model: Any, missing: list[str], what: str) -> None:
    """Take out a pooler whose weights are missing, which would be random; raises UserError where anything else is missing."""
    if others := [key for key in missing if "pooler" not in key.split(".")]:
        raise UserError(f"{what}: its files lack weights ({others[0]}), which would be random; take a whole model")
    for path in {key.split(".pooler.")[0] if ".pooler." in key else "" for key in missing}:
        model.get_submodule(path).pooler = None


def _view(name: str) -> Any:
    from transformers import AutoImageProcessor

    mend = f"its folder needs preprocessor_config.json, which says how pictures become pixels; {_mend(name)}"
    return processor_view(from_pretrained(AutoImageProcessor, name, f"image processor {name}", mend, backend="torchvision"), name)


def _mend(name: str) -> str:
    folder = Path(name)
    if (folder / "pytorch_model.bin").exists() and not (folder / "model.safetensors").exists():
        # Not by AutoModel, which would save a random pooler where there is none.
        load, save = f"torch.load('{name}/pytorch_model.bin', weights_only=True)", f"'{name}/model.safetensors', {{'format': 'pt'}}"
        convert = f"import safetensors.torch, torch; safetensors.torch.save_file({load}, {save})"
        return f'only safetensors are read; convert its pytorch_model.bin once: python -c "{convert}"'
    if folder.is_dir():
        return f"fetch it again: hf download ID --local-dir {name} (config.json, model.safetensors, preprocessor_config.json)"
    return f"where the hub is reached, fetch it: hf download {name} --local-dir models/{folder.name}; then --visn models/{folder.name}"
