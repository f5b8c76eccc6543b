"""The reports of a training: one line per epoch, metrics for the usual trackers, curves, and the model's card."""

import json
import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from xmatching.kinds import REPORTS
from xvoken import commands
from xvoken.console import say
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError, one_line
from xvoken.files.safe import replacing, write_text
from xvoken.kinds import made_by
from xvoken.records import TOP, table

CHOSEN = ("ridge", "power", "directions", "epochs", "hubness")  # of what xmatching/joined.py chooses, for the card


class Tracker:
    """A receiver of each epoch's numbers, an entry of REPORTS; this base class drops them.

    It is made before a training starts, so that a missing package stops it at once.
    """

    def __init__(self, output: Path, config: dict[str, Any]):
        """output: folder of the snapshot; raises ImportError"""

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        """One epoch's numbers, nested names joined with a slash."""

    def close(self) -> None: ...


class TensorBoard(Tracker):
    def __init__(self, output: Path, config: dict[str, Any]):
        from torch.utils.tensorboard import SummaryWriter

        self.run = SummaryWriter(str(output / "tensorboard"))

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        for name, value in numbers.items():
            self.run.add_scalar(name, value, epoch)

    def close(self) -> None:
        self.run.close()


class WandB(Tracker):
    def __init__(self, output: Path, config: dict[str, Any]):
        import wandb

        self.run = wandb.init(project="xvoken", name=output.name, config=config, dir=str(output), id=output.name, resume="allow")

    def log(self, numbers: dict[str, float], epoch: int) -> None:
        self.run.log(numbers, step=epoch)

    def close(self) -> None:
        self.run.finish()


class Trackio(WandB):
    """trackio's runs have the same methods as wandb's."""

    def __init__(self, output: Path, config: dict[str, Any]):
        import trackio

        self.run = trackio.init(project="xvoken", name=output.name, config=config, resume="allow")


class Reporter:
    """Sends each epoch's record to the tracker of --report-to; raises UserError if the tracker's package is not installed."""

    def __init__(self, to: str, output: Path, config: dict[str, Any]):
        try:
            self.tracker: Tracker = made_by(REPORTS[to])(output, config)
        except ImportError as error:
            mend = commands.install("report") if to == "tensorboard" else f"pip install {to}"
            raise UserError(f"--report-to {to}: not installed ({one_line(error)}); run: {mend}, or --report-to none") from None

    def log(self, record: dict[str, Any]) -> None:
        self.tracker.log(dict(_flat(record)), record["epoch"])

    def close(self) -> None:
        self.tracker.close()


