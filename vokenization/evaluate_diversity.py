"""How varied the pictures are that the tokens of a corpus get, and, for captions, how many tokens find their own picture.

    python vokenization/evaluate_diversity.py --load snap/xmatching/NAME --image-sets coco_minival --corpus coco_minival,text/lines.txt

reads   data/lxmert/*.json (captions) or text files; instead CORPUS.TOK.hdf5 and .line where the text is not here or a filter has left
        lines of it out, and .sent with --sentences; snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/eval/diversity.{IMAGE_SET}.{CORPUS}.json: lines, tokens, types, level, averages (as Vokenization reports),
        pictures_per_type, usage, recall (of captions whose pictures are searched, else null; percent); settings: all they depend on
Each token has one picture, found by exact search: its line's, or by a matcher on token level its own. [CLS] and [SEP] have none.
A second run prints the file; if snapshot, keys, lines or precision have changed, it measures again.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from vokenization.diversity import table
from vokenization.evaluate_retrieval import read_record, read_settings
from vokenization.segments import SEGMENT
from vokenization.sentences import Sentences, first_tokens, has_rows, open_tokens, read_sentences
from vokenization.vokenize_corpus_mp import check_tokenizer
from xvoken.cli.flags import LOAD, Help, Parser, add_compute_flags, add_roots_flags, at_least, compute_of, names, precision_help, roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.identity import Identity, identify
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.image_sets import listed_sets, split_name
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.safe import sha256_of_lines, write_json
from xvoken.machine import WORTH_LINES
from xvoken.work.product import Product


def read_corpora(args: argparse.Namespace, identity: Identity) -> list[Sentences]:
    """The sentences of each corpus; raises UserError for one that is not there, or if two would be written to one file."""
    found, roots, most = [], roots_of(args), None if args.maxsents == -1 else args.maxsents
    tokenizer = args.tokenizer_name or identity.tokenizer_name
    for name in args.corpus:
        from_tokens = has_rows(name, tokenizer, args.sentences, roots)
        sentences = None if from_tokens else read_sentences(name, most, args.langs, roots)
        if sentences is None:
            tokens = open_tokens(name, tokenizer, identity.vocabulary, roots, args.sentences)
            check_tokenizer(tokens, identity)
            sentences = first_tokens(tokens, name, most)
        found.append(sentences)
    twice, times = Counter(sentences.name for sentences in found).most_common(1)[0]
    if times > 1:
        raise UserError(f"--corpus: {times} are called {twice}, and would be written to one file; evaluate one at a time, with --output")
    return found


def settings_of(identity: Identity, gallery: Gallery, sentences: Sentences, home: str | None, precision: str) -> dict[str, Any]:
    """All that a record depends on; home: the image set that has the captions' own pictures."""
    segment = {"segment": SEGMENT} if identity.level == "token" else {}
    return {
        "snapshot_hash": identity.hash, "keys": sha256_of_lines(gallery.made_by)[:16],
        "corpus": sentences.hash, "lines": len(sentences), "home": home, "precision": precision, **segment,
    }  # fmt: skip


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="How varied the pictures of a corpus' tokens are; recall of captions' tokens.", formatter_class=Help)
    parser.add_argument("--load", required=True, help=LOAD)
    parser.add_argument("--image-sets", default="coco_minival", help="image sets, separated by commas; all together are the gallery")
    parser.add_argument(
        "--corpus", required=True, type=names, help="sets with captions, and text files (a sentence a line), separated by commas"
    )
    parser.add_argument(
        "--sentences", action=argparse.BooleanOptionalAction, default=False,
        help="of a text, evaluate its sentences instead of its lines: those of CORPUS.TOK.sent",
    )  # fmt: skip
    parser.add_argument(
        "--maxsents", type=at_least(1, also=-1), default=10000, help="lines or sentences of a text that are evaluated; -1: all"
    )
    parser.add_argument("--langs", type=names, default="mscoco", help="sources of captions (keys of sentf), separated by commas")
    parser.add_argument("--tokenizer-name", help="where tokens are read: the tokenizer that made them (default: the snapshot's)")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: eval/ in the snapshot)")
    add_roots_flags(parser)
    add_compute_flags(parser, precision_help("text tower", "bf16 if the device has units for it"), workers=None)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    identity, compute = identify(args.load), compute_of(args, processes=1)
    image_sets = sorted(split_name(image_set)[0] for image_set in listed_sets([args.image_sets]))
    keys_dir = args.keys_dir or key_files.folder(identity.home)
    for image_set in image_sets:
        key_files.require(keys_dir, image_set, args.load)
    gallery = read_keys(keys_dir, image_sets, identity)
    encoder = index = None
    for sentences in read_corpora(args, identity):
        path = (args.output or identity.home / "eval") / f"diversity.{'_'.join(image_sets)}.{sentences.name}.json"
        home = sentences.home(image_sets, roots_of(args))
        settings = settings_of(identity, gallery, sentences, home, compute.precision)
        product, written = Product(path, settings, lambda path=path: read_settings(path), "this diversity", replaced=True), ""
        if not product.finished():
            with importing():
                from vokenization.assignments import measure
                from xvoken.encoders.encoder import load_encoder
                from xvoken.search.index import build_joined
            pace = compute.pace_here(WORTH_LINES, WORTH_LINES)
            encoder = encoder or load_encoder(args.load, ["text"], compute.device, compute.precision, identity.hash, pace)
            index = index or build_joined(gallery.blocks, "auto", compute.device)
            with product.alone() as todo:
                if todo:
                    own = sentences.own_rows(home, gallery.ids)
                    if sentences.captioned and (missing := int((own < 0).sum())):
                        say(f"{sentences.name}: {missing:,} of {len(own):,} captions have no recall, their pictures are not searched")
                    record = measure(encoder, index, sentences, gallery, own)
                    write_json(path, {**record, "snapshot": identity.name, "snapshot_hash": identity.hash, "settings": settings})
                    written = f"\nwrote {path}"
        print(f"{sentences.name} in {'_'.join(image_sets)}: {table(read_record(path))}{written}")


if __name__ == "__main__":
    run_main(main)
