"""Start from weights on disk: a snapshot, or the BEST.pth of Vokenization and Maria.

Their joint model holds `lang_model` and `visn_model`, each a `backbone` and an `mlp` (Tan & Bansal, EMNLP 2020;
Liang et al., ACL 2021). Their mlp is the head `mlp`, with one hidden layer of 256 (Vokenization) or two of 1024 (Maria).
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmatching.model import Matcher
from xvoken import snapshot as snapshots
from xvoken.messages import UserError, one_line

HEADS = {"lang_model.mlp.": "text_head.layers.", "visn_model.mlp.": "image_head.layers."}
TOWERS = {"lang_model.backbone.": "text_tower", "visn_model.backbone.": "image_tower"}
STATE_DICT_ENDINGS = (".pth", ".pt", ".bin")


def start_from(load: str, matcher: Matcher, model: dict[str, Any]) -> None:
    """Put the weights that `load` names into the matcher; raises UserError where they do not fit.

    A frozen tower is not changed: the file's tower has to be that one, or be trained here.
    """
    if str(load).endswith(STATE_DICT_ENDINGS):
        state = read_state_dict(Path(load))
        _fill(matcher.heads, published_heads(state, load), load)
        _fill_towers(matcher, state, load)
        return
    snapshot = snapshots.read(load)
    saved = {**snapshots.MODEL_DEFAULTS, **snapshot.config["model"]}
    for key in ("head", "dim", "text_width", "image_width", "text_pool", "visn_pool", "level"):
        if saved[key] != model[key]:
            raise UserError(f"--load {load}: its {key} is {saved[key]}, the flags say {model[key]}")
    _fill(matcher.heads, snapshot.tensors, load)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, `module.` of DistributedDataParallel removed; never runs code that a file holds."""
    if not path.is_file():
        raise UserError(f"--load {path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # one kind for pickled classes, others for files of other formats
        raise UserError(
            f"--load {path}: not a state dict of plain tensors ({one_line(error)[:100]}). A pickled model (BEST.pth.model) can run code "
            "when it is read, so it is refused: take BEST.pth beside it, or save model.state_dict() where you trust the file"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"--load {path}: a state dict was expected, tensors by their names; this file holds something else")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def published_heads(state: dict[str, Tensor], load: str) -> dict[str, Tensor]:
    """The heads' tensors under the names used here."""
    heads = {}
    for theirs, ours in HEADS.items():
        found = {ours + name.removeprefix(theirs): tensor for name, tensor in state.items() if name.startswith(theirs)}
        if not found:
            raise UserError(
                f"--load {load}: no {theirs}* in it, as Vokenization and Maria name it; first name: {next(iter(state), 'none')}"
            )
        heads |= found
    return heads


def _fill(module: nn.Module, state: dict[str, Tensor], load: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        sizes = [tuple(t.shape) for name, t in state.items() if name.startswith("text_head") and t.ndim == 2]
        raise UserError(
            f"--load {load}: its heads do not fit --head, --hidden, --hidden-layers, --dim and the towers; those of its text head are "
            f"{', '.join(f'{columns} to {rows}' for rows, columns in sizes)} ({one_line(error)[:120]})"
        ) from None


def _fill_towers(matcher: Matcher, state: dict[str, Tensor], load: str) -> None:
    """Put a trained tower's weights in; names that only theirs has (poolers, position ids) are left out."""
    for prefix, attribute in TOWERS.items():
        tower = getattr(matcher, attribute)
        theirs = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if tower is None or not theirs:
            continue
        own = tower.model.state_dict()
        # A frozen batch normalization, as Vokenization has it, does not count batches.
        theirs |= {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")}
        missing = [name for name in own if name not in theirs or theirs[name].shape != own[name].shape]
        if missing:
            raise UserError(f"--load {load}: its {attribute} is another one ({missing[0]} is missing or of another shape)")
        tower.model.load_state_dict({name: theirs[name] for name in own})
