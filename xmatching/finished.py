"""Whether a training is finished already, found out without torch, whose import takes longer than the whole check.

A training is finished if its snapshot has all epochs and the description (xmatching/settings.py) that the flags give. The facts about the
towers in that description are kept with the size and times of their files (xvoken/files/known.py), so that a changed model is noticed.
"""

from argparse import Namespace
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from xmatching.param import FEW_PICTURES
from xmatching.progress import Progress, card_missing, curves_missing, require_resume, require_same, skipped
from xmatching.settings import ImageFacts, TextFacts, Training, describe, model_of
from xvoken.cli.flags import roots_of
from xvoken.console import say
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import UserError
from xvoken.files.image_sets import CaptionedSet, read_captioned
from xvoken.files.known import Start, known, remember
from xvoken.files.locks import sole_writer
from xvoken.machine import needs_torch, settled_precision
from xvoken.towers.open_names import tokenizer_file
from xvoken.towers.sources import image_changes, image_files, text_files
from xvoken.work.product import Product


def read_sets(args: Namespace) -> tuple[list[CaptionedSet], list[CaptionedSet]]:
    """The sets to train and to validate on."""
    roots = roots_of(args)
    train = [] if args.test_only else [read_captioned(name, args.train_langs, roots, args.limit) for name in args.train_imgs]
    if args.key_views is None:
        args.key_views = 2 if sum(len(part.ids) for part in train) <= FEW_PICTURES else 1
    return train, [read_captioned(name, args.valid_langs, roots, args.limit) for name in args.valid_imgs]


def is_frozen(args: Namespace) -> bool:
    """Whether at least one tower is frozen, so that its output depends on --precision."""
    return not (args.lang_finetune and args.visn_finetune)


def _text_key(args: Namespace) -> tuple[dict[str, Any], list[Path]]:
    """The key under which the text tower's facts are kept, and the tower's files; without files nothing is kept."""
    files = text_files(args.lang)
    return {"tower": "text", "files": [str(path) for path in files], "layers": list(args.lang_layers), "pool": args.text_pool}, files


def _image_key(args: Namespace) -> tuple[dict[str, Any], list[Path]]:
    files = image_files(args.visn, args.visn_weights)
    key = {"tower": "image", "files": [str(path) for path in files], "visn": args.visn, "pool": args.visn_pool}
    return {**key, **image_changes(args.visn)}, files


def remember_towers(args: Namespace, text: TextFacts, image: ImageFacts, start: Start) -> None:
    """Keep the facts about both towers for later runs; start: see `tower_start`."""
    for facts, (key, files) in ((text, _text_key(args)), (image, _image_key(args))):
        if files:
            remember(key, files, asdict(facts), start)


def tower_start(args: Namespace) -> Start:
    """The state of the towers' files; taken before the towers are loaded."""
    return Start.now([*text_files(args.lang), *image_files(args.visn, args.visn_weights)])


def known_towers(args: Namespace) -> tuple[TextFacts, ImageFacts] | None:
    """The kept facts about both towers; None if a tower has to be loaded to find them out."""
    kept = [known(key) if files else None for key, files in (_text_key(args), _image_key(args))]
    if None in kept:
        return None
    try:
        return TextFacts(**kept[0]), ImageFacts(**kept[1])
    except TypeError:  # kept by a version with other facts
        return None


def zeroshot_product(args: Namespace, text: TextFacts, image: ImageFacts) -> Product:
    """The snapshot of --recipe zeroshot, and what it depends on; raises UserError for a folder that holds a training."""
    output = Path(args.output)
    if snapshots.training_file(output).exists():
        raise UserError(f"{output} holds a training; choose another --output, or: rm -r {output}")
    path, settings = snapshots.tensors_file(output, "BEST"), asdict(replace(model_of(args, text, image), dim=text.text_width))

    def read() -> dict[str, Any]:
        # The number of classes follows from visn, and would have to be loaded to be known.
        return {**snapshots.read_header(path).get("model", {}), "classes": settings["classes"]}

    companions = (snapshots.tokenizer_folder(output) / tokenizer_file(args.lang), output / "BEST.json", output / "README.md")
    return Product(path, settings, read, "the untrained matcher of these towers", companions, unsaid=snapshots.ModelConfig.unsaid())


def begun_in(output: Path) -> str | None:
    """The precision of frozen towers in which the training in this folder was begun; None where it does not say."""
    training = snapshots.training_file(output)
    return snapshots.read_header(training)["config"]["training"].get("precision") if training.exists() else None


def is_finished(args: Namespace) -> bool:
    """Whether the training is finished; says so if it is. Raises UserError as the training itself would: for other settings, for a
    stopped run without --resume, for a snapshot that is missing."""
    output = Path(args.output)
    if args.recipe == "zeroshot":
        facts = known_towers(args)
        return facts is not None and zeroshot_product(args, *facts).finished()
    training = snapshots.training_file(output)
    if not training.exists() or (is_frozen(args) and needs_torch(args.precision)):
        return False
    with sole_writer(training, output):
        found = known_towers(args) if training.exists() else None
        if found is None:
            return False
        train_sets, valid_sets = read_sets(args)
        precision = settled_precision(args.precision, "cpu", begun_in(output)) if is_frozen(args) else None
        config = describe(args, model_of(args, *found), Training.from_args(args), train_sets + valid_sets, precision)
        header = snapshots.read_header(training)
        require_same(output, header, config)
        progress = Progress(header["records"], chosen=header.get("chosen"))
        require_resume(output, progress, args.epochs, args.resume)
        if not progress.finished(args.epochs):
            return False
        said = skipped(output, progress.epoch)
        if not snapshots.has_tokenizer(output) or card_missing(output) or curves_missing(output):
            return False
        say(said)
    return True
