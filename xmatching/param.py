"""The flags of the training."""

import argparse

from xmatching.loss import LOSSES
from xvoken.devices import PRECISIONS
from xvoken.image_sets import Roots
from xvoken.messages import UserError

DEFAULT_OUTPUT = "snap/xmatching/clsmlp_sent-level_b1024_embed512_maxlen75_resnext_bert"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Flags as a namespace; an unknown flag or choice ends with exit code 2."""
    parser = argparse.ArgumentParser(
        description="Train a sentence-image matcher: frozen towers, trained heads. Data in the LXMERT layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    data = parser.add_argument_group("data")
    data.add_argument("--train-imgs", default="mscoco_train,mscoco_nominival", help="LXMERT files to train on, with commas")
    data.add_argument("--valid-imgs", default="mscoco_minival", help="LXMERT files to validate on, with commas")
    data.add_argument("--train-langs", default="mscoco", help="sources of sentences (keys of sentf) to train on, with commas")
    data.add_argument("--valid-langs", default="mscoco", help="sources of sentences to validate on, with commas")
    data.add_argument("--max-len", type=int, default=75, help="longest sentence in tokens, [CLS] and [SEP] counted in")
    data.add_argument("--limit", type=int, metavar="N", help="only the first N pictures of each file (default: all)")
    Roots.add_flags(data)
    data.add_argument("--cache", default="data/cache", help="folder for what frozen towers make of the data")

    model = parser.add_argument_group("model")
    model.add_argument("--visn", default="resnext101_32x8d", help="image tower: a torchvision classifier, or efficientnet_lite2")
    model.add_argument("--visn-weights", metavar="FILE", help="its weights (.safetensors or .pth state dict; default: published)")
    model.add_argument("--lang", default="bert", help="text tower: bert, bert-large, roberta, distilbert, minilm, a hub id or a folder")
    model.add_argument("--lang-layers", default="4,3,2,1", help="layers whose [CLS] is used, counted from the last")
    model.add_argument("--dim", type=int, default=512, help="size of the joint space")
    model.add_argument("--hidden", type=int, default=1024, help="size of the heads' hidden layers")
    model.add_argument("--dropout", type=float, default=0.2, help="dropout in the heads")
    model.add_argument("--lang-finetune", action="store_true", help="train the text tower too")
    model.add_argument("--visn-finetune", action="store_true", help="train the image tower too")

    training = parser.add_argument_group("training")
    training.add_argument("--loss", choices=sorted(LOSSES), default="paired_hinge", help="objective")
    training.add_argument("--margin", type=float, default=0.5, help="margin of the hinge")
    training.add_argument("--batch-size", "--batchSize", type=int, default=512, help="pairs in a batch, of all processes together")
    training.add_argument("--optim", choices=("adam", "adamw", "sgd"), default="adam", help="optimizer")
    training.add_argument("--lr", type=float, default=1e-3, help="learning rate, constant")
    training.add_argument("--epochs", type=int, default=25, help="passes over all pairs")
    training.add_argument("--clip", type=float, default=5.0, help="largest norm of the gradient")
    training.add_argument("--seed", type=int, default=9595, help="of weights, order and dropout")

    run = parser.add_argument_group("run")
    run.add_argument("--output", default=DEFAULT_OUTPUT, help="folder of the snapshot")
    run.add_argument("--resume", action="store_true", help="go on where a stopped run with the same flags ended")
    run.add_argument("--precision", choices=PRECISIONS, default="auto", help="of frozen towers; auto: bf16 where it is fast")
    run.add_argument("--num-workers", type=int, help="processes for the frozen towers (default: one per GPU or core)")
    args = parser.parse_args(argv)
    for name in ("train_imgs", "valid_imgs", "train_langs", "valid_langs"):
        setattr(args, name, [part.strip() for part in getattr(args, name).split(",") if part.strip()])
    _check(args)
    return args


def _check(args: argparse.Namespace) -> None:
    try:
        args.lang_layers = tuple(abs(int(layer)) for layer in args.lang_layers.split(","))
    except ValueError:
        raise UserError(f"--lang-layers {args.lang_layers}: expected numbers with commas, as in 4,3,2,1") from None
    for name, least in (("batch_size", 2), ("epochs", 1), ("dim", 1), ("hidden", 1), ("max_len", 3), ("limit", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least {least} is needed")
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout}: expected a share from 0 to below 1")
