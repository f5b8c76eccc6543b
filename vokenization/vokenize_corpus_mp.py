"""Retrieve the best images for every line of a tokenized corpus, in many processes.

    python vokenization/vokenize_corpus_mp.py --load snap/xmatching/NAME --corpus data/reddit/valid.pkl.txt

reads   CORPUS.TOK.hdf5 and .line (with --sentences .sent); snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/vokens/{corpus}.{IMAGE_SET}, .hdf5 (indices, scores, vokens), .ids; see xvoken/files/vokens.py
        where a row is not a line of the text also .hdf5's line and span, which say where it stands; see xvoken/files/rows.py
        with a calibration in the snapshot also .hdf5's probability, that a line's best image is right
        with an approximate --index also keys/{IMAGE_SET}.{KIND}.faiss and .json; see xvoken/search/approximate.py
        with --hubness also keys/{IMAGE_SET}.{BANK}.hubness.npy and .json; see xvoken/files/hubness.py
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from numpy.typing import NDArray

from vokenization.hubness import Bank, require_calibration, warn_of_calibration, warn_of_few
from vokenization.index_choice import Choice, known_record, tell
from vokenization.layout import NOT_OF_INDEX, Layout, sets_name
from xvoken import commands
from xvoken.cli.flags import (
    LOAD,
    Help,
    Parser,
    add_compute_flags,
    add_engine_flags,
    add_hubness_flag,
    at_least,
    at_least_one,
    compute_of,
    precision_help,
    share,
)
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.identity import Identity, identify
from xvoken.errors import UserError
from xvoken.files import hubness, indexes, vokens
from xvoken.files import keys as key_files
from xvoken.files.corpus import Corpus, read_corpus, same_text
from xvoken.files.image_sets import listed_sets, split_name
from xvoken.files.keys import Gallery, read_keys
from xvoken.files.rows import Rows
from xvoken.files.safe import quoted, sha256_of_lines
from xvoken.kinds import BACKENDS, base_name
from xvoken.machine import TEXT_BATCH, TEXT_ON_GPU, WORTH_LINES, Compute, lines_a_part, suggest_bf16
from xvoken.work.parts import Parts
from xvoken.work.product import Product, begun_with, one_pass, settled

CHUNK = 1024  # lines per part, at least


def check_tokenizer(corpus: Corpus, identity: Identity) -> None:
    """Raise UserError for tokens that another tokenizer made."""
    made_by = corpus.attributes.get("tokenizer_hash")
    if made_by is None:  # the predecessors' files do not name their tokenizer
        say(f"warning: {corpus.path} does not say which tokenizer made it; it must be that of {identity.name}")
        if (largest := corpus.largest_token()) >= identity.vocabulary:
            raise UserError(
                f"{corpus.path}: token id {largest} is beyond the {identity.vocabulary} ids of {identity.name}'s tokenizer; another "
                "tokenizer made it"
            )
    elif made_by != identity.tokenizer_hash:
        raise UserError(
            f"{corpus.path}: made by another tokenizer ({corpus.attributes.get('tokenizer')}, {made_by}) than the snapshot's "
            f"({identity.tokenizer_hash}); tokenize again with: {commands.tokenize(tokenizer=identity.tokenizer_name)}"
        )


def part_arrays(parts: Parts, rows: Rows) -> Iterator[dict[str, NDArray]]:
    for number, (start, stop) in enumerate(parts.ranges):
        yield {**parts.load(number), **rows.arrays(start, stop)}


@dataclass
class Retrieval:
    """A request for the best images of a gallery for the lines of a corpus.

    most: only the gallery's first so many images (None: all); name: the gallery's name in the names of the files.
    bank: that in which hubness is measured, None if nothing is taken off the scores; layout: how tokens get their vokens.
    """

    args: argparse.Namespace
    identity: Identity
    compute: Compute
    corpus: Corpus
    tokenizer_name: str
    image_sets: list[str]
    keys_dir: Path
    gallery: Gallery
    most: int | None
    name: str
    output: Path
    layout: Layout
    bank: Bank | None = None

    @property
    def lines(self) -> int:
        return min(len(self.corpus), self.args.limit or len(self.corpus))

    def settings(self) -> dict[str, Any]:
        """All that the result of exact search depends on."""
        bank = {"hubness": self.bank.alpha, "bank": self.bank.hash} if self.bank else {}
        least = {} if self.args.min_probability is None else {"min_probability": self.args.min_probability}
        return {
            "snapshot_hash": self.identity.hash, "keys": sha256_of_lines(self.gallery.made_by)[:16], "images": len(self.gallery),
            "corpus": self.corpus.identity, "lines": self.lines, **self.corpus.row_settings,
            "topk": self.args.topk, "precision": self.compute.precision, "backend": self.args.backend, **bank, **least,
            **self.layout.settings(),
        }  # fmt: skip

    @property
    def hubness_file(self) -> Path | None:
        """Where the numbers lie that are taken off the scores, None if nothing is."""
        return hubness.numbers_file(self.keys_dir, self.name, self.bank.hash) if self.bank else None

    def job(self) -> Any:
        with importing():
            from vokenization.token_vokens import TokenVokenizeJob
            from vokenization.vokenization import VokenizeJob
            from xvoken.search.index import require_backend
        require_backend(self.args.backend)  # before a plan is written that keeps the backend
        return (TokenVokenizeJob if self.identity.level == "token" else VokenizeJob)(
            load=self.args.load, corpus=self.args.corpus, tokenizer_name=self.tokenizer_name, keys_dir=self.keys_dir,
            sentences=self.args.sentences,
            image_sets=self.image_sets, most=self.most, topk=self.args.topk, backend=self.args.backend, precision=self.compute.precision,
            batch_size=self.compute.batch_size or TEXT_BATCH, workers=len(self.compute.devices), expected=self.identity.hash,
            hubness=self.hubness_file, least=self.args.min_probability or 0.0, pace=self.compute.pace(self.lines, WORTH_LINES),
            segment=self.layout.segment or 0,
        )  # fmt: skip

    def ready_job(self) -> Any:
        """The job, with the file that it needs where hubness is taken off."""
        job = self.job()
        if self.bank and self.hubness_file:
            from vokenization.hubness import prepare

            prepare(self.bank, job, self.gallery, self.hubness_file, self.compute.device)
        return job

    def keys(self) -> Any:
        """The keys of an approximate index: the gallery's vectors, with one more dimension where hubness is taken off."""
        if not self.hubness_file:
            return self.gallery.vectors
        from xvoken.search.hubness import extended

        return extended([self.gallery.vectors], hubness.read(self.hubness_file))[0]


