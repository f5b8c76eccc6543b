"""The flags of the training."""

import argparse
import os
from typing import Any

from xmatching.checks import check, require_no_training
from xmatching.duals import MAX_LEN, name_towers, settle_duals
from xmatching.kinds import LEVELS, LOSSES, OPTIMIZERS, REPORTS, SCHEDULES, losses_with
from xmatching.recipes import RECIPES, defaults
from xmatching.settings import Training
from xmatching.text_flags import LAYERS, settle_text
from xmatching.their_flags import add_their_flags, heed
from xmatching.values import heads, key_views, layers, number_or_auto, weights_or_auto
from xvoken.cli.flags import (
    WORKERS,
    Help,
    Parser,
    add_roots_flags,
    add_tower_engine_flag,
    at_least,
    at_least_nothing,
    at_least_one,
    names,
    share,
)
from xvoken.console import say
from xvoken.kinds import HEADS, IMAGE_POOLS, MODEL, SHORT_NAMES, TEXT_POOLS
from xvoken.machine import PRECISIONS

FEW_PICTURES = 1000  # of a training set for which --key-views auto takes 2
DEFAULT_OUTPUT = "snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags as a namespace; an unknown flag or choice ends with exit code 2."""
    parser = build_parser()
    first = parser.parse_known_args(argv)[0]
    # Flags of the command line still override the recipe.
    parser.set_defaults(**defaults(first))
    args = parser.parse_args(argv)
    said = said_flags(parser, argv, args)
    args.visn = args.visn.rstrip("/") or args.visn  # of a folder, as --lang has it
    if args.recipe == "best" and args.head == "cca" != first.head and "RANK" not in os.environ:
        say("--recipe best: --head cca alone, as the names of the image tower's classes are not known; with torchvision's they are")
    if trains_nothing(args):
        require_no_training(args, parser.parse_args([]))
        args.key_views = args.key_views or 1
    args.limit = args.limit or (1000 if args.tiny else 10_000 if args.fast else None)
    args.level_given, args.level = args.level is not None, args.level or "sentence"
    name_towers(args, said)
    heed(args)
    settle_text(args, first)
    args.lang_layers = layers(args.lang_layers)
    settle_duals(args, said)
    check(args, trains_nothing(args))
    return args


def said_flags(parser: argparse.ArgumentParser, argv: list[str] | None, args: argparse.Namespace) -> set[str]:
    """The names of the flags that were given, whatever their values."""
    unsaid = object()
    marked = parser.parse_args(argv, argparse.Namespace(**dict.fromkeys(vars(args), unsaid)))
    return {name for name, value in vars(marked).items() if value is not unsaid}


def trains_nothing(args: argparse.Namespace) -> bool:
    """Whether a matcher is to be made without training; with --test-only nothing is made."""
    return args.recipe == "zeroshot" and not args.test_only


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="main.py",  # also when xmatching/launch.py parses the flags
        description="Train a sentence-image matcher: frozen towers, trained heads. Data in the LXMERT layout.",
        formatter_class=Help,
    )
    parser.add_argument(
        "--recipe", choices=sorted(RECIPES), default="published",
        help="a set of defaults for the flags, see xmatching/recipes.py; zeroshot: no training and no captions, with a sentence encoder "
        "such as --lang minilm (plain BERT is a poor one); adapt: a dual encoder, such as CLIP, for your captions, see --dual",
    )  # fmt: skip
    _data_flags(parser.add_argument_group("data"))
    _model_flags(parser.add_argument_group("model"))
    _training_flags(parser.add_argument_group("training"))
    _run_flags(parser.add_argument_group("run"))
    add_their_flags(parser.add_argument_group("of Vokenization and Maria, so that their commands are taken"))
    return parser


