"""How far a training is, read from its files; needs no torch."""

from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmatching.settings import Training
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files.safe import all_there, differences

if TYPE_CHECKING:
    from torch import Tensor

UNTRAINED = {"zeroshot": "a matcher of --recipe zeroshot", "converted": "converted weights"}  # by config["training"]["recipe"]


@dataclass
class Progress:
    """How far a training is: the records of its epochs, and the tensors to go on from.

    chosen: of a matcher with closed-form heads, what was chosen for it (xmatching/joined.py); its first record is of epoch 0.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    tensors: "dict[str, Tensor]" = field(default_factory=dict)
    started_at: int = 0
    chosen: dict[str, Any] | None = None

    @property
    def epoch(self) -> int:
        """The last finished epoch."""
        return self.records[-1]["epoch"] if self.records else 0

    @property
    def next(self) -> int:
        """The epoch to go on with: 0 for what was made in closed form, from which a training goes on."""
        return self.epoch + 1 if self.records or not self.chosen else 0

    def described(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config as a snapshot has it: with what was chosen."""
        return {**config, "model": self.chosen["model"], "choice": self.chosen["choice"]} if self.chosen else config

    def last(self, epochs: int) -> int:
        """The epoch that the training ends with, of at most `epochs`."""
        return self.chosen["epochs"] if self.chosen else epochs

    def finished(self, epochs: int) -> bool:
        return bool(self.records) and self.epoch == self.last(epochs)


def require_same(output: Path, header: dict[str, Any], config: dict[str, Any]) -> None:
    """Raise UserError if the training in `output` has other settings than `config`; header: of its training state file."""
    # The values of keys that older files lack.
    unsaid = {**asdict(Training()), "load": None, "other_lines": None, "precision": config["training"]["precision"]}
    unsaid["captions"] = config["training"]["captions"]
    for part, defaults in (("model", snapshots.ModelConfig.unsaid()), ("training", unsaid)):
        changed = differences({**defaults, **header["config"][part]}, config[part])
        if changed:
            raise UserError(f"{output} was trained with other settings ({changed}); choose another --output, or: rm -r {output}")


def require_trained(output: Path) -> None:
    """Raise UserError if `output` holds a matcher that no training has made, which one would overwrite."""
    best = snapshots.tensors_file(output, "BEST")
    made = snapshots.read_header(best).get("training", {}).get("recipe") if best.exists() else None
    if made in UNTRAINED:
        raise UserError(f"{output} holds {UNTRAINED[made]}; choose another --output, or: rm -r {output}")


def require_resume(output: Path, progress: Progress, epochs: int, resume: bool) -> None:
    """Raise UserError for an unfinished run without --resume."""
    if not progress.finished(epochs) and not resume:
        raise UserError(f"{output} holds a run that stopped after epoch {progress.epoch}; add --resume to go on, or: rm -r {output}")


def skipped(output: Path, epochs: int) -> str:
    """The message about a finished training; raises UserError if its best snapshot is missing."""
    all_there(snapshots.training_file(output), snapshots.tensors_file(output, "BEST"))
    return f"skipped: {output} is trained already ({epochs} epochs, same settings)"


def card_missing(output: Path) -> bool:
    return not (output / "README.md").exists()


def curves_missing(output: Path) -> bool:
    """Whether curves.png is missing and can be drawn here."""
    return not (output / "curves.png").exists() and find_spec("matplotlib") is not None
