"""Flags of a training whose towers are those of a dual encoder, such as CLIP: frozen, each with its one pooled output. Imports no torch."""

from argparse import Namespace

from xvoken.errors import UserError
from xvoken.kinds import SHORT_NAMES
from xvoken.towers.sources import config_of, image_kind, is_dual, one_dual

MAX_LEN = 75  # of captions in tokens, as in Vokenization and Maria
# Flags that such a tower does not read, and what they are set to.
TEXT_FLAGS = {"lang_layers": (), "text_pool": "cls", "lang_prompt": "", "max_len": None, "lang_finetune": False}
IMAGE_FLAGS = {"visn_pool": "avg", "visn_weights": None, "visn_finetune": False, "views": 0}


def name_towers(args: Namespace, said: set[str]) -> None:
    """Take --dual for --lang and --visn; said: the flags that were given. Raises UserError where a tower is named in two ways."""
    named = [f"--{name}" for name in ("lang", "visn") if name in said]
    if named and "dual" in said:
        raise UserError(f"{' and '.join(named)}: --dual {args.dual} names both towers; leave out the one or the other")
    if args.dual and not named:
        args.lang = args.visn = args.dual


def settle_duals(args: Namespace, said: set[str]) -> None:
    """Settle what a dual encoder's towers leave no choice of, and --max-len; said: the flags that were given.

    Raises UserError for flags that such towers do not read, and for --head own without one dual encoder.
    """
    text = args.lang not in SHORT_NAMES and is_dual(args.lang)
    image = image_kind(args.visn) != "torchvision" and is_dual(args.visn)
    heads = args.head.split(",")
    if "own" in heads:
        unread = args.lang == args.visn and not config_of(args.lang)  # its loader says why
        if not unread and not one_dual(args.lang, args.visn):
            if args.lang == args.visn:
                raise UserError(f"--dual {args.lang}: no dual encoder, such as CLIP, SigLIP or a model of open_clip")
            towers = f"--lang {args.lang} and --visn {args.visn} are not"
            raise UserError(f"--head own: both towers must be of one dual encoder, such as CLIP or SigLIP, and {towers}; give --dual NAME")
        text = image = True
    if image and "classes" in heads:
        raise UserError(
            f"--head classes: {args.visn} is a dual encoder and classifies nothing; adapt it to your captions: --recipe adapt; "
            "without any captions it needs no matcher: give it to --load of the later stages itself"
        )
    if text and args.level == "token":
        raise UserError(f"--level token: {args.lang} is a dual encoder, which gives one vector for a whole sentence; leave it out")
    for dual, name, flags in ((text, args.lang, TEXT_FLAGS), (image, args.visn, IMAGE_FLAGS)):
        if dual:
            _settle(args, said, name, flags)
    args.max_len = args.max_len or (None if text else MAX_LEN)


def _settle(args: Namespace, said: set[str], name: str, flags: dict[str, object]) -> None:
    for flag, value in flags.items():
        if flag in said and getattr(args, flag) != value:
            what = f"--{flag.replace('_', '-')}"
            raise UserError(f"{what}: {name} is a dual encoder, whose towers are taken frozen and as they are; leave it out")
        setattr(args, flag, value)