def _data_flags(group: Any) -> None:
    group.add_argument(
        "--train-imgs", type=names, default="mscoco_train,mscoco_nominival", help="LXMERT files to train on, separated by commas"
    )
    group.add_argument("--valid-imgs", type=names, default="mscoco_minival", help="LXMERT files to validate on, separated by commas")
    group.add_argument(
        "--train-langs", type=names, default="mscoco", help="sources of sentences (keys of sentf) to train on, separated by commas"
    )
    group.add_argument("--valid-langs", type=names, default="mscoco", help="sources of sentences to validate on, separated by commas")
    longest = f"longest sentence in tokens, [CLS] and [SEP] counted in (default: {MAX_LEN}; a dual encoder has its own)"
    group.add_argument("--max-len", type=at_least(3), help=longest)
    group.add_argument("--limit", type=at_least_one, metavar="N", help="use only the first N pictures of each file (default: all)")
    group.add_argument("--tiny", action="store_true", help="the same as --limit 1000: a trial in minutes")
    group.add_argument("--fast", action="store_true", help="the same as --limit 10000")
    group.add_argument(
        "--views", type=at_least(0), default=Training.views, help="augmented views cached per picture; 0: only the evaluation view"
    )
    group.add_argument("--crop-scale", type=float, default=Training.crop_scale, help="least share of a picture's area in an augmented view")
    add_roots_flags(group)
    group.add_argument("--cache", default="data/cache", help="folder for the cached outputs of frozen towers")


def _model_flags(group: Any) -> None:
    group.add_argument(
        "--dual", metavar="NAME", help="both towers of a dual encoder, such as CLIP: the same as --lang NAME --visn NAME (default of "
        f"--recipe adapt: {MODEL})"
    )  # fmt: skip
    group.add_argument(
        "--visn", default="resnext101_32x8d",
        help="image tower: a torchvision classifier, efficientnet_lite2, timm:NAME as timm takes it, or the hub id or folder of a vision "
        "model of transformers",
    )  # fmt: skip
    group.add_argument(
        "--visn-weights", metavar="FILE", help="the image tower's weights, .safetensors or .pth state dict (default: published)"
    )
    group.add_argument(
        "--lang", default="bert",
        help=f"text tower: {', '.join(SHORT_NAMES)}, a hub id or a folder: an encoder, a decoder, or a model of sentence-transformers",
    )  # fmt: skip
    group.add_argument(
        "--lang-layers", metavar="N,...",
        help=f"layers whose states are concatenated, counted from the last (default: {LAYERS}; 1 with --text-pool own)",
    )  # fmt: skip
    group.add_argument(
        "--text-pool", choices=TEXT_POOLS,
        help="which states of the tokens are taken: the first one, the mean of all, the last one, or what a model of sentence-transformers "
        "has of its own (default: own for a hub id or folder with a modules.json, last for decoders, mean for T5 and the like, else cls)",
    )  # fmt: skip
    group.add_argument(
        "--lang-prompt", metavar="TEXT",
        help='put before every sentence, such as "query: " for E5, or the name of one of the prompts of a model of sentence-transformers '
        "(default: with --text-pool own its default prompt, if it has one)",
    )  # fmt: skip
    group.add_argument(
        "--visn-pool", choices=sorted(IMAGE_POOLS),
        help="how the image tower's last feature map, or the states of its patches, are pooled; grid: 2 x 2 averages; maps: grid, and the "
        "averages of earlier maps; stages: these and avg; cls: the class token; both: cls and avg; own: as the model itself does it "
        "(default: avg for torchvision's towers, own for others)",
    )  # fmt: skip
    group.add_argument(
        "--head", type=heads, default="mlp",
        help=f"kind of map from each tower's output to the joint space, or several, joined with commas: {', '.join(sorted(HEADS))}; cca: "
        "canonical correlation analysis, in closed form; classes: the names of the image classifier's classes, as --recipe zeroshot; own: "
        "a dual encoder's own score",
    )  # fmt: skip
    group.add_argument("--rank", type=at_least_one, default=768, help="principal directions of each tower's output that --head cca takes")
    group.add_argument(
        "--key-views", type=key_views, default=1, metavar="{1,2,4,auto}",
        help=f"how many views of a picture its vector is the mean of; auto: 2 for at most {FEW_PICTURES:,} pictures to train on, else 1",
    )  # fmt: skip
    group.add_argument("--level", choices=LEVELS, help="whether a caption is matched as a whole or token by token (default: sentence)")
    group.add_argument("--dim", type=at_least_one, default=512, help="size of the joint space")
    group.add_argument("--hidden", type=at_least_one, default=1024, help="size of the heads' hidden layers")
    group.add_argument("--hidden-layers", type=at_least_one, default=2, help="hidden layers of --head mlp: 2 in Maria, 1 in Vokenization")
    group.add_argument("--dropout", type=float, default=0.2, help="dropout in the heads")
    group.add_argument("--lang-finetune", action="store_true", help="train the text tower too")
    group.add_argument("--visn-finetune", action="store_true", help="train the image tower too")


