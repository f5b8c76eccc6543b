"""Retrieve phrases for each picture, for its five crops and for its nine crops.

    python ctx/retrieve_captions.py --device 1

reads   outputs/captions_db/caption_db.hdf5; COCO's annotations and pictures (--dataset_root), or any folder (--images)
writes  outputs/retrieved_captions/txt_ctx.hdf5: features, scores and texts of the top k; see xvoken/files/context.py
        with --hubness also txt_ctx.{BANK}.hubness.npy and .json beside it; see xvoken/files/hubness.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from ctx.options import OUTPUTS, add_model_flags, add_picture_flags, add_retrieval_flags
from ctx.run import load_inputs, load_phrases, make_context
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Retrieve phrases for each picture, for its five crops and for its nine crops.")
    add_picture_flags(parser)
    add_retrieval_flags(parser)
    add_model_flags(parser, "retrieved_captions", "views")
    args = parser.parse_args(argv)
    textual = OUTPUTS / args.exp_name / "txt_ctx.hdf5"
    inputs = load_inputs(args, textual)
    make_context(inputs, textual=textual, phrases=load_phrases(args, inputs))


if __name__ == "__main__":
    run_main(main)
