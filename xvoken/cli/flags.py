"""Command-line flags that several commands share; an invalid value ends in one line that says what is needed, and exit code 2."""

import math
from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from xvoken.errors import UserError
from xvoken.files.hubness import NEAREST
from xvoken.files.image_sets import Roots
from xvoken.kinds import KEY_VIEWS
from xvoken.machine import PRECISIONS, TOWER_ENGINES, Compute, Engine, resolve_precision, workers_on

LOAD = (
    "a matcher's snapshot, such as snap/xmatching/NAME, a CLIP or SigLIP model by hub id or folder, or one of open_clip's: "
    "open_clip:MODEL/PRETRAINED, open_clip:hf-hub:OWNER/NAME, a folder"
)
WORKERS = "processes (default: one per GPU; on a CPU one for every four cores, which uses them by itself)"


def at_least(least: int, also: int | None = None) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on; also: one more number that is allowed, such as -1 for all."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or (value < least and value != also):
            raise ArgumentTypeError(f"{text}: a whole number of at least {least} is needed{'' if also is None else f', or {also}'}")
        return value

    return number


at_least_one = at_least(1)


def at_least_nothing(text: str) -> float:
    """A type for argparse: a number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"{text}: a number of at least 0 is needed")
    return value


def share(text: str) -> float:
    """A type for argparse: a number from 0 to 1."""
    if (value := at_least_nothing(text)) > 1:
        raise ArgumentTypeError(f"{text}: a number from 0 to 1 is needed")
    return value


class Help(ArgumentDefaultsHelpFormatter):
    """Help that adds the default to each flag's text, unless there is no default or the text names it already."""

    def _get_help_string(self, action: Action) -> str | None:
        nothing = any(action.default is value for value in (None, False, SUPPRESS))
        named = action.required or nothing or "(default" in (action.help or "")
        return action.help if named else super()._get_help_string(action)