def _training_flags(group: Any) -> None:
    group.add_argument("--loss", choices=LOSSES, default=Training.loss, help="objective")
    group.add_argument("--margin", type=float, default=Training.margin, help=f"margin of the losses {losses_with('margin')}")
    learned = f"initial value of the temperature that the losses {losses_with('scale')} learn"
    group.add_argument("--temperature", type=float, default=Training.temperature, help=learned)
    group.add_argument(
        "--hinge-warmup",
        type=at_least(0),
        default=Training.hinge_warmup,
        help=f"number of first epochs in which {losses_with('hardest')} uses all negatives",
    )
    group.add_argument(
        "--batch-size", "--batchSize", type=at_least(2), default=Training.batch_size, help="pairs in a batch, over all processes"
    )
    group.add_argument(
        "--optim",
        choices=sorted(OPTIMIZERS),
        default=Training.optim,
        help="optimizer; bert: adamw as Vokenization has it, with its schedule",
    )
    group.add_argument("--momentum", type=at_least_nothing, default=Training.momentum, help="of --optim sgd; 0.9 in Vokenization and Maria")
    group.add_argument("--lr", type=float, default=Training.lr, help="learning rate of the heads")
    group.add_argument(
        "--schedule", choices=SCHEDULES, default=Training.schedule, help="course of the learning rates; cosine and linear start with a rise"
    )
    group.add_argument(
        "--warmup-ratio", type=share, default=Training.warmup_ratio, help="share of the steps in which --schedule cosine, linear rise"
    )
    group.add_argument(
        "--weight-decay", type=float, default=Training.weight_decay, help="adam, sgd: weight of an L2 penalty; adamw: decoupled decay"
    )
    group.add_argument(
        "--epochs", type=at_least(0), default=Training.epochs, help="passes over all pairs; with --head cca: from its solution on, or 0"
    )
    group.add_argument(
        "--early-stop", action=argparse.BooleanOptionalAction, default=False,
        help="with --head cca: take so many epochs (0 to --epochs) as find most on pictures that are held out of the training ones",
    )  # fmt: skip
    chosen = "; auto: what finds most on pictures that are held out of the training ones"
    group.add_argument("--ridge", type=number_or_auto, metavar="R", help=f"--head cca: is added to every variance{chosen} (default)")
    group.add_argument("--power", type=number_or_auto, metavar="P", help=f"--head cca: of the correlations as scales{chosen} (default)")
    group.add_argument(
        "--part-weights", type=weights_or_auto, metavar="W,...",
        help=f"weights of the heads in --head, in their order{chosen} (default)",
    )  # fmt: skip
    group.add_argument(
        "--hubness", type=number_or_auto, default=0.0, metavar="A",
        help="how much of a picture's mean score with its nearest captions is taken off its scores in retrieval and evaluation, and the "
        f"same for captions (Nearest Neighbor Normalization){chosen}",
    )  # fmt: skip
    group.add_argument(
        "--other-lines", metavar="FILE",
        help="lines that no picture fits, such as replies of a dialogue, from which captions are told apart (default: 300 of our own)",
    )  # fmt: skip
    group.add_argument("--clip", type=float, default=Training.clip, help="gradients are clipped to this norm")
    group.add_argument("--seed", type=at_least(0), default=Training.seed, help="random seed of initial weights, order, views and dropout")
    group.add_argument("--tower-lr", type=float, default=Training.tower_lr, help="learning rate of towers that are trained")
    group.add_argument("--checkpointing", action="store_true", help="trained towers take less memory and a third more time")
    group.add_argument(
        "--train-precision",
        choices=("fp32", "bf16"),
        default=Training.train_precision,
        help="precision of heads and trained towers; losses are computed in fp32",
    )


def _run_flags(group: Any) -> None:
    group.add_argument("--output", default=DEFAULT_OUTPUT, help="folder of the snapshot")
    group.add_argument("--load", metavar="FILE", help="start from the weights of a snapshot, or of Vokenization's or Maria's BEST.pth")
    group.add_argument("--test-only", action="store_true", help="do not train, print the recall of the snapshot in --output, or of --load")
    group.add_argument("--report-to", choices=REPORTS, default="none", help="tracker that gets the metrics too, besides metrics.jsonl")
    group.add_argument("--resume", action="store_true", help="go on where a stopped run with the same flags ended")
    group.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="precision of frozen towers; auto: bf16 if the device has units for it"
    )
    group.add_argument("--num-workers", type=at_least_one, help=f"of the frozen towers: {WORKERS}")
    add_tower_engine_flag(group)
