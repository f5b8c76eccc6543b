"""Carry the vokens of one tokenizer's tokens over to another one's, by the characters that the tokens stand for.

    python vokenization/revokenize_corpus_mp.py --load snap/xmatching/NAME --corpus text/lines.txt --backward-tokenizer-name roberta-base

reads   CORPUS, the text; its tokens by both tokenizers (CORPUS.TOK.hdf5, .line); what vokenize_corpus_mp.py wrote for those of the first
        one: snap/xmatching/NAME/vokens/{corpus}.{IMAGE_SET}, .hdf5, .ids
writes  snap/xmatching/NAME/vokens/TOK/{corpus}.{IMAGE_SET}, .hdf5, .ids; TOK: the second tokenizer. Vokenization's vlm/data.py reads them
        with voken_dir snap/xmatching/NAME/vokens/TOK and suffix {IMAGE_SET}
Each token takes the voken of the token whose characters are most its own. What was retrieved for the lines is copied.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

import numpy as np

from vokenization.layout import Layout, sets_name
from xvoken import commands
from xvoken.cli.flags import Help, Parser, add_engine_flags, at_least, at_least_one, engine_of
from xvoken.cli.main import run_main
from xvoken.encoders.identity import Identity, identify, tokenizer_facts
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files import revokens, vokens
from xvoken.files.corpus import Corpus, read_corpus, same_text
from xvoken.files.hdf5 import open_hdf5
from xvoken.files.image_sets import listed_sets, split_name
from xvoken.files.safe import sha256_of_file
from xvoken.files.voken_kinds import SIGNED, TOKEN, kind_of
from xvoken.kinds import base_name
from xvoken.work.product import Product, one_pass

CHUNK = 20_000  # lines a part
BLOCK = 1 << 22  # bytes read at once


def line_starts(path: Path, lines: list[int], text_mode: bool = False) -> dict[int, int]:
    """The byte at which each of these lines (ascending, from 0) starts; text_mode: \\r alone ends a line too."""
    found, passed, read, left = {0: 0}, 0, 0, [line for line in lines if line]
    with open(path, "rb") as file:
        while left and (block := file.read(BLOCK)):
            block += file.readline()
            codes = np.frombuffer(block, np.uint8)
            returns = (codes == ord("\r")) & (np.append(codes[1:], 0) != ord("\n")) & text_mode
            ends = np.flatnonzero((codes == ord("\n")) | returns)
            while left and left[0] <= passed + len(ends):
                found[left[0]] = read + int(ends[left[0] - passed - 1]) + 1
                left.pop(0)
            passed, read = passed + len(ends), read + len(block)
    return found


def source_of(args: argparse.Namespace, identity: Identity) -> Path:
    """The text file of the vokens to start from; raises UserError if there are none, or if another model made them."""
    where, sets = args.vokens_dir or vokens.folder(identity.home), sorted(split_name(part)[0] for part in listed_sets([args.image_sets]))
    most, images = args.max_img_num if args.max_img_num > 0 else None, 0
    if most:
        keys = key_files.folder(identity.home)
        images = min(most, sum(len(key_files.read_vectors(keys, name)[0]) for name in sets))
    name = sets_name(where, args.corpus.name, sets, most, images)
    hdf5 = vokens.hdf5_file(where, args.corpus.name, name)
    if not hdf5.is_file():
        there = ", ".join(sorted(path.stem for path in where.glob("*.hdf5"))) or "none"
        mend = commands.vokenize(args.load, args.corpus, args.image_sets)
        raise UserError(f"{hdf5} does not exist; make it with: {mend} (there are: {there})")
    if (made_by := vokens.read_settings(hdf5).get("snapshot_hash")) != identity.hash:
        raise UserError(f"{hdf5}: by another model ({made_by}) than {args.load} ({identity.hash}); give that as --load")
    return vokens.text_file(where, args.corpus.name, name)


def lines_of(source: Path, ours: Corpus, theirs: Corpus) -> int:
    """The number of lines that have vokens; raises UserError where vokens and tokens do not go together."""
    hdf5 = source.with_name(f"{source.name}.hdf5")
    with open_hdf5(hdf5, vokens.MAKE, vokens="i1") as file:
        tokens, settings = len(file["vokens"]), file.settings()
    if (then := settings.get("corpus")) != ours.identity:
        raise UserError(
            f"{hdf5}: not of the tokens in {ours.path} ({then}, these are {ours.identity}); give the tokenizer that it was made with"
        )
    if ours.rows.filtered and all(ours.attributes.get(key) == theirs.attributes.get(key) for key in ("filter", "limit")):
        once = np.setxor1d(ours.rows.numbers(0, len(ours)), theirs.rows.numbers(0, len(theirs)))
        if len(once):  # a filter leaves out lines without tokens, and what has tokens is up to the tokenizer
            raise UserError(
                f"{theirs.path}: line {once[0] + 1} of the text, as {len(once):,} in all, has tokens by one of the two tokenizers and none "
                "by the other, which left it out; take such lines out of the text, and make all again"
            )
    if len(ours) != len(theirs):
        raise UserError(f"{theirs.path}: of {len(theirs):,} lines, {ours.path} is of {len(ours):,}; tokenize the same text by both")
    if ours.rows.filtered != theirs.rows.filtered or not np.array_equal(ours.rows.numbers(0, len(ours)), theirs.rows.numbers(0, len(ours))):
        raise UserError(f"{theirs.path}: of other lines of the text than {ours.path}; tokenize it by both with the same --filter")
    lines = len(ours) if tokens == len(ours.tokens) else min(settings.get("lines", 0), len(ours))
    if ours.offsets[lines] != tokens and "sentences" in settings:
        raise UserError(f"{hdf5}: of the first {settings.get('lines')} sentences only, where lines are needed; retrieve without --limit")
    if ours.offsets[lines] != tokens:
        raise UserError(f"{hdf5}: has {tokens:,} vokens, {ours.path} has {ours.offsets[lines]:,} tokens in {lines:,} lines; make it again")
    return lines


def revokenize(args: argparse.Namespace, identity: Identity) -> None:
    """Write the three files, unless they exist already."""
    forward, backward = args.forward_tokenizer_name or identity.tokenizer_name, args.backward_tokenizer_name
    source, named = source_of(args, identity), base_name(backward)
    hdf5 = source.with_name(f"{source.name}.hdf5")
    if not args.corpus.is_file():
        raise UserError(f"{args.corpus} does not exist; the text is needed, as tokens are held against each other by its characters")
    sides = [tokenizer_facts(name).hash for name in (forward, backward)]
    if sides[0] != identity.tokenizer_hash:
        raise UserError(f"--forward-tokenizer-name {forward}: not the tokenizer of {args.load}, whose tokens have the vokens")
    ours, theirs = read_corpus(args.corpus, forward), read_corpus(args.corpus, backward)
    for corpus in (ours, theirs):
        same_text(args.corpus, corpus.path, corpus.attributes.get("corpus"), "the same command")
    lines, settings = lines_of(source, ours, theirs), vokens.read_settings(hdf5)
    kind = kind_of(vokens.read_attributes(hdf5), settings) or (TOKEN if identity.level == TOKEN else SIGNED)
    settings |= {"corpus": theirs.identity, "vokens_of": sha256_of_file(hdf5), "forward": sides[0], "backward": sides[1]}
    path = (args.output or source.parent / named) / source.name
    if path == source:
        raise UserError(f"--output {path.parent}: the vokens that are read lie there; give another folder")
    output = path.with_name(hdf5.name)
    holds = f"the vokens of {named}'s tokens"
    product = Product(output, settings, lambda: vokens.read_settings(output), holds, (path, path.with_name(f"{path.name}.ids")))
    if product.finished():
        return
    with importing():
        from vokenization.spans import RevokenizeJob, Side
    tokens = int(theirs.offsets[lines])
    with one_pass([product], lines, CHUNK, engine_of(args)) as made:
        firsts = [int(ours.rows.numbers(start, start + 1)[0]) for start, _ in made.parts.ranges]
        starts = line_starts(args.corpus, firsts, ours.rows.filtered)
        job = RevokenizeJob(args.corpus, Side(forward, sides[0]), Side(backward, sides[1]), hdf5, kind, starts)
        if not made.run(job, ["cpu"] * args.num_workers, desc=path.name, unit="lines"):
            return
        without = sum(summary["without"] for summary in made.parts.summaries())
        made.report(lines=lines, tokens=tokens, without_picture=without, vokens=kind)
        attributes = {"level": identity.level, "tokenizer": named}
        revokens.write(source, path, (made.parts.load(n) for n in range(len(made.parts.ranges))), tokens, settings, attributes)
    print(f"wrote the vokens of {tokens:,} tokens of {named} in {lines:,} lines to {path} (and .hdf5, .ids)")
    Layout(identity.level, 0, kind).tell(path.parent)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Carry vokens over to the tokens of another tokenizer.", formatter_class=Help)
    parser.add_argument("--load", required=True, help="the model that the vokens were retrieved with, such as snap/xmatching/NAME")
    parser.add_argument("--corpus", required=True, type=Path, help="text file of the corpus, which both tokenizers have tokenized")
    parser.add_argument("--forward-tokenizer-name", help="tokenizer whose tokens have vokens (default: that of the model's text tower)")
    parser.add_argument("--backward-tokenizer-name", required=True, help="tokenizer whose tokens are to get vokens, such as roberta-base")
    parser.add_argument("--image-sets", default="open_images", help="image sets that were searched, separated by commas")
    parser.add_argument("--max-img-num", type=at_least(1, also=-1), default=-1, help="as it was given in retrieval; -1: all images")
    parser.add_argument("--vokens-dir", type=Path, help="folder of the vokens to start from (default: vokens/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: one named by the tokenizer, in that of the vokens)")
    parser.add_argument("--num-workers", type=at_least_one, default=1, help="processes; a tokenizer uses several cores in each")
    add_engine_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    revokenize(args, identify(args.load))


if __name__ == "__main__":
    run_main(main)
