"""Which flags of the training go together."""

from argparse import Namespace

from xmatching.kinds import losses_by_token
from xmatching.settings import is_fitted
from xvoken.errors import UserError
from xvoken.kinds import HEADS
from xvoken.towers.sources import image_kind

# The flags that --recipe zeroshot reads, and --resume, which run_xmatching.bash always gives.
ZEROSHOT_FLAGS = {
    "recipe", "visn", "visn_weights", "lang", "lang_layers", "text_pool", "lang_prompt", "max_len", "key_views", "output", "resume",
}  # fmt: skip


def require_no_training(args: Namespace, unsaid_flags: Namespace) -> None:
    """Raise UserError for a flag that --recipe zeroshot would not read; unsaid_flags: the values without a flag."""
    for name, unsaid in vars(unsaid_flags).items():
        if name not in ZEROSHOT_FLAGS and getattr(args, name) != unsaid:
            raise UserError(f"--{name.replace('_', '-')}: --recipe zeroshot trains nothing and reads no captions; leave it out")


def check(args: Namespace, untrained: bool) -> None:
    """Raise UserError for flags that do not go together; untrained: whether nothing is to be trained."""
    if args.level == "token" and (args.loss not in losses_by_token() or args.text_pool != "cls"):
        raise UserError(
            f"--level token: works only with --loss {', '.join(losses_by_token())} and --text-pool cls; leave out --loss, --text-pool "
            "and --recipe best"
        )
    if args.level == "token" and args.lang_prompt:
        raise UserError("--lang-prompt: not with --level token, where every token of a caption is matched by itself; leave it out")
    if args.temperature <= 0:
        raise UserError(f"--temperature {args.temperature}: more than 0 is needed")
    if not 0 < args.crop_scale <= 1:
        raise UserError(f"--crop-scale {args.crop_scale}: expected a share above 0, at most 1")
    if args.views and args.visn_finetune:
        raise UserError("--views: augmented views are cached for a frozen tower only; leave out --visn-finetune or --views")
    if not 0 <= args.dropout < 1:
        raise UserError(f"--dropout {args.dropout}: expected a share from 0 to below 1")
    _check_heads(args, untrained)


def _check_heads(args: Namespace, untrained: bool) -> None:
    """Raise UserError for flags that do not go with the kinds of heads."""
    named = args.head.split(",")
    if args.key_views != 1 and args.visn_finetune:
        raise UserError("--key-views: views are cached for a frozen tower only; leave out --visn-finetune or --key-views")
    if not is_fitted(args.head):
        unread = {
            "--epochs 0": args.epochs == 0, "--early-stop": args.early_stop, "--hubness": args.hubness != 0,
            "--ridge": args.ridge is not None, "--power": args.power is not None, "--part-weights": args.part_weights,
            "--other-lines": args.other_lines,
        }  # fmt: skip
        if found := [flag for flag, given in unread.items() if given]:
            closed = args.recipe in ("best", "adapt")
            mend = f"leave out --recipe {args.recipe}, whose flags are for heads in closed form" if closed else "leave it out"
            raise UserError(f"{found[0]}: only with --head cca, classes or own; {args.head} is trained, and nothing is held out; {mend}")
        return
    if "cca" not in named and (args.ridge is not None or args.power is not None):
        raise UserError(f"--ridge, --power: of --head cca, which is not in {args.head}; leave them out")
    if "classes" in named and image_kind(args.visn) != "torchvision":
        raise UserError(
            f"--head classes, --recipe zeroshot: the names of the classes are known for torchvision's classifiers and efficientnet_lite2, "
            f"not for {args.visn}; take one of them, such as --visn resnet50"
            + (", or leave classes out: --head " + ",".join(name for name in named if name != "classes") if len(named) > 1 else "")
        )
    if args.head == "classes" and not untrained:
        raise UserError("--head classes: nothing to train; take --recipe zeroshot, or join it with another: --head cca,classes")
    wrong = {
        "--level token": args.level == "token", "--lang-finetune": args.lang_finetune, "--visn-finetune": args.visn_finetune,
        "--views": args.views, "--load": args.load and not args.test_only,
    }  # fmt: skip
    if found := [flag for flag, given in wrong.items() if given]:
        raise UserError(f"{found[0]}: not with --head {args.head}, which is made of frozen towers' outputs in closed form; leave it out")
    if args.epochs == 0 and any(HEADS[name].made == "trained" for name in named):
        raise UserError(f"--epochs 0: --head {args.head} has one that is trained; leave it out, or give it epochs")
    if args.part_weights and len(args.part_weights) != len(named):
        raise UserError(f"--part-weights: {len(args.part_weights)} weights for the {len(named)} heads {args.head}")
