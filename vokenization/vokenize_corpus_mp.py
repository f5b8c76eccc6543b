"""Retrieve the best images for every line of a tokenized corpus, in many processes.

    python vokenization/vokenize_corpus_mp.py --load snap/xmatching/NAME --corpus data/reddit/valid.pkl.txt

reads   CORPUS.TOK.hdf5 and .line; snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/vokens/{corpus}.{IMAGE_SET}, .hdf5 (indices, scores, vokens), .ids; see xvoken/files/vokens.py
        with an approximate --index also keys/{IMAGE_SET}.{KIND}.faiss and .json; see xvoken/search/approximate.py
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

from numpy.typing import NDArray

from vokenization.index_choice import Choice, prepare
from vokenization.token_vokens import TokenVokenizeJob
from vokenization.vokenization import VokenizeJob
from xvoken.cli.flags import Help, Parser, add_compute_flags, add_engine_flags, at_least, at_least_one, compute_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.encoders.tokenizer import tokenizer_hash, vocabulary_size
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import vokens
from xvoken.files.corpus import Corpus, same_text
from xvoken.files.image_sets import listed_sets, split_name
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.safe import quoted, sha256_of_lines
from xvoken.kinds import BACKENDS, base_name
from xvoken.machine import TEXT_ON_GPU, Compute, lines_on, suggest_bf16
from xvoken.search.index import require_backend
from xvoken.work.parts import Parts
from xvoken.work.product import Product, one_pass

CHUNK = 2048  # lines a part
EXACT = Choice()


def check_tokenizer(corpus: Corpus, encoder: Encoder) -> None:
    """Refuse tokens that another tokenizer made; raises UserError."""
    made_by, expected = corpus.attributes.get("tokenizer_hash"), tokenizer_hash(encoder.tokenizer)
    if made_by is None:  # a file of the predecessors, which do not say
        say(f"warning: {corpus.path} does not say which tokenizer made it; it must be that of {encoder.name}")
        largest, known = corpus.largest_token(), vocabulary_size(encoder.tokenizer)
        if largest >= known:
            raise UserError(f"{corpus.path}: token id {largest} is beyond the {known} of {encoder.name}'s tokenizer; another one made it")
    elif made_by != expected:
        raise UserError(
            f"{corpus.path}: made by another tokenizer ({corpus.attributes.get('tokenizer')}, {made_by}) than the snapshot's "
            f"({expected}); tokenize with: python tokenization/tokenize_dataset.py DATA_DIR FILE {encoder.tokenizer_name}"
        )


def part_arrays(parts: Parts) -> Iterator[tuple[NDArray, ...]]:
    for number in range(len(parts.ranges)):
        arrays = parts.load(number)
        yield tuple(arrays[name] for name in ("indices", "scores", "counts", "vokens") if name in arrays)


def vokenize(
    job: VokenizeJob, corpus: Corpus, gallery: Gallery, output: Path, sets: str, limit: int | None, encoder: Encoder,
    compute: Compute, choice: Choice = EXACT,
) -> None:  # fmt: skip
    """Write the three files, unless they stand there already."""
    lines = min(len(corpus), limit or len(corpus))
    tokens = int(corpus.offsets[lines])
    settings = {
        "snapshot_hash": encoder.hash, "keys": sha256_of_lines(gallery.made_by)[:16], "images": len(gallery.ids),
        "corpus": corpus.identity, "lines": lines,
        "topk": job.topk, "precision": job.precision, "backend": job.backend,
    }  # fmt: skip
    attributes = {"snapshot": encoder.name, "snapshot_hash": encoder.hash, "scores": "inner products of normalized vectors"}
    name, record = job.corpus.name, None
    path, hdf5_path = vokens.text_file(output, name, sets), vokens.hdf5_file(output, name, sets)
    ids_path = vokens.ids_file(output, name, sets)
    product = Product(
        hdf5_path, settings, lambda: vokens.read_settings(hdf5_path), f"the images of these {lines:,} lines", (path, ids_path)
    )
    if choice.kind != "flat":
        settings["index"] = choice.kind
        product.stands(unknown=("index_id", "effort"))  # refused before an index is built
        job.saved, record = prepare(choice, job, corpus, gallery, sets, settings)
        settings |= {"index_id": record["id"], "effort": record["effort"]}
        attributes["index"] = json.dumps(record)
    if product.finished():
        return
    suggest_bf16(compute)
    with one_pass([product], lines, lines_on(compute.device, CHUNK), compute.engine) as made:
        if not made.run(job, compute.devices, desc=path.name, unit="lines"):
            return
        vokens.write_ids(ids_path, gallery.ids)
        empty, cut = (sum(summary[key] for summary in made.parts.summaries()) for key in ("empty", "cut"))
        made.report(lines=lines, empty=empty, cut=cut, tokens=tokens, images=len(gallery.ids), index=record or "flat")
        vokens.write(path, hdf5_path, part_arrays(made.parts), lines, tokens, job.topk, gallery.names, settings, attributes)
    counts = f"{lines:,} lines ({empty:,} empty, {cut:,} cut to the tower's length)"
    print(f"wrote the top {job.topk} of {len(gallery.ids):,} images for {counts} to {path} (and .hdf5, .ids)")


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Retrieve the best images for every line of a corpus.", formatter_class=Help)
    parser.add_argument(
        "--load", required=True, help="a matcher's snapshot, as snap/xmatching/NAME, or a CLIP or SigLIP model by hub id or folder"
    )
    parser.add_argument("--corpus", required=True, type=Path, help="the corpus as it was given to tokenize_dataset.py")
    parser.add_argument("--tokenizer-name", help="name in the tokenized files' names (default: that of the snapshot's text tower)")
    parser.add_argument("--image-sets", default="open_images", help="image sets with commas; together they are one index")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: vokens/ in the snapshot)")
    parser.add_argument("--topk", type=at_least_one, default=5, help="images a line")
    parser.add_argument("--max-img-num", type=at_least(1, also=-1), default=-1, help="only the first N images of the index; -1: all")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="only the first N lines")
    Choice.add_flags(parser)
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="exact search by faiss or torch; auto: the faster one here")
    parser.add_argument("--batch-size", type=at_least_one, default=64, help=f"lines in a batch (times {TEXT_ON_GPU} on a GPU)")
    add_compute_flags(parser, "text tower", "bf16 where it is fast")
    add_engine_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    compute = compute_of(args)
    require_backend(args.backend)  # before a plan is written that keeps the backend
    encoder = load_encoder(args.load, [], "cpu")
    most = args.max_img_num if args.max_img_num > 0 else None
    tokenizer = args.tokenizer_name or encoder.tokenizer_name
    tokenizer_name = base_name(tokenizer)
    image_sets = sorted(split_name(part)[0] for part in listed_sets([args.image_sets]))
    keys_dir = args.keys_dir or key_files.folder(encoder.home)
    for image_set in image_sets:
        key_files.require(keys_dir, image_set, args.load)
    gallery = read_keys(keys_dir, image_sets, encoder, most)
    if args.topk > len(gallery.ids):
        raise UserError(f"--topk {args.topk}: the index has {len(gallery.ids)} images only ({', '.join(image_sets)})")
    corpus = Corpus(args.corpus, tokenizer_name, tokenizer)
    check_tokenizer(corpus, encoder)
    sets = "_".join(image_sets) + (f".{most}" if most else "")
    output = args.output or vokens.folder(encoder.home)
    finished = vokens.hdf5_file(output, args.corpus.name, sets)
    again = f"rm {quoted(finished)}, then the same command" if finished.exists() else "the same command"
    same_text(args.corpus, corpus.path, corpus.attributes.get("corpus"), again)
    choice = Choice.of(args, encoder, corpus, len(gallery.ids))
    job = (TokenVokenizeJob if encoder.level == "token" else VokenizeJob)(
        load=args.load, corpus=args.corpus, tokenizer_name=tokenizer_name, keys_dir=keys_dir, image_sets=image_sets, most=most,
        topk=args.topk, backend=args.backend, precision=compute.precision, batch_size=args.batch_size,
        workers=len(compute.devices),
    )  # fmt: skip
    vokenize(job, corpus, gallery, output, sets, args.limit, encoder, compute, choice)


if __name__ == "__main__":
    run_main(main)
