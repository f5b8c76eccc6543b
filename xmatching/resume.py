"""The state of a training on disk: saved after each epoch, so that a stopped run ends with the same weights.

Order, views, dropout and learning rate of an epoch follow from seed and epoch, so the state is no more than weights, optimizer
and records.
"""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from xmatching.model import Matcher
from xmatching.progress import Progress, require_resume, require_same, require_trained
from xmatching.training import Learner
from xvoken.console import say
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.snapshot import Bank
from xvoken.files.safe import replacing_files, write_lines
from xvoken.records import rsum
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import ImageTower
from xvoken.towers.text import TextTower


def restore(progress: Progress, learner: Learner) -> None:
    """Put the saved weights and optimizer state into the learner, if there are any."""
    if not progress.tensors:
        return
    for part, module in (("model.", learner.whole), ("objective.", learner.objective)):
        found = {n.removeprefix(part): t for n, t in progress.tensors.items() if n.startswith(part)}
        if found:  # what was solved in closed form has no objective before the first epoch
            module.load_state_dict(found)
    optimizer = learner.optimizer
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in progress.tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_progress(output: Path, config: dict[str, Any], resume: bool) -> Progress:
    """Read how far the training in `output` is; raises UserError for other settings, or an unfinished run without --resume."""
    path = snapshots.training_file(output)
    if not path.exists():
        require_trained(output)
        return Progress()
    tensors, header = snapshots.read_tensors(path)
    require_same(output, header, config)
    progress, epochs = Progress(header["records"], tensors, chosen=header.get("chosen")), config["training"]["epochs"]
    progress.started_at = progress.epoch
    if resume and not progress.finished(epochs) and "equal_scores" not in header:
        say(
            f"warning: {output}: the first {progress.epoch} epochs were measured by a version that counted equal scores as hits; where "
            "many scores are equal, their recall is too high, and BEST is chosen among all epochs by the recall as measured"
        )
    require_resume(output, progress, epochs, resume)
    return progress


def save_epoch(
    output: Path, learner: Learner, config: dict[str, Any], progress: Progress, record: dict[str, Any], command: list[str],
    bank: Bank | None = None,
) -> None:  # fmt: skip
    """Write an epoch's snapshot, then the training state, so that the files which the state refers to are whole.

    command: the command line of the run; bank: for the snapshot, see xmatching/joined.py.
    """
    matcher = learner.whole
    best = rsum(record) > max((rsum(r) for r in progress.records), default=-1.0)
    progress.records.append(record)
    quality = {k: record[k] for k in ("images", "captions", "text_to_image", "image_to_text", "chance")}
    described = {**progress.described(config), "epoch": record["epoch"], "validation": quality}
    for tag in ("LAST", "BEST") if best else ("LAST",):
        _save_towers(output, tag, matcher, described)
        snapshots.write(output, tag, described, {**matcher.heads.state_dict(), **(bank.tensors if bank else {})}, command)
    write_lines(snapshots.metrics_file(output), (json.dumps(r) for r in progress.records))
    tensors = {f"model.{name}": tensor for name, tensor in matcher.state_dict().items()}
    tensors |= {f"objective.{name}": tensor for name, tensor in learner.objective.state_dict().items()}
    for number, state in learner.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    header = {"config": config, "records": progress.records, "equal_scores": "random order"}
    header |= {"chosen": progress.chosen} if progress.chosen else {}
    snapshots.write_tensors(snapshots.training_file(output), tensors, header)


def _save_towers(output: Path, tag: str, matcher: Matcher, config: dict[str, Any]) -> None:
    """Write trained towers beside the heads, and put their hashes into the config."""
    if matcher.text_tower:
        save_text_tower(output, tag, matcher.text_tower)
        config["model"] = {**config["model"], "lang_hash": weights_hash(matcher.text_tower)}
    if matcher.image_tower:
        save_image_tower(output, tag, matcher.image_tower)
        config["model"] = {**config["model"], "visn_hash": weights_hash(matcher.image_tower)}


def save_text_tower(output: Path, tag: str, tower: TextTower) -> None:
    """Write a text tower beside the heads, from where a snapshot is loaded with it."""
    with replacing_files(snapshots.text_tower_folder(output, tag)) as folder:
        tower.model.save_pretrained(folder)


def save_image_tower(output: Path, tag: str, tower: ImageTower) -> None:
    """As save_text_tower."""
    snapshots.write_tensors(snapshots.image_tower_file(output, tag), tower.model.state_dict(), {})
