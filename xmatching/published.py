"""What Vokenization and Maria call their weights, and what such a file says of itself.

Their joint model holds `lang_model` and `visn_model`, each a `backbone` and an `mlp` (xmatching/model.py of each; Tan & Bansal, EMNLP
2020; Liang et al., ACL 2021). Their mlp is the head `mlp`: Vokenization's, with one hidden layer of 256, counts linear maps, activations
and dropout, as ours does (mlp.0, mlp.3); Maria's, with two of 1024, its linear maps only (mlp.linears.0 to 2).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xvoken.encoders.foreign import PICKLED_MODEL, require_file
from xvoken.errors import UserError, one_line

STATE_DICT_ENDINGS = (".pth", ".pt", ".bin")
HEADS = {"text_head.layers.": "lang_model.mlp.", "image_head.layers.": "visn_model.mlp."}
TEXT_TOWER, IMAGE_TOWER = "lang_model.backbone.", "visn_model.backbone."
BUFFERS = ("position_ids", "token_type_ids", "num_batches_tracked")  # that towers have or have not, by the version of their library


@dataclass(frozen=True)
class Project:
    """What one project's code fixes about its heads.

    level: its text model takes a vector a token, or that of [CLS]; first: how the first linear map of a head is called below `mlp.`;
    hidden, hidden_layers, dropout: of the heads, in its classes; max_len: in its scripts/run_xmatching.bash.
    """

    name: str
    level: str
    first: str
    hidden: int
    hidden_layers: int
    dropout: float
    max_len: int

    def layer(self, number: int) -> str:
        """The name below `mlp.` of our layer `number`: 0, 3, 6, as activation and dropout count too."""
        return f"linears.{number // 3}" if self.first == "linears.0" else str(number)


VOKENIZATION = Project("Vokenization", "token", "0", hidden=256, hidden_layers=1, dropout=0.3, max_len=20)
MARIA = Project("Maria", "sentence", "linears.0", hidden=1024, hidden_layers=2, dropout=0.2, max_len=75)
PROJECTS = (VOKENIZATION, MARIA)
# A tensor that tells of a text tower which is none here, below TEXT_TOWER -> the tower (transformers 3.3.0, which Vokenization names).
OTHER_TOWERS = {
    "wte.weight": "GPT-2", "tokens_embed.weight": "GPT", "w.weight": "CTRL", "word_emb.emb_layers.0.weight": "Transformer-XL",
    "word_embedding.weight": "XLNet", "attentions.0.q_lin.weight": "XLM",
}  # fmt: skip


@dataclass(frozen=True)
class Heads:
    """What a file's heads say: whose they are, their sizes, and the sizes of the towers' outputs."""

    project: Project
    text_width: int
    image_width: int
    hidden: int
    hidden_layers: int
    dim: int

    @property
    def flags(self) -> str:
        """The flags of xmatching/main.py for heads of these sizes."""
        return f"--hidden {self.hidden} --hidden-layers {self.hidden_layers} --dim {self.dim}"


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name, `module.` of DistributedDataParallel removed; never runs code that a file holds."""
    require_file(path)
    if path.suffix == ".model":
        raise UserError(f"{path}: {PICKLED_MODEL}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickled classes and files of other formats raise different errors
        if not str(error).startswith("Weights only load failed"):
            size = f"{path.stat().st_size:,} bytes"
            raise UserError(f"{path}: {size} that are no whole file of torch (cut off, or of another kind); copy it again") from None
        raise UserError(f"{path}: not a state dict of plain tensors ({one_line(error)[:100]}). {PICKLED_MODEL}") from None
    if not isinstance(state, dict) or not all(isinstance(name, str) and _is_plain(tensor) for name, tensor in state.items()):
        raise UserError(f"{path}: not a state dict (tensors by their names); save model.state_dict() and give that file")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _is_plain(tensor: object) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def described(state: dict[str, Tensor], load: str) -> Heads:
    """What the file's heads say of themselves; raises UserError for other names, unknown text towers, and numbers not finite."""
    text_head, image_head = HEADS.values()
    found = [project for project in PROJECTS if f"{text_head}{project.first}.weight" in state]
    if not found or not any(name.startswith(image_head) for name in state):
        missing = image_head if found else text_head
        raise UserError(f"{load}: no tensor {missing}*, as Vokenization and Maria name them; its first name is {next(iter(state), 'none')}")
    for name, tower in OTHER_TOWERS.items():
        if TEXT_TOWER + name in state:
            raise UserError(
                f"{load}: its text tower is {tower} ({TEXT_TOWER}{name}), and only BERT, RoBERTa and XLM-RoBERTa are taken over; a "
                "matcher of such a tower is to be trained anew, for example with --lang bert"
            )
    if unread := [name for name in state if not name.startswith((*HEADS.values(), TEXT_TOWER, IMAGE_TOWER))]:
        raise UserError(f"{load}: {unread[0]} is neither of the towers nor of the heads, and their classes have none; it would be left out")
    if bad := [name for name, tensor in state.items() if not tensor.isfinite().all()]:
        raise UserError(f"{load}: {bad[0]} has numbers that are not finite, as a training leaves that has failed; take other weights")
    text, image = (_sizes(state, prefix, found[0], load) for prefix in (text_head, image_head))
    return Heads(found[0], text[0], image[0], text[1], len(text) - 2, text[-1])


def _sizes(state: dict[str, Tensor], prefix: str, project: Project, load: str) -> list[int]:
    """Input, hidden layers and output of a head."""
    names = [f"{prefix}{project.layer(3 * number)}.weight" for number in range(len(state))]
    weights = [state[name] for name in names if name in state]
    if any(weight.ndim != 2 or not weight.is_floating_point() for weight in weights) or len(weights) < 2:
        raise UserError(f"{load}: {prefix}* are not the linear maps of {project.name}'s heads")
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]


