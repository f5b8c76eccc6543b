"""The choices of a training by name, in tables like those of xvoken/kinds.py: an entry's code is imported only when it is used."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Loss:
    """A function of xmatching/loss.py, and the knobs it takes besides text, image and owner.

    Knobs: margin (--margin), hardest (whether the warm-up of --hinge-warmup epochs is over), scale (the inverse of a temperature that
    is learned and starts at --temperature), bias (learned too). by_token: the function of this loss for --level token, if it has one;
    it takes the mask after the text, and the same knobs.
    """

    function: str
    knobs: tuple[str, ...]
    by_token: str | None = None


LOSSES = {
    "paired_hinge": Loss("xmatching.loss:paired_hinge", ("margin",), by_token="xmatching.loss:token_hinge"),
    "summed_hinge": Loss("xmatching.loss:summed_hinge", ("margin",)),
    "hardest_hinge": Loss("xmatching.loss:hardest_hinge", ("margin", "hardest")),
    "infonce": Loss("xmatching.loss:infonce", ("scale",)),
    "sigmoid": Loss("xmatching.loss:sigmoid", ("scale", "bias")),
}
OPTIMIZERS = {
    "adam": "torch.optim:Adam", "adamw": "torch.optim:AdamW", "sgd": "torch.optim:SGD", "adamax": "torch.optim:Adamax",
    "rms": "torch.optim:RMSprop",
    "bert": "torch.optim:AdamW",  # decays neither biases nor the weights of layer normalizations: xmatching/training.py
}  # fmt: skip
# Step (from 0), number of steps, share of them in which the rate rises -> factor on the learning rates.
SCHEDULES = {"constant": "xmatching.settings:constant", "cosine": "xmatching.settings:cosine", "linear": "xmatching.settings:linear"}
# Folder of the snapshot and config -> a tracker, see xmatching/report.py.
REPORTS = {
    "none": "xmatching.report:Tracker",
    "tensorboard": "xmatching.report:TensorBoard",
    "wandb": "xmatching.report:WandB",
    "trackio": "xmatching.report:Trackio",
}
LEVELS = ("sentence", "token")


def losses_with(knob: str) -> str:
    """The losses that have a knob, for help texts."""
    return ", ".join(name for name, loss in LOSSES.items() if knob in loss.knobs)


def losses_by_token() -> list[str]:
    return [name for name, loss in LOSSES.items() if loss.by_token]
