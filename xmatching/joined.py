"""Matchers with heads in closed form, alone or joined with others: --head cca, cca,classes, linear,cca,classes, own,cca.

1. The towers' outputs that canonical correlation analysis takes are those whose neighbourhoods agree most (xmatching/layers.py).
2. On pictures held out of the training ones in turn (xmatching/folds.py), all else is chosen (xmatching/choice.py).
3. The heads are made of all training pairs. A training may go on from there: of the trained head if there is one, else of cca's.
"""

from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from xmatching import layers
from xmatching.cca import Correlated, Maps
from xmatching.chitchat import other_lines
from xmatching.choice import Analysis, Chooser, Sides, calibrate, recall_sum
from xmatching.data import PairBatches
from xmatching.folds import Columns, Pictures, folds_of
from xmatching.model import Matcher
from xmatching.pairs import Towers, compute_of
from xmatching.settings import Training
from xmatching.shares import correction_of, weights_of
from xmatching.training import Learner
from xmatching.zeroshot import given_heads
from xvoken.cache.texts import text_features
from xvoken.console import say
from xvoken.encoders.heads import mean_of_views
from xvoken.encoders.parts import Part
from xvoken.encoders.snapshot import BANK, Bank, ModelConfig
from xvoken.errors import UserError
from xvoken.kinds import HEADS
from xvoken.measures import spread
from xvoken.towers.image import channels_of

PATIENCE = 3  # epochs without a better one after which no more are tried
LEARNT = 1.02  # a training that goes on has to find so many times as much as the solution that it started from


@dataclass
class Joined:
    """A matcher that `fit` made. model: its config, with parts; epochs: how many to go on training; choice: what was chosen, for people."""

    model: ModelConfig
    matcher: Matcher
    epochs: int
    choice: dict[str, Any]

    @property
    def chosen(self) -> dict[str, Any]:
        """As a training's progress keeps it."""
        return {"model": asdict(self.model), "epochs": self.epochs, "choice": self.choice}

    @property
    def tensors(self) -> dict[str, Tensor]:
        """As a training's progress keeps them: the matcher's, before the first epoch."""
        return {f"model.{name}": tensor for name, tensor in self.matcher.state_dict().items()}


def joined_learner(model: ModelConfig, training: Training, device: str) -> Learner:
    """All to train a matcher of this config with, parts included; its weights are random."""
    whole = Matcher(model)
    alone = whole if learning_part(model) is None else learning(whole, model)
    return Learner.to_train(alone, training, device, whole)


def learning_part(model: ModelConfig) -> int | None:
    """The number of the part that a training trains: the trained head, else cca's; None if there is neither."""
    made = [HEADS[part.head].made for part in model.joined]
    return next((made.index(kind) for kind in ("trained", "fitted") if kind in made), None)


def learning(whole: Matcher, model: ModelConfig) -> Matcher:
    """A matcher of the part that is trained alone; it shares that part's heads with the whole one."""
    number = learning_part(model)
    assert number is not None, "a matcher without such a part is not trained"
    alone = Matcher(replace(model, parts=[{**model.parts[number], "weight": 1.0}]))
    for side in ("text_head", "image_head"):
        alone.heads[side].heads[0] = whole.heads[side].heads[number]
    return alone


def columns_of(towers: Towers, model: ModelConfig) -> tuple[list[list[int]], list[list[int]]]:
    """The columns that cca may take: of the text tower's last layers, of the image tower's last map, with the earlier maps and without.

    A tower of a dual encoder has neither: all of its columns.
    """
    layers = len(model.lang_layers) or 1
    hidden = model.text_width // layers
    text = [[model.text_width - count * hidden, model.text_width] for count in range(1, layers + 1)]
    earlier = sum(channels_of(stage) for stage in getattr(towers.image, "stages", ()))
    image = [[0, model.image_width], *([[earlier, model.image_width]] if earlier and model.visn_pool == "stages" else [])]
    return text, image


def parts_of(towers: Towers, model: ModelConfig, names: list[str], columns: Columns | None) -> list[Part]:
    """The parts with all weights 1; columns: those of cca."""
    whole = Columns([0, model.text_width], [0, model.image_width])
    text, image = columns_of(towers, model)
    found = []
    for name in names:
        kind = HEADS[name].made
        if kind == "given" and model.visn_pool not in ("avg", "stages", "own"):
            raise UserError(f"--head {name}: needs the average of the image tower's last map: --visn-pool avg or stages")
        taken = {"trained": whole, "fitted": columns or whole, "given": Columns(text[0], image[-1])}[kind]
        dim = taken.text[1] - taken.text[0] if kind == "given" else model.dim
        if name == "own":
            assert towers.dual is not None, "xmatching/duals.py asks for one"
            dim = towers.dual.dim
        found.append(Part(name, dim, taken.text, taken.image, 1.0))
    return found


