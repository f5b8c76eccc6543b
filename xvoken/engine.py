"""Who does the ranges of a long work: processes here, a Ray cluster, or many machines with a share each."""

import argparse
from dataclasses import dataclass

from xvoken.messages import UserError


@dataclass(frozen=True)
class Engine:
    """name: local or ray; share: (I, N), only every N-th range from the I-th on, counted from 1; join: do none."""

    name: str = "local"
    ray_address: str | None = None
    share: tuple[int, int] | None = None
    join: bool = False

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
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

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Engine":
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
        return cls(args.engine, args.ray_address, (args.part, args.parts) if args.part else None, args.join)