def _flat(record: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    for name, value in record.items():
        if name != "chance":
            rows += _flat(value, f"{prefix}{name}/") if isinstance(value, dict) else [(prefix + name, value)]
    return [(name, value) for name, value in rows if value is not None]  # what was solved in closed form has no loss


def epoch_line(record: dict[str, Any], epochs: int, left: float) -> str:
    found, backward = record["text_to_image"], record["image_to_text"]
    loss = "" if record["loss"] is None else f"loss {record['loss']:.4f}  "  # epoch 0 is what was solved in closed form
    return (
        f"epoch {record['epoch']}/{epochs}  {loss}text to image R@1/5/10 {found['R1']:.1f}/{found['R5']:.1f}/"
        f"{found['R10']:.1f} (chance {record['chance']['text_to_image']['R1']:.2f}/{record['chance']['text_to_image']['R5']:.2f}/"
        f"{record['chance']['text_to_image']['R10']:.2f})  image to text {backward['R1']:.1f}/{backward['R5']:.1f}/{backward['R10']:.1f}  "
        f"{record['pairs_per_second']:,} pairs/s  {timedelta(seconds=round(left))} left"
    )


def draw_curves(path: Path, records: list[dict[str, Any]]) -> bool:
    """Loss, recall and learning rate over the epochs as a picture; False if matplotlib is not installed."""
    try:
        import matplotlib
    except ImportError:
        say(f"no {path.name}: matplotlib is not installed ({commands.install('report')})")
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [record["epoch"] for record in records]
    figure, (loss, recall, rate) = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    loss.plot(epochs, [math.nan if record["loss"] is None else record["loss"] for record in records])
    loss.set_title("training loss")
    for k in TOP:
        for direction, style in (("text_to_image", "-"), ("image_to_text", "--")):
            label = f"R@{k}, {direction.replace('_', ' ')}"
            recall.plot(epochs, [record[direction][f"R{k}"] for record in records], style, color=f"C{TOP.index(k)}", label=label)
    recall.set_title("recall on the validation gallery, %")
    recall.set_ylim(bottom=0)
    recall.legend(fontsize="x-small")
    rate.plot(epochs, [record["lr"] for record in records])
    rate.set_title("learning rate of the heads")
    for axis in (loss, recall, rate):
        axis.set_xlabel("epoch")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    return True


def write_card(path: Path, name: str, config: dict[str, Any], recipe: str, best: dict[str, Any]) -> None:
    """README.md of a trained snapshot: data, recipe, recall, date, versions. Front matter as model hubs read it."""
    model, training, chosen = ModelConfig.read(config["model"]), config["training"], config.get("choice")
    data = "".join(f"| {key} | {facts['images']:,} | {facts['captions']:,} |\n" for key, facts in training["data"].items())
    rows = {**training, **(chosen and {f"{name}, as taken": chosen[name] for name in CHOSEN} or {})}
    options = "".join(f"| {key} | {value} |\n" for key, value in rows.items() if key != "data")
    heads = ", ".join(f"{key} {getattr(model, key)}" for key in ("head", "hidden", "dim", "dropout"))
    if chosen:
        heads = ", ".join(f"{name} with weight {weight:g}" for name, weight in chosen["weights"].items()) + f"; dim {model.dim}"
    write_text(
        path,
        f"""{_about(name, model, f"{heads}; level {model.level}", f"{recipe}; best epoch {best['epoch']} of {training['epochs']}")}
## Recall on the validation gallery, in percent
```
{table(best)}
```
The epoch was chosen on this gallery; for a figure to report, take pictures that were not used for that.

## Data (training and validation)
| set | pictures | captions |
| --- | ---: | ---: |
{data}
## Settings
| setting | value |
| --- | --- |
{options}""",
    )


def write_zeroshot_card(path: Path, name: str, model: ModelConfig) -> None:
    """README.md of a snapshot of --recipe zeroshot."""
    heads = f"none trained; a picture is the mean of the names of its likeliest classes, of {model.classes:,}"
    write_text(path, _about(name, model, heads, "zeroshot: no training, no captions"))


def write_converted_card(path: Path, name: str, model: ModelConfig, project: str) -> None:
    """README.md of a snapshot of another project's weights."""
    heads = ", ".join(f"{key} {getattr(model, key)}" for key in ("head", "hidden", "hidden_layers", "dim", "dropout"))
    write_text(path, _about(name, model, f"{heads}; level {model.level}", f"weights of {project}, converted"))


def _towers(model: ModelConfig) -> str:
    """The lines of a card about the towers; a dual encoder's have neither layers nor poolings to choose from."""
    longest = f"at most {model.max_len} tokens"
    if not model.lang_layers and model.lang == model.visn:
        own = next((part.weight / sum(one.weight for one in model.joined) for part in model.joined if part.head == "own"), 0.0)
        return f"- Both towers: {model.lang}, a dual encoder, {longest}; {own:.0%} of a score is its own, the rest was learnt"
    taken = f"layers {model.lang_layers} from the last, pooling {model.text_pool}" if model.lang_layers else "of a dual encoder"
    prompt = f", behind the prompt {json.dumps(model.lang_prompt, ensure_ascii=False)}" if model.lang_prompt else ""
    return f"- Text tower: {model.lang}, {taken}, {longest}{prompt}\n- Image tower: {model.visn}, pooling {model.visn_pool}"


def _about(name: str, model: ModelConfig, heads: str, recipe: str) -> str:
    """The part of a card that tells what the matcher is and how to use it."""
    import torch
    import torchvision
    import transformers

    versions = f"torch {torch.__version__}, torchvision {torchvision.__version__}, transformers {transformers.__version__}"
    of = "the mean of the vectors of a text's tokens" if model.level == "token" else "each of length 1"
    return f"""---
library_name: xvoken
tags: [image-text-retrieval]
---
# {name}

Sentences and pictures in one space of {model.dim} dimensions; scores are inner products of normalized vectors.

{_towers(model)}
- Heads: {heads}
- Recipe: {recipe}, {date.today().isoformat()}
- {versions}

## Use
```python
import xvoken

encoder = xvoken.load_encoder("{name}")  # this folder
texts = encoder.encode_texts(["a red bus", "two dogs"])  # float32 (2, {model.dim}), {of}
pictures = encoder.encode_images(["photo.jpg"])
print(encoder.similarity(texts, pictures))
```
"""
