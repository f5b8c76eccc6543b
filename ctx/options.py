"""Flags that the four entry scripts share, and the computing that follows from them."""

import argparse
from dataclasses import replace
from pathlib import Path

from ctx.coco import Source
from xvoken.cli import flags
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files import image_ids
from xvoken.files.image_sets import listed_sets
from xvoken.kinds import MODEL
from xvoken.machine import Compute, cores, cpu_has_bf16, gpu_count

OUTPUTS = Path("outputs")
CAPTION_DB = OUTPUTS / "captions_db/caption_db.hdf5"


def compute_of(args: argparse.Namespace, batch: dict[str, int]) -> tuple[Compute, int]:
    """How to compute, and the number of threads that decode for each process (0: it decodes by itself).

    batch: items in a batch on a "cpu" and on a "gpu", if --batch_size is not given. Raises UserError for numbers below 1.
    """
    for flag in ("batch_size", "limit", "k", "num_workers"):
        if (number := getattr(args, flag, None)) is not None and number < 1:
            raise UserError(f"--{flag} {number}: must be at least 1")
    # With a GPU, --num_workers are decoding threads for it, on a CPU processes.
    on_gpu = gpu_count() > 0 and args.device != "cpu"
    compute = flags.compute_of(args, None if on_gpu else args.num_workers)
    if not on_gpu and args.precision == "fp32" and cpu_has_bf16():
        say("this CPU has bf16 units: --precision bf16 is faster, and moves CLIP's scores by less than 0.001")
    decoders = args.num_workers or max(1, cores() // len(compute.devices))
    size = args.batch_size or batch["gpu" if on_gpu else "cpu"]
    return replace(compute, batch_size=size), decoders if on_gpu else 0


def add_model_flags(parser: argparse.ArgumentParser, exp_name: str, items: str) -> None:
    """Add the flags of all four scripts; exp_name: default name of the output folder; items: what a batch consists of."""
    parser.add_argument(
        "--model",
        default=MODEL,
        help=f"{flags.LOAD} (default: %(default)s)",
    )
    parser.add_argument(
        "--exp_name",
        default=exp_name,
        help=f"folder under {OUTPUTS}/ to write to (default: {exp_name or 'image_features and retrieved_captions'})",
    )
    flags.add_compute_flags(
        parser, "what the tower computes in; auto: bf16 if the device has units for it (default: fp32, equal to other CLIP code to 1e-4)",
        workers="with a GPU, threads that decode for it; on a CPU, processes (default: one per core)",
    )  # fmt: skip
    batch_help = f"{items} that go through the tower at once (default: by device)"
    parser.add_argument("--batch_size", "--batch-size", type=int, help=batch_help)
    parser.add_argument(
        "--limit", type=int, metavar="N", help=f"only the first N {'phrases' if items == 'phrases' else 'pictures'} (default: all)"
    )
    flags.add_engine_flags(parser)


def add_picture_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which pictures there are, and how they are looked at."""
    add_source_flags(parser)
    flags.add_key_views_flag(parser)


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which pictures there are, see source_of."""
    parser.add_argument(
        "--dataset_root",
        type=flags.some_path,
        default=Path("datasets/coco_captions"),
        help="COCO's folder, with annotations/ and the pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--images", type=flags.some_path,
        help="a folder of pictures, or tar shards in quotes ('FOLDER/{00000..00099}.tar'), instead of COCO; a picture's id is its file "
        "name without ending, or, if that name occurs twice, with its folders (a_b_c for a/b/c.jpg)",
    )  # fmt: skip
    parser.add_argument(
        "--image-sets", "--image_sets", nargs="+", help="image sets fixed by create_image_ids.py, separated by commas, instead of COCO"
    )
    parser.add_argument(
        "--ids-root",
        "--ids_root",
        type=flags.some_path,
        default=image_ids.ROOT,
        help="folder of the image sets' .ids files (default: %(default)s)",
    )
    flags.add_roots_flags(parser)


def source_of(args: argparse.Namespace) -> Source:
    """Where the pictures come from, by the flags of add_source_flags; raises UserError for two places at once."""
    if args.images and args.image_sets:
        raise UserError(f"--images {args.images} and --image-sets {' '.join(args.image_sets)}: give one of them")
    sets = tuple(listed_sets(args.image_sets)) if args.image_sets else ()
    return Source(sets, args.images, args.dataset_root, args.ids_root, flags.roots_of(args))


def add_retrieval_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--caption_db",
        type=flags.some_path,
        default=CAPTION_DB,
        help="database of phrases that encode_captions.py wrote (default: %(default)s)",
    )
    parser.add_argument("--k", type=int, default=16, help="phrases to retrieve for each view of a picture (default: 16)")
    flags.add_hubness_flag(parser, "training's pictures, where the snapshot has them, else 4,096 of those listed, which are encoded first")
