"""The flags of the training."""

import argparse
from typing import Any

from xmatching.kinds import LEVELS, LOSSES, OPTIMIZERS, REPORTS, SCHEDULES, losses_by_token, losses_with
from xmatching.recipes import RECIPES
from xmatching.settings import Training
from xvoken.cli.flags import Help, Parser, add_roots_flags, at_least, at_least_one
from xvoken.errors import UserError
from xvoken.kinds import HEADS, IMAGE_POOLS, TEXT_POOLS
from xvoken.machine import PRECISIONS

DEFAULT_OUTPUT = "snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags as a namespace; an unknown flag or choice ends with exit code 2."""
    parser = build_parser()
    recipe = parser.parse_known_args(argv)[0].recipe
    parser.set_defaults(**RECIPES[recipe])  # flags of the command line still override the recipe
    args = parser.parse_args(argv)
    for name in ("train_imgs", "valid_imgs", "train_langs", "valid_langs"):
        setattr(args, name, [part.strip() for part in getattr(args, name).split(",") if part.strip()])
    args.limit = args.limit or (1000 if args.tiny else 10_000 if args.fast else None)
    _check(args)
    return args


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="main.py",  # xmatching/launch.py reads its flags too
        description="Train a sentence-image matcher: frozen towers, trained heads. Data in the LXMERT layout.",
        formatter_class=Help,
    )
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="published", help="defaults of the flags, see xmatching/recipes.py")
    _data_flags(parser.add_argument_group("data"))
    _model_flags(parser.add_argument_group("model"))
    _training_flags(parser.add_argument_group("training"))
    _run_flags(parser.add_argument_group("run"))
    return parser


def _data_flags(group: Any) -> None:
    group.add_argument("--train-imgs", default="mscoco_train,mscoco_nominival", help="LXMERT files to train on, with commas")
    group.add_argument("--valid-imgs", default="mscoco_minival", help="LXMERT files to validate on, with commas")
    group.add_argument("--train-langs", default="mscoco", help="sources of sentences (keys of sentf) to train on, with commas")
    group.add_argument("--valid-langs", default="mscoco", help="sources of sentences to validate on, with commas")
    group.add_argument("--max-len", type=at_least(3), default=75, help="longest sentence in tokens, [CLS] and [SEP] counted in")
    group.add_argument("--limit", type=at_least_one, metavar="N", help="only the first N pictures of each file (default: all)")
    group.add_argument("--tiny", action="store_true", help="the same as --limit 1000: a trial in minutes")
    group.add_argument("--fast", action="store_true", help="the same as --limit 10000")
    group.add_argument(
        "--views", type=at_least(0), default=Training.views, help="cached augmented views a picture; 0: evaluation view only"
    )
    group.add_argument("--crop-scale", type=float, default=Training.crop_scale, help="least share of a picture's area in a view")
    add_roots_flags(group)
    group.add_argument("--cache", default="data/cache", help="folder for what frozen towers make of the data")


def _model_flags(group: Any) -> None:
    group.add_argument("--visn", default="resnext101_32x8d", help="image tower: a torchvision classifier, or efficientnet_lite2")
    group.add_argument("--visn-weights", metavar="FILE", help="its weights (.safetensors or .pth state dict; default: published)")
    group.add_argument("--lang", default="bert", help="text tower: bert, bert-large, roberta, distilbert, minilm, a hub id or a folder")
    group.add_argument("--lang-layers", default="4,3,2,1", help="layers whose [CLS] is used, counted from the last")
    group.add_argument("--text-pool", choices=TEXT_POOLS, default="cls", help="the first token's state, or the mean of all")
    pools = "pooling over the last map; grid: 2 x 2 averages; maps: these and the averages of earlier maps"
    group.add_argument("--visn-pool", choices=sorted(IMAGE_POOLS), default="avg", help=pools)
    group.add_argument("--head", choices=sorted(HEADS), default="mlp", help="from tower to joint space")
    group.add_argument("--level", choices=LEVELS, default="sentence", help="what a caption is matched by: as a whole, or token by token")
    group.add_argument("--dim", type=at_least_one, default=512, help="size of the joint space")
    group.add_argument("--hidden", type=at_least_one, default=1024, help="size of the heads' hidden layers")
    group.add_argument("--hidden-layers", type=at_least_one, default=2, help="hidden layers of the head mlp: 2 in Maria, 1 in Vokenization")
    group.add_argument("--dropout", type=float, default=0.2, help="dropout in the heads")
    group.add_argument("--lang-finetune", action="store_true", help="train the text tower too")
    group.add_argument("--visn-finetune", action="store_true", help="train the image tower too")