def our_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The heads' tensors, of a file that `described` has looked through, under the names used here."""
    return {
        ours + _our_layer(name.removeprefix(theirs)): tensor
        for ours, theirs in HEADS.items()
        for name, tensor in state.items()
        if name.startswith(theirs)
    }


def _our_layer(name: str) -> str:
    """Maria's `linears.1.weight` is our `3.weight`: here the activation and the dropout behind each linear map count too."""
    return re.sub(r"^linears\.(\d+)\.", lambda number: f"{3 * int(number[1])}.", name)


def their_heads(heads: dict[str, Tensor], project: Project) -> dict[str, Tensor]:
    """Our heads' tensors under the project's names."""
    found = {}
    for name, tensor in heads.items():
        side, layers, number, kind = name.split(".")
        found[f"{HEADS[f'{side}.{layers}.']}{project.layer(int(number))}.{kind}"] = tensor
    return found


def tower_of(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one tower, named as in the tower itself; empty where the file holds heads alone."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def put_into(model: Any, theirs: dict[str, Tensor], what: str) -> None:
    """Load a tower of theirs into ours. What it has beyond ours (position ids) is left out, and our counts of batches stay.

    Raises UserError where ours has other tensors; what: names the file and the tower in the message.
    """
    own = model.state_dict()
    # Their frozen batch normalizations have no count of batches: ours is kept.
    theirs = {name: tensor for name, tensor in own.items() if name.endswith("num_batches_tracked")} | theirs
    missing = [name for name in own if name not in theirs or theirs[name].shape != own[name].shape]
    if missing:
        raise UserError(f"{what} is another one than the flags' ({missing[0]} is missing or has another shape)")
    if more := beyond(model, theirs):
        raise UserError(f"{what} is another one than the flags' ({more[0]} is not in that one)")
    model.load_state_dict({name: theirs[name] for name in own})


def beyond(model: Any, theirs: dict[str, Tensor]) -> list[str]:
    """Names of the weights of a tower of theirs that ours lacks, as one with fewer layers does."""
    own = model.state_dict()
    return [name for name in theirs if name not in own and not name.endswith(BUFFERS)]