def fit(args: Namespace, towers: Towers, model: ModelConfig, training: Training, train: PairBatches) -> Joined:
    """Choose all that is not given, and make the heads of all training pairs. model: as the flags give it, without parts."""
    pictures, names = Pictures(train), model.head.split(",")
    if len(pictures) < 2:
        raise UserError(f"--train-imgs {','.join(args.train_imgs)}: fewer than two pictures with captions; nothing can be held out")
    chooser, columns, agreements = Chooser(folds_of(pictures, training.seed)), None, {}
    if "cca" in names:
        columns, agreements = layers.choose(pictures, *columns_of(towers, model))
    parts = parts_of(towers, model, names, columns)
    given = {part.head: given_heads(args, towers, part) for part in parts if HEADS[part.head].made == "given"}
    if "classes" in given:
        model = replace(model, classes=len(given["classes"][1].names))
    outputs = other_outputs(args, towers)
    sides = [Sides.of(pictures, fold, outputs) for fold in chooser.folds]
    analysis = Analysis.of(pictures, chooser.folds, sides, columns, model.rank) if columns else None
    if analysis and not analysis.total.xy.any():
        raise UserError(f"--train-imgs {','.join(args.train_imgs)}: to the towers all captions, or all pictures, are one and the same")
    solved = analysis.choose(chooser, model.dim, training.ridge, training.power) if analysis else (0.0, 0.0, 0)
    make = Maker(model, parts, given, analysis, solved)
    epochs, learnt = rehearse(make, pictures, chooser, sides[0], training)
    vectors = make.vectors(sides, learnt)
    weights = weights_of(names, chooser, vectors, training.part_weights)
    joined = [Sides.joined([part[fold] for part in vectors], weights) for fold in range(len(vectors[0]))]
    correction = correction_of(names, chooser, joined, training.hubness)
    calibration = calibrate(chooser.folds, joined, correction)
    kept = [replace(part, weight=weight) for part, weight in zip(parts, weights, strict=True) if weight]
    chosen = replace(make.model(kept, correction), calibration=calibration.to_list())
    if learning_part(chosen) is None:  # the part that would be trained has weight 0
        epochs = 0
    choice = {
        "columns": asdict(columns) if columns else None, "ridge": solved[0], "power": solved[1], "directions": solved[2], "epochs": epochs,
        "weights": dict(zip(names, weights, strict=True)), "hubness": correction, "agreement": agreements, "scores": chooser.scores,
    }  # fmt: skip
    told = ", ".join(f"{name} {weight:g}" for name, weight in zip(names, weights, strict=True))
    say(f"chosen on held-out pictures: weights {told}; hubness {correction:g}; " + make.told(epochs))
    torch.manual_seed(training.seed)
    whole = make.whole(chosen, Correlated(analysis.total) if analysis else None)
    return Joined(chosen, whole, epochs, choice)


@dataclass
class Maker:
    """Makes the heads of a matcher. given: the text and image heads that the towers give; solved: ridge, power, directions."""

    base: ModelConfig
    parts: list[Part]
    given: dict[str, tuple[nn.Module, Any]]
    analysis: Analysis | None
    solved: tuple[float, float, int]

    def told(self, epochs: int) -> str:
        ridge, power, directions = self.solved
        cca = f"cca with ridge {ridge:g}, power {power:g}, {directions} directions" if self.analysis else "no cca"
        return cca + (f", {epochs} epochs from there" if epochs else "")

    def model(self, parts: list[Part], correction: float = 0.0) -> ModelConfig:
        """The config of a matcher of these parts."""
        return replace(self.base, parts=[asdict(part) for part in parts], dim=sum(part.dim for part in parts), hubness=correction)

    def whole(self, model: ModelConfig, pairs: Correlated | None) -> Matcher:
        """A matcher with cca's solution for these pairs; trained heads have random weights, which torch.manual_seed decides."""
        matcher = Matcher(model)
        for number, part in enumerate(model.joined):
            text, image = (matcher.heads[side].heads[number] for side in ("text_head", "image_head"))
            if part.head in self.given:
                for head, found in zip((text, image), self.given[part.head], strict=True):
                    head.load_state_dict(found.state_dict())
            elif HEADS[part.head].made == "fitted":
                assert self.analysis is not None and pairs is not None
                self._solve(self.analysis, pairs, text, image)
        return matcher

    def _solve(self, analysis: Analysis, pairs: Correlated, text: nn.Module, image: nn.Module) -> None:
        maps = self._maps(pairs)
        for head, found, (weight, bias) in ((text, analysis.text, maps.text), (image, analysis.image, maps.image)):
            head.load_state_dict({**vars(found), "out.weight": weight, "out.bias": bias})

    def _maps(self, pairs: Correlated) -> Maps:
        ridge, power, directions = self.solved
        return pairs.solve(ridge).maps(power, directions, self.base.dim)

    def vectors(self, folds: list[Sides], learnt: Matcher | None) -> list[list[Sides]]:
        """The vectors of each part in each fold; in the first one alone if there is a trained head, `learnt`, which knows that one's.

        folds: the towers' outputs.
        """
        trained = any(HEADS[part.head].made == "trained" for part in self.parts)
        return [self._part_vectors(part, folds[: 1 if trained else None], learnt) for part in self.parts]

    def _part_vectors(self, part: Part, folds: list[Sides], learnt: Matcher | None) -> list[Sides]:
        kind = HEADS[part.head].made
        if kind == "fitted":
            analysis = self.analysis
            assert analysis is not None
            return [analysis.vectors(number, self._maps(analysis.outside[number])) for number in range(len(folds))]
        if kind == "given":
            heads = self.given[part.head]
        else:
            assert learnt is not None
            heads = learnt.heads["text_head"].heads[0], learnt.heads["image_head"].heads[0]
        return [by_heads(sides, part, *heads) for sides in folds]


