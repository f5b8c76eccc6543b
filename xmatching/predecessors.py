"""Start from weights on disk: a snapshot, or the BEST.pth of Vokenization and Maria.

Their joint model holds `lang_model` and `visn_model`, each a `backbone` and an `mlp` (Tan & Bansal, EMNLP 2020;
Liang et al., ACL 2021). Their mlp is the head `mlp`: Vokenization's, with one hidden layer of 256, counts linear maps,
activations and dropout, as ours does (mlp.0, mlp.3); Maria's, with two of 1024, its linear maps only (mlp.linears.0 to 2).
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from xmatching.model import Matcher
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.snapshot import ModelConfig
from xvoken.encoders.text import TextTower, weights_hash
from xvoken.errors import UserError, one_line

# Names of the predecessors -> ours.
PUBLISHED_HEADS = {"lang_model.mlp.": "text_head.layers.", "visn_model.mlp.": "image_head.layers."}
PUBLISHED_TOWERS = {"lang_model.backbone.": ("text_tower", "lang"), "visn_model.backbone.": ("image_tower", "visn")}
# Fields that must be equal in the snapshot and in the flags; other sizes are checked when the tensors are loaded.
MUST_FIT = ("head", "dim", "text_width", "image_width", "lang_layers", "text_pool", "visn_pool", "level")
STATE_DICT_ENDINGS = (".pth", ".pt", ".bin")


def start_from(load: str, matcher: Matcher, model: ModelConfig, towers: dict[str, nn.Module] | None = None) -> None:
    """Put the weights that `load` names into the matcher; raises UserError where they do not fit.

    A frozen tower is not changed: it must be the one that the heads were trained on. model: the config that the flags give;
    towers: both towers by their names in the matcher; those that are frozen are compared with the towers of a state dict.
    """
    if str(load).endswith(STATE_DICT_ENDINGS):
        state = read_state_dict(Path(load))
        _fill(matcher.heads, published_heads(state, load), load)
        _fill_towers(matcher, towers or {}, state, load)
        return
    snapshot = snapshots.read(load)
    for key in MUST_FIT:
        if (saved := getattr(snapshot.model, key)) != (given := getattr(model, key)):
            raise UserError(f"--load {load}: its {key} is {saved}, the flags say {given}")
    _fill(matcher.heads, snapshot.tensors, load)
    _take_towers(snapshot, matcher, model, load)


def _take_towers(snapshot: snapshots.Snapshot, matcher: Matcher, model: ModelConfig, load: str) -> None:
    """Load the towers that are trained both here and in the snapshot; raises UserError for one that the heads were not trained on."""
    text, image = (place(snapshot.folder, snapshot.tag) for place in (snapshots.text_tower_folder, snapshots.image_tower_file))
    if matcher.text_tower and text.exists():
        trained = TextTower(str(text), matcher.text_tower.layers).model.state_dict()
        _load_tower(matcher.text_tower, trained, "text_tower", load)
    if matcher.image_tower and image.exists():
        _load_tower(matcher.image_tower, snapshots.read_tensors(image)[0], "image_tower", load)
    saved = snapshot.model
    as_it_is = f"--lang {text}, after: cp {snapshots.tokenizer_folder(snapshot.folder)}/* {text}/"
    weights = f" --visn-weights {saved.visn_weights}" if saved.visn_weights else ""
    for flag, tower, path, frozen, published in (
        ("lang", matcher.text_tower, text, as_it_is, f"--lang {saved.lang}"),
        ("visn", matcher.image_tower, image, f"--visn-weights {image}", f"--visn {saved.visn}{weights}"),
    ):
        expected, found = getattr(saved, f"{flag}_hash"), weights_hash(tower) if tower else getattr(model, f"{flag}_hash")
        if found != expected:
            mend = f"go on training it with --{flag}-finetune, or freeze it: {frozen}" if path.exists() else f"give theirs: {published}"
            raise UserError(
                f"--load {load}: its heads were trained on another --{flag} tower ({getattr(saved, flag)}, {expected}) than the one here "
                f"({getattr(model, flag)}, {found}); {mend}"
            )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, `module.` of DistributedDataParallel removed; never runs code that a file holds."""
    if not path.is_file():
        raise UserError(f"--load {path}: no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickled classes and files of other formats raise different errors
        raise UserError(
            f"--load {path}: not a state dict of plain tensors ({one_line(error)[:100]}). A pickled model (BEST.pth.model) can run code "
            "when it is read, so it is refused: take BEST.pth beside it, or save model.state_dict() where you trust the file"
        ) from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"--load {path}: not a state dict (tensors by their names); save model.state_dict() and give that file")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def published_heads(state: dict[str, Tensor], load: str) -> dict[str, Tensor]:
    """The heads' tensors under the names used here."""
    heads = {}
    for theirs, ours in PUBLISHED_HEADS.items():
        found = {ours + _layer(name.removeprefix(theirs)): tensor for name, tensor in state.items() if name.startswith(theirs)}
        if not found:
            raise UserError(
                f"--load {load}: no tensor {theirs}*, as Vokenization and Maria name them; its first name is {next(iter(state), 'none')}"
            )
        heads |= found
    return heads


def _layer(name: str) -> str:
    """Maria's `linears.1.weight` is our `3.weight`: here the activation and the dropout behind each linear map count too."""
    return re.sub(r"^linears\.(\d)\.", lambda number: f"{3 * int(number[1])}.", name)


def _fill(module: nn.Module, state: dict[str, Tensor], load: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        sizes = [tuple(t.shape) for name, t in sorted(state.items()) if name.startswith("text_head") and t.ndim == 2]
        raise UserError(
            f"--load {load}: its heads do not fit --head, --hidden, --hidden-layers, --dim and the towers; its text head's layers map "
            f"{', '.join(f'{columns} to {rows}' for rows, columns in sizes)} ({one_line(error)[:120]})"
        ) from None


def _fill_towers(matcher: Matcher, frozen: dict[str, nn.Module], state: dict[str, Tensor], load: str) -> None:
    """Load trained towers, compare frozen ones with the state dict's; tensors that only one has (poolers, position ids) are ignored."""
    for prefix, (attribute, flag) in PUBLISHED_TOWERS.items():
        tower = getattr(matcher, attribute)
        theirs = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        if tower and theirs:
            _load_tower(tower, theirs, attribute, load)
        elif attribute in frozen and (name := _differing(frozen[attribute].model.state_dict(), theirs)):
            raise UserError(
                f"--load {load}: its heads were trained on another {attribute} ({name} differs); give that tower as --{flag}, or train it "
                f"here: --{flag}-finetune"
            )


def _differing(own: dict[str, Tensor], theirs: dict[str, Tensor]) -> str | None:
    """The first name whose tensors differ by more than rounding to 16 bits does; None if there is none."""
    for name in [name for name in theirs if name in own and not name.endswith("num_batches_tracked")]:
        ours, other = own[name], theirs[name]
        if ours.shape != other.shape or not torch.allclose(ours.float(), other.float(), rtol=1e-3, atol=1e-6):
            return name
    return None


def _load_tower(tower: nn.Module, theirs: dict[str, Tensor], attribute: str, load: str) -> None:
    own = tower.model.state_dict()
    # Vokenization's frozen batch normalizations have no count of batches: ours is kept.
    theirs = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")} | theirs
    missing = [name for name in own if name not in theirs or theirs[name].shape != own[name].shape]
    if missing:
        raise UserError(f"--load {load}: its {attribute} is another one than the flags' ({missing[0]} is missing or has another shape)")
    tower.model.load_state_dict({name: theirs[name] for name in own})
