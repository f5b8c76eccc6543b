"""Encode pictures with the image tower of a dual encoder.

    python ctx/encode_images.py --device 0

reads   COCO's annotations and pictures (--dataset_root), or any folder (--images); the model
writes  outputs/image_features/vis_ctx.hdf5: one float32 dataset (width,) per picture (768 for CLIP ViT-B/32); see xvoken/files/context.py
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from ctx.options import OUTPUTS, add_model_flags, add_picture_flags
from ctx.run import load_inputs, make_context
from xvoken.cli.flags import Parser
from xvoken.cli.main import run_main


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Encode pictures with the image tower of a dual encoder.")
    add_picture_flags(parser)
    add_model_flags(parser, "image_features", "views")
    args = parser.parse_args(argv)
    visual = OUTPUTS / args.exp_name / "vis_ctx.hdf5"
    make_context(load_inputs(args, visual), visual=visual)


if __name__ == "__main__":
    run_main(main)
