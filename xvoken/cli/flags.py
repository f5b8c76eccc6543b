"""Command-line flags: a value that makes no sense ends with one line of what is needed, and exit code 2; and their help."""

from argparse import SUPPRESS, Action, ArgumentDefaultsHelpFormatter, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from xvoken.errors import UserError
from xvoken.files.image_sets import Roots
from xvoken.machine import PRECISIONS, Compute, Engine, resolve_precision, workers_on


def at_least(least: int, also: int | None = None) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` on; also: one more that is taken, as -1 for all."""

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


class Help(ArgumentDefaultsHelpFormatter):
    """Help that names defaults: not where there is none, nor where the text names it."""

    def _get_help_string(self, action: Action) -> str | None:
        nothing = any(action.default is value for value in (None, False, SUPPRESS))
        named = action.required or nothing or "(default" in (action.help or "")
        return action.help if named else super()._get_help_string(action)


class Parser(ArgumentParser):
    """A wrong flag is one line, as other mistakes are, without the list of all flags before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; {self.prog} --help says more\n")


def add_compute_flags(parser: ArgumentParser, precision: str, workers: str = "processes (default: one per GPU or core)") -> None:
    """--device, --num-workers and --precision of all stages with a tower; precision, workers: what they mean there."""
    parser.add_argument("--device", default="auto", help="auto (all GPUs, else the CPU), cpu, cuda, or a GPU's number (default: auto)")
    parser.add_argument("--num-workers", "--num_workers", type=int, help=workers)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32", help=precision)


def precision_help(tower: str, auto: str) -> str:
    """Of the stages that retrieval depends on; auto: what that precision means there."""
    return (
        f"of the {tower}; bf16: several times as fast where the device has the units, but with it the best picture of 1 line in 100 "
        f"is another one (benchmarks/precision.py); auto: {auto}"
    )


def add_roots_flags(parser: ArgumentParser) -> None:
    parser.add_argument("--lxmert-root", default="data/lxmert", help="folder of the LXMERT files (default: %(default)s)")
    parser.add_argument("--coco-root", default="data/mscoco/images", help="folder with train2014/ and val2014/ (default: %(default)s)")
    parser.add_argument(
        "--image-root", default="data/vg/images",
        help="folder of all pictures whose id is not COCO's: {img_id}.jpg, .png, ... (default: %(default)s)",
    )  # fmt: skip


def roots_of(args: Namespace) -> Roots:
    return Roots(Path(args.lxmert_root), Path(args.coco_root), Path(args.image_root))


def add_engine_flags(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("many machines (paths on a file system that all of them see)")
    group.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="processes on this machine, or a Ray cluster's actors: one a GPU, or one a core, whatever --device and --num-workers say",
    )
    group.add_argument("--ray-address", help="of a running Ray cluster, as 10.0.0.1:6379; without it Ray starts one here")
    group.add_argument("--part", type=int, metavar="I", help="do share I of --parts N only, I from 1 to N; who ends last joins")
    group.add_argument("--parts", type=int, metavar="N", help="number of shares; the same for all of them")
    group.add_argument("--join", action="store_true", help="do no work, only join what the shares have finished")


def engine_of(args: Namespace) -> Engine:
    """Raises UserError for flags that do not go together."""
    if (args.part is None) != (args.parts is None):
        raise UserError("--part I and --parts N are given together")
    if args.part is not None and not 1 <= args.part <= args.parts:
        raise UserError(f"--part {args.part}: from 1 to --parts {args.parts}")
    if args.join and (args.part or args.engine != "local"):
        raise UserError("--join goes with neither --part nor --engine ray: it only joins what is done")
    if args.part and args.engine != "local":
        raise UserError("--part and --engine ray: one of the two, Ray shares the work out by itself")
    if args.ray_address and args.engine != "ray":
        raise UserError("--ray-address needs --engine ray")
    return Engine(args.engine, args.ray_address, (args.part, args.parts) if args.part else None, args.join)


def compute_of(args: Namespace, processes: int | None = -1) -> Compute:
    """From whatever flags of it a command has. processes: where --num-workers does not say it (None: one per GPU or core)."""
    devices = tuple(workers_on(args.device, args.num_workers if processes == -1 else processes))
    given = {name: getattr(args, name) for name in ("batch_size", "decoder") if hasattr(args, name)}
    if hasattr(args, "cache"):
        given["cache"] = Path(args.cache)
    if hasattr(args, "engine"):
        given["engine"] = engine_of(args)
    return Compute(devices, resolve_precision(args.precision, devices[0]), **given)