def prepared_index(asked: Retrieval, choice: Choice, settings: dict[str, Any]) -> tuple[Path, dict[str, Any], Any]:
    """Build and measure the approximate index, unless it is there: its file, its record, and the job, if that was needed."""
    bank = asked.bank.hash if asked.bank else ""
    path, job = indexes.index_file(asked.keys_dir, asked.name, choice.kind, bank), None
    if asked.hubness_file and not hubness.written(asked.hubness_file):
        job = asked.ready_job()
    keys, settings = asked.keys(), {name: value for name, value in settings.items() if name not in NOT_OF_INDEX}
    if (record := known_record(choice, keys, path, settings)) is None:
        job = job or asked.ready_job()
        from vokenization.index_recall import prepare

        record = prepare(choice, job, asked.corpus, keys, path, settings)
    tell(choice, path, record)
    return path, record, job


def vokenize(asked: Retrieval, choice: Choice) -> None:
    """Write the three files, unless they exist already."""
    where, name, sets, settings = asked.output, asked.args.corpus.name, asked.name, asked.settings()
    path, hdf5_path, ids_path = (file(where, name, sets) for file in (vokens.text_file, vokens.hdf5_file, vokens.ids_file))
    noun = asked.corpus.rows.noun
    holds = f"the images of these {asked.lines:,} {noun}s"
    product = Product(hdf5_path, settings, lambda: vokens.read_settings(hdf5_path), holds, (path, ids_path))
    scores = asked.bank.told() if asked.bank else "inner products of normalized vectors"
    model = {"snapshot": asked.identity.name, "snapshot_hash": asked.identity.hash, "level": asked.identity.level}
    attributes = {**model, "scores": scores}
    job = record = None
    if choice.kind != "flat":
        settings["index"] = choice.kind
        product.stands(unknown=("index_id", "effort"))  # other settings are refused before an index is built
        index_path, record, job = prepared_index(asked, choice, settings)
        settings |= {"index_id": record["id"], "effort": record["effort"]}
        attributes["index"] = json.dumps(record)
    if product.finished():
        return
    job = job or asked.ready_job()
    if record:
        from xvoken.search.approximate import SavedIndex

        job.saved = SavedIndex(index_path, choice.kind, record["effort"])
    suggest_bf16(asked.compute)
    tokens = int(asked.corpus.offsets[asked.lines])
    with one_pass([product], asked.lines, lines_a_part(asked.lines, asked.compute.device, CHUNK), asked.compute.engine) as made:
        if not made.run(job, asked.compute.devices, desc=path.name, unit=f"{noun}s"):
            return
        attributes |= vokens.write_ids(ids_path, asked.gallery.ids)
        summaries = list(made.parts.summaries())
        empty, (cut, told) = sum(summary["empty"] for summary in summaries), asked.layout.counted(summaries)
        left = sum(summary.get("without", 0) for summary in summaries)  # only with a calibration
        without = {} if asked.args.min_probability is None else {"without_picture": left}
        counts = {"lines": asked.lines, "empty": empty, **cut, **without, "tokens": tokens, "images": len(asked.gallery)}
        made.report(**counts, index=record or "flat", vokens=asked.layout.said())
        joined = part_arrays(made.parts, asked.corpus.rows)
        vokens.write(path, joined, asked.lines, tokens, asked.args.topk, asked.gallery.names, settings, attributes)
    lines = f"{asked.lines:,} {noun}s ({empty:,} empty, {told})" + (f", {left:,} {noun}s left without a picture," if without else "")
    print(f"wrote the top {asked.args.topk} of {len(asked.gallery):,} images for {lines} to {path} (and .hdf5, .ids)")
    asked.layout.tell(where)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = Parser(description="Retrieve the best images for every line of a corpus.", formatter_class=Help)
    parser.add_argument("--load", required=True, help=LOAD)
    parser.add_argument("--corpus", required=True, type=Path, help="text file of the corpus, which tokenize_dataset.py has tokenized")
    parser.add_argument(
        "--sentences", action=argparse.BooleanOptionalAction, default=False,
        help="retrieve for every sentence of the corpus instead of every line: a row is one of CORPUS.TOK.sent",
    )  # fmt: skip
    parser.add_argument("--tokenizer-name", help="tokenizer whose tokens are read (default: that of the snapshot's text tower)")
    parser.add_argument("--image-sets", default="open_images", help="image sets, separated by commas; they are searched together")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: vokens/ in the snapshot)")
    parser.add_argument("--topk", type=at_least_one, default=5, help="number of images for each line")
    parser.add_argument("--max-img-num", type=at_least(1, also=-1), default=-1, help="search only the first N images; -1: all")
    parser.add_argument("--limit", type=at_least_one, metavar="N", help="retrieve only for the first N lines, or sentences")
    Layout.add_flags(parser)
    Choice.add_flags(parser)
    add_hubness_flag(parser, "at most 4,096 lines of the corpus, with training's captions where the snapshot has them")
    parser.add_argument(
        "--min-probability", type=share, metavar="P",
        help="leave lines without a picture where the best one is right with a probability below P, from 0 to 1, by the snapshot's "
        "calibration (docs/judging.md)",
    )  # fmt: skip
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="exact search by faiss or torch; auto: the faster one here")
    parser.add_argument("--batch-size", type=at_least_one, help=f"lines in a batch, times {TEXT_ON_GPU} on a GPU (default: {TEXT_BATCH})")
    add_compute_flags(parser, precision_help("text tower", "bf16 if the device has units for it"))
    add_engine_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    compute = compute_of(args)
    identity = identify(args.load)
    most = args.max_img_num if args.max_img_num > 0 else None
    tokenizer = args.tokenizer_name or identity.tokenizer_name
    image_sets = sorted(split_name(part)[0] for part in listed_sets([args.image_sets]))
    keys_dir = args.keys_dir or key_files.folder(identity.home)
    for image_set in image_sets:
        key_files.require(keys_dir, image_set, args.load)
    gallery = read_keys(keys_dir, image_sets, identity, most)
    if args.topk > len(gallery):
        raise UserError(f"--topk {args.topk}: there are only {len(gallery)} images ({', '.join(image_sets)})")
    corpus = read_corpus(args.corpus, tokenizer, args.sentences)
    check_tokenizer(corpus, identity)
    output = args.output or vokens.folder(identity.home)
    name = sets_name(output, args.corpus.name, image_sets, most, len(gallery))
    finished = vokens.hdf5_file(output, args.corpus.name, name)
    begun = begun_with(finished, lambda: vokens.read_settings(finished))
    compute, layout = settled(compute, begun), Layout.of(args, identity.level, begun)
    layout.tell_old(finished)
    if begun and args.index == "auto":
        args.index = begun.get("index", "flat")
    again = f"rm {quoted(finished)}, then the same command" if finished.exists() else "the same command"
    same_text(args.corpus, corpus.path, corpus.attributes.get("corpus"), again)
    alpha = identity.hubness if args.hubness is None else args.hubness
    if args.min_probability is not None:
        require_calibration(identity, "--min-probability")
    warn_of_calibration(identity, alpha)
    warn_of_few(identity, len(gallery))
    if args.hubness is None and not corpus.offsets[len(corpus)]:
        alpha = 0.0  # nothing is searched for
    bank = Bank.of(alpha, corpus, gallery, identity.hash, compute.precision) if alpha > 0 else None
    where = (image_sets, keys_dir, gallery, most, name, output)
    asked = Retrieval(args, identity, compute, corpus, base_name(tokenizer), *where, layout, bank)
    vokenize(asked, Choice.from_args(args, identity, corpus, len(gallery)))


if __name__ == "__main__":
    run_main(main)