def by_heads(sides: Sides, part: Part, text: nn.Module, image: nn.Module) -> Sides:
    """The vectors that two heads make of the towers' outputs."""
    return sides.by(lambda rows: text(rows[..., slice(*part.text)]), lambda rows: image(rows[..., slice(*part.image)]))


def other_outputs(args: Namespace, towers: Towers) -> Tensor:
    """The text tower's outputs for lines that no picture fits: float32 (o, width)"""
    lines = list(dict.fromkeys(other_lines(args.other_lines)))
    found = text_features(towers.text_spec, towers.text, towers.tokenizer, lines, towers.max_len, compute_of(args), "other-lines")
    return torch.from_numpy(found.rows.astype("float32"))


def rehearse(make: Maker, pictures: Pictures, chooser: Chooser, outputs: Sides, training: Training) -> tuple[int, Matcher | None]:
    """Train on the pictures outside the first fold: with a trained head, for its vectors there; with --early-stop, to choose the epochs.

    outputs: the towers', of the first fold. Returns the number of epochs, and the trained head's matcher.
    """
    model = make.model(make.parts)
    number = learning_part(model)
    if number is None or not training.epochs:
        return 0, None
    trained = HEADS[model.joined[number].head].made == "trained"
    stopping = training.early_stop and not trained  # a trained head is trained for all epochs, here and later
    if not trained and not stopping:
        return training.epochs, None
    fold, part = chooser.folds[0], model.joined[number]
    torch.manual_seed(training.seed)
    trainee = learning(make.whole(model, make.analysis.outside[0] if make.analysis else None), model)
    rest, _ = pictures.pairs(fold.rest)
    data = PairBatches(pictures.data.text, pictures.data.images, pictures.texts[rest], pictures.rows[pictures.owner[rest]])
    learner = Learner.to_train(trainee, training, "cpu", alone=True)  # other processes wait for what is chosen here

    def found() -> float:
        trainee.eval()
        heads = trainee.heads["text_head"].heads[0], trainee.heads["image_head"].heads[0]
        return recall_sum(fold, Sides.joined([by_heads(outputs, part, *heads)]))

    scores = [found() if stopping else 0.0]
    for epoch in range(1, training.epochs + 1):
        learner.epoch(epoch, data)
        if stopping:
            scores.append(found())
            if epoch - max(range(epoch + 1), key=scores.__getitem__) >= PATIENCE:
                break
    trainee.eval()
    if trained:
        return training.epochs, trainee
    chooser.scores["epochs"] = {str(epoch): round(score, 3) for epoch, score in enumerate(scores)}
    best = max(range(len(scores)), key=scores.__getitem__)
    return (best if scores[best] > LEARNT * scores[0] else 0), None


@torch.inference_mode()
def bank_of(matcher: Matcher, train: PairBatches, chosen: Any) -> Bank | None:
    """The vectors of at most BANK captions and pictures of the training, evenly spread: float16, as a snapshot keeps them.

    chosen: what was chosen for a matcher with heads in closed form; others have no bank.
    """
    if not chosen:
        return None
    pictures = Pictures(train)
    places, device = spread(len(pictures), BANK), next(matcher.parameters()).device
    matcher.eval()
    text = matcher.embed_text(pictures.captions(spread(len(pictures.owner), BANK)).to(device))
    image = mean_of_views(matcher.embed_image(pictures.views(places).to(device)))
    return Bank(text.half().cpu(), image.half().cpu())