def _training_flags(group: Any) -> None:
    group.add_argument("--loss", choices=LOSSES, default=Training.loss, help="objective")
    group.add_argument("--margin", type=float, default=Training.margin, help="margin of the hinges")
    learned = f"{losses_with('scale')}: where the learned one starts"
    group.add_argument("--temperature", type=float, default=Training.temperature, help=learned)
    group.add_argument(
        "--hinge-warmup",
        type=at_least(0),
        default=Training.hinge_warmup,
        help=f"{losses_with('hardest')}: first epochs, with all negatives",
    )
    group.add_argument(
        "--batch-size", "--batchSize", type=at_least(2), default=Training.batch_size, help="pairs in a batch, of all processes together"
    )
    group.add_argument("--optim", choices=sorted(OPTIMIZERS), default=Training.optim, help="optimizer")
    group.add_argument("--lr", type=float, default=Training.lr, help="learning rate of the heads")
    group.add_argument("--schedule", choices=SCHEDULES, default=Training.schedule, help="of the learning rate; cosine: with a short rise")
    group.add_argument("--weight-decay", type=float, default=Training.weight_decay, help="adam, sgd: L2 penalty; adamw: decoupled")
    group.add_argument("--epochs", type=at_least_one, default=Training.epochs, help="passes over all pairs")
    group.add_argument("--clip", type=float, default=Training.clip, help="largest norm of the gradient")
    group.add_argument("--seed", type=at_least(0), default=Training.seed, help="of weights, order, views and dropout")
    group.add_argument("--tower-lr", type=float, default=Training.tower_lr, help="learning rate of towers that are trained")
    group.add_argument("--checkpointing", action="store_true", help="trained towers: less memory, a third more time")
    group.add_argument(
        "--train-precision",
        choices=("fp32", "bf16"),
        default=Training.train_precision,
        help="of heads and trained towers, not of losses",
    )


def _run_flags(group: Any) -> None:
    group.add_argument("--output", default=DEFAULT_OUTPUT, help="folder of the snapshot")
    group.add_argument("--load", metavar="FILE", help="start from the weights of a snapshot, or of Vokenization's or Maria's BEST.pth")
    group.add_argument("--test-only", action="store_true", help="no training: the recall of the snapshot in --output, or of --load")
    group.add_argument("--report-to", choices=REPORTS, default="none", help="where metrics go besides metrics.jsonl")
    group.add_argument("--resume", action="store_true", help="go on where a stopped run with the same flags ended")
    group.add_argument("--precision", choices=PRECISIONS, default="auto", help="of frozen towers; auto: bf16 where it is fast")
    group.add_argument("--num-workers", type=at_least_one, help="processes for the frozen towers (default: one per GPU or core)")


def _check(args: argparse.Namespace) -> None:
    try:
        args.lang_layers = tuple(abs(int(layer)) for layer in args.lang_layers.split(","))
    except ValueError:
        raise UserError(f"--lang-layers {args.lang_layers}: expected numbers with commas, as in 4,3,2,1") from None
    if args.level == "token" and (args.loss not in losses_by_token() or args.text_pool != "cls"):
        raise UserError(
            f"--level token: has the loss {', '.join(losses_by_token())} only, and pools no tokens; leave out --loss, --text-pool and "
            "--recipe best"
        )
    if args.temperature <= 0:
        raise UserError(f"--temperature {args.temperature}: more than 0 is needed")
    if not 0 < args.crop_scale <= 1:
        raise UserError(f"--crop-scale {args.crop_scale}: expected a share above 0, at most 1")
    if args.views and args.visn_finetune:
        raise UserError("--views: cached views are those of a frozen tower; leave out --visn-finetune or --views")
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout}: expected a share from 0 to below 1")