class Parser(ArgumentParser):
    """A parser that reports a wrong flag in one line, without printing the list of all flags first.

    intermixed: whether words without a flag may stand between the flags; see argparse's parse_intermixed_args.
    """

    def __init__(self, *args: Any, intermixed: bool = False, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.intermixed = intermixed

    def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse's."""
        if self.intermixed:
            self.intermixed = False  # it parses twice by way of this method
            try:
                return self.parse_known_intermixed_args(*args, **kwargs)
            finally:
                self.intermixed = True
        return super().parse_known_args(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Print one line and exit with code 2."""
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


def add_compute_flags(parser: ArgumentParser, precision: str, workers: str | None = WORKERS) -> None:
    """Add --device, --num-workers, --precision and --tower-engine, for stages that run a tower.

    precision, workers: their help texts; workers None: without --num-workers, for a command that works in its own process.
    """
    parser.add_argument("--device", default="auto", help="auto (all GPUs, else the CPU), cpu, cuda, or a GPU's number (default: auto)")
    if workers is not None:
        parser.add_argument("--num-workers", "--num_workers", type=int, help=workers)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=precision)
    add_tower_engine_flag(parser)


def add_tower_engine_flag(parser: Any) -> None:
    """Add --tower-engine: what computes frozen towers on a CPU; parser: argparse's, or a group of its flags."""
    parser.add_argument(
        "--tower-engine", "--tower_engine", choices=TOWER_ENGINES, default="auto",
        help="what computes frozen towers on a CPU; openvino: two to three times as fast as torch in fp32, and equal to 1e-5; auto: it "
        "in fp32 where it is installed, for more than a few items, else torch",
    )  # fmt: skip


def add_key_views_flag(parser: ArgumentParser) -> None:
    """Add --key-views: how many views of a picture its vector is the mean of; None where the model's own number is meant."""
    parser.add_argument(
        "--key-views", "--key_views", type=int, choices=KEY_VIEWS,
        help="views of a picture whose vectors' mean, of length 1, is its vector: 1, the centre that the tower takes; 2, and the picture "
        "squeezed to a square; 4, and the squares at its two ends; the tower works as many times as long (default: what the matcher was "
        "made for, else 1)",
    )  # fmt: skip


def add_hubness_flag(parser: ArgumentParser, bank: str) -> None:
    """Add --hubness; bank: what it is measured in, for its help. None where the snapshot's own is meant."""
    parser.add_argument(
        "--hubness", type=at_least_nothing, metavar="A",
        help=f"take A times each candidate's mean score with its {NEAREST} nearest of a bank off its scores (docs/judging.md says "
        f"what that brings); the bank: {bank}; 0.5 to 0.75 is usual, 0 takes nothing off (default: what the snapshot says)",
    )  # fmt: skip


def precision_help(tower: str, auto: str) -> str:
    """Help of --precision for the stages before retrieval; tower: which tower it is for; auto: what auto means there."""
    return (
        f"what the {tower} computes in; bf16 is faster where the device has units for it, but finds for 1 to 6 lines in 100 "
        f"another best picture (benchmarks/precision.py); auto: {auto}"
    )


def some_path(text: str) -> Path:
    """A path; an empty text, as of a variable that is not set, is an error instead of the current folder."""
    if not text:
        raise ArgumentTypeError("an empty path; give a folder or a file, . for the current folder")
    return Path(text)


def names(text: str) -> list[str]:
    """The names in the value of a flag, separated by commas; blanks around a name do not count."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    if not found:
        raise ArgumentTypeError("no name in it; names were expected, separated by commas")
    return found


def add_roots_flags(parser: ArgumentParser) -> None:
    """Add --lxmert-root, --coco-root, --image-root and --cc-root: where captioned sets and their pictures lie."""
    parser.add_argument("--lxmert-root", default="data/lxmert", help="folder of the LXMERT files (default: %(default)s)")
    parser.add_argument("--coco-root", default="data/mscoco/images", help="folder with train2014/ and val2014/ (default: %(default)s)")
    parser.add_argument(
        "--image-root", default="data/vg/images",
        help="folder of the pictures whose id is not one of COCO's: {img_id}.jpg, .png, ... (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--cc-root", default="data/cc",
        help="folder of Conceptual Captions: training.tsv, validation.tsv, images/training/ and images/validation/ (default: %(default)s)",
    )  # fmt: skip


def roots_of(args: Namespace) -> Roots:
    """The folders given with the flags of `add_roots_flags`."""
    return Roots(Path(args.lxmert_root), Path(args.coco_root), Path(args.image_root), Path(args.cc_root))


def add_engine_flags(parser: ArgumentParser) -> None:
    """Add the flags that split a stage over machines: --engine, --ray-address, --part, --parts and --join."""
    group = parser.add_argument_group("many machines (all paths must lie on a file system that all of them see)")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="local: processes on this machine; ray: actors of a Ray cluster, one per GPU or core (--device and --num-workers are ignored) "
        "(default: %(default)s)",
    )
    group.add_argument("--ray-address", help="address of a running Ray cluster, such as 10.0.0.1:6379 (default: start one on this machine)")
    group.add_argument("--part", type=int, metavar="I", help="do only share I of N (1 to N); the share that ends last joins the results")
    group.add_argument("--parts", type=int, metavar="N", help="number of shares, the same for every share")
    group.add_argument("--join", action="store_true", help="compute nothing, only join the results of the finished shares")


def engine_of(args: Namespace) -> Engine:
    """The engine that the flags of `add_engine_flags` choose; raises UserError for flags that do not go together."""
    if (args.part is None) != (args.parts is None):
        raise UserError("--part I and --parts N are given together")
    if args.part is not None and not 1 <= args.part <= args.parts:
        raise UserError(f"--part {args.part}: from 1 to --parts {args.parts}")
    if args.join and (args.part or args.engine != "local"):
        raise UserError("--join goes with neither --part nor --engine ray: it only joins finished shares")
    if args.part and args.engine != "local":
        raise UserError("--part and --engine ray: one of the two, Ray shares the work out by itself")
    if args.ray_address and args.engine != "ray":
        raise UserError("--ray-address needs --engine ray")
    return Engine(args.engine, args.ray_address, (args.part, args.parts) if args.part else None, args.join)


def compute_of(args: Namespace, processes: int | None = -1) -> Compute:
    """A Compute from those flags for it that the command has. processes: used instead of --num-workers (None: one per GPU or core)."""
    devices = tuple(workers_on(args.device, args.num_workers if processes == -1 else processes))
    given = {name: getattr(args, name) for name in ("batch_size", "decoder", "tower_engine") if hasattr(args, name)}
    if hasattr(args, "cache"):
        given["cache"] = Path(args.cache)
    if hasattr(args, "engine"):
        given["engine"] = engine_of(args)
    return Compute(devices, resolve_precision(args.precision, devices[0]), any_precision=args.precision == "auto", **given)
