"""Make a snapshot of Vokenization's or Maria's BEST.pth, or a BEST.pth of a snapshot.

    python xmatching/convert.py BEST.pth snap/xmatching/NAME        then keys, retrieval and all else take snap/xmatching/NAME
    python xmatching/convert.py --to BEST.pth snap/xmatching/NAME   for tools that load such a file

reads   BEST.pth, a state dict, and the published weights of its towers; or a snapshot
writes  NAME/BEST.safetensors (+ .json), tokenizer/, README.md (the model's card), and those towers that are other ones than the
        published: BEST.text_tower/, BEST.image_tower.safetensors; or the state dict, by their names
The work itself is xmatching/converted.py; what their names say is xmatching/published.py.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xmatching.conversion import Conversion
from xmatching.kinds import LEVELS
from xmatching.values import layers
from xvoken import commands
from xvoken.cli.flags import Help, Parser, at_least
from xvoken.cli.main import run_main
from xvoken.errors import UserError
from xvoken.kinds import full_name


def build_parser() -> Parser:
    parser = Parser(
        description="Make a snapshot of Vokenization's or Maria's BEST.pth; with --to a BEST.pth of a snapshot. Sizes, level and the "
        "published towers are seen from the file.",
        formatter_class=Help,
    )
    parser.add_argument("source", type=Path, metavar="BEST.pth", help="the state dict; with --to the snapshot")
    parser.add_argument("output", type=Path, nargs="?", metavar="SNAPSHOT", help="folder of the snapshot, such as snap/xmatching/NAME")
    parser.add_argument("--to", type=Path, metavar="BEST.pth", help="write this state dict, by the names of Vokenization or Maria")
    parser.add_argument("--lang", help="the text tower: a short name, a hub id or a folder (default: seen from its sizes)")
    parser.add_argument("--lang-layers", metavar="N,...", help="its layers, counted from the last (default: 4,3,2,1, if there are four)")
    parser.add_argument("--visn", help="the image tower, a ResNet of torchvision (default: seen from its sizes)")
    parser.add_argument("--visn-weights", metavar="FILE", help="its weights before any training (default: published)")
    parser.add_argument("--level", choices=LEVELS, help="whether captions are matched as a whole or token by token (default: seen)")
    parser.add_argument(
        "--max-len", type=at_least(3), help="longest caption in training, in tokens (default: 20 of Vokenization, 75 of Maria, as there)"
    )
    parser.add_argument(
        "--position-ids", action=argparse.BooleanOptionalAction, default=True,
        help="with --to: write the text tower's position ids too, which transformers 3.3 to 4.30 have among the weights, and load with",
    )  # fmt: skip
    return parser


def main(argv: list[str] | None = None) -> None:
    args = build_parser().parse_args(argv)
    names = ("lang", "lang_layers", "visn", "visn_weights", "level", "max_len")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    command = [sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    if args.to:
        if args.output or given:
            flag = f"--{next(iter(given)).replace('_', '-')}" if given else str(args.output)
            raise UserError(f"{flag}: with --to the snapshot alone says what is written; leave it out")
        with importing():
            from xmatching import converted
        converted.to_state_dict(args.source, args.to, args.position_ids)
        return
    if not args.output:
        raise UserError(f"the folder of the snapshot is missing: {commands.convert(args.source)}")
    if "lang_layers" in given:
        given["lang_layers"] = layers(args.lang_layers)
    if "lang" in given:
        given["lang"] = full_name(args.lang)
    conversion = Conversion(args.source, args.output, given)
    if conversion.finished():
        return
    with importing():
        from xmatching import converted
    converted.to_snapshot(conversion, command)


if __name__ == "__main__":
    run_main(main)
