"""Start from weights on disk: a snapshot, or the BEST.pth of Vokenization and Maria (xmatching/published.py)."""

from pathlib import Path

import torch
from torch import Tensor, nn

from xmatching.model import Matcher
from xmatching.published import (
    IMAGE_TOWER,
    STATE_DICT_ENDINGS,
    TEXT_TOWER,
    Project,
    described,
    our_heads,
    put_into,
    read_state_dict,
    tower_of,
)
from xvoken import commands
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.foreign import snapshot_of
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError, one_line
from xvoken.towers.hashes import weights_hash
from xvoken.towers.text import TextTower

TOWERS = {TEXT_TOWER: ("text_tower", "lang"), IMAGE_TOWER: ("image_tower", "visn")}
# Fields that must be equal in the snapshot and in the flags; other sizes are checked when the tensors are loaded.
MUST_FIT = ("head", "dim", "text_width", "image_width", "lang_layers", "text_pool", "lang_prompt", "visn_pool", "level")


def start_from(
    load: str, matcher: Matcher, model: ModelConfig, towers: dict[str, nn.Module] | None = None, level_given: bool = True
) -> None:
    """Put the weights that `load` names into the matcher; raises UserError where they do not fit.

    A frozen tower is not changed: it must be the one that the heads were trained on. model: the config that the flags give;
    towers: both towers by their names in the matcher; those that are frozen are compared with the towers of a state dict.
    level_given: whether model.level was asked for; if not, a state dict's heads must be of that level.
    """
    if str(load).endswith(STATE_DICT_ENDINGS):
        state = read_state_dict(Path(load))
        heads = described(state, load)
        _require_level(heads.project, model, level_given, load)
        sizes = f"; they are {heads.flags}, of text towers with {heads.text_width} numbers and image towers with {heads.image_width}"
        _fill(matcher.heads, our_heads(state), load, sizes)
        _fill_towers(matcher, towers or {}, state, load)
        return
    snapshot = snapshots.read(load)
    for key in MUST_FIT:
        if (saved := getattr(snapshot.model, key)) != (given := getattr(model, key)):
            raise UserError(f"--load {load}: its {key} is {saved}, the flags say {given}")
    _fill(matcher.heads, snapshot.tensors, load)
    _take_towers(snapshot, matcher, model, load)


def _require_level(project: Project, model: ModelConfig, given: bool, load: str) -> None:
    if not given and project.level != model.level:
        raise UserError(
            f"--load {load}: its text head is {project.name}'s, trained for every token by itself; give --level {project.level} "
            f"--max-len {project.max_len} (as its scripts do), or --level {model.level} to take it for whole captions"
        )


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


def _fill(module: nn.Module, state: dict[str, Tensor], load: str, sizes: str = "") -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"--load {load}: its heads do not fit --head, --hidden, --hidden-layers, --dim and the towers{sizes} ({one_line(error)[:120]})"
        ) from None


def _fill_towers(matcher: Matcher, frozen: dict[str, nn.Module], state: dict[str, Tensor], load: str) -> None:
    """Load trained towers, compare frozen ones with the state dict's; tensors that only one has (poolers, position ids) are ignored."""
    for prefix, (attribute, flag) in TOWERS.items():
        tower = getattr(matcher, attribute)
        theirs = tower_of(state, prefix)
        if tower and theirs:
            _load_tower(tower, theirs, attribute, load)
        elif attribute in frozen and (name := _differing(frozen[attribute].model.state_dict(), theirs)):
            raise UserError(
                f"--load {load}: its heads were trained on another {attribute} ({name} differs); give that tower as --{flag}, train it "
                f"here: --{flag}-finetune, or make a snapshot that has both: {commands.convert(load, snapshot_of(Path(load)))}"
            )


def _differing(own: dict[str, Tensor], theirs: dict[str, Tensor]) -> str | None:
    """The first name whose tensors differ by more than rounding to 16 bits does; None if there is none."""
    for name in [name for name in theirs if name in own and not name.endswith("num_batches_tracked")]:
        ours, other = own[name], theirs[name]
        if ours.shape != other.shape or not torch.allclose(ours.float(), other.float(), rtol=1e-3, atol=1e-6):
            return name
    return None


def _load_tower(tower: nn.Module, theirs: dict[str, Tensor], attribute: str, load: str) -> None:
    put_into(tower.model, theirs, f"--load {load}: its {attribute}")
