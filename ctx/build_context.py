"""Make both context files in one pass over the pictures.

    python ctx/build_context.py --device 0

reads   outputs/captions_db/caption_db.hdf5; COCO's annotations and pictures (--dataset_root), or any folder (--images)
writes  outputs/image_features/vis_ctx.hdf5 and outputs/retrieved_captions/txt_ctx.hdf5, or both to outputs/EXP_NAME/;
        see xvoken/files/context.py; with --hubness also txt_ctx.{BANK}.hubness.npy and .json, see xvoken/files/hubness.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from ctx.options import OUTPUTS, add_model_flags, add_picture_flags, add_retrieval_flags
from ctx.run import load_inputs, load_phrases, make_context
from xvoken import commands
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main
from xvoken.console import say


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Make both context files, of the whole pictures' features and of retrieved phrases, in one pass.")
    add_picture_flags(parser)
    add_retrieval_flags(parser)
    add_model_flags(parser, "", "views")
    args = parser.parse_args(argv)
    visual = OUTPUTS / (args.exp_name or "image_features") / "vis_ctx.hdf5"
    textual = OUTPUTS / (args.exp_name or "retrieved_captions") / "txt_ctx.hdf5"
    inputs = load_inputs(args, visual, textual)
    phrases = load_phrases(args, inputs)
    there = textual.exists()
    make_context(inputs, visual, textual, phrases)
    if not there and textual.exists():  # a share may have left the joining to others
        say(f"look at it with: {commands.page_of_context(textual, args.images, args.image_sets)}")


if __name__ == "__main__":
    run_main(main)
