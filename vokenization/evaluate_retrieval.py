"""Recall over whole image sets, in both directions.

    python vokenization/evaluate_retrieval.py --load snap/xmatching/NAME --image-sets coco_minival

reads   data/lxmert/*.json (captions), snap/xmatching/NAME and its keys/{IMAGE_SET}.hdf5
writes  snap/xmatching/NAME/eval/{IMAGE_SET}.json: images, captions, text_to_image {R1, R5, R10, median_rank},
        image_to_text {...}, chance {...}; recalls in percent
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import torch

from xvoken.cache.texts import sentence_means, text_features, token_features
from xvoken.cli.flags import Help, Parser, add_compute_flags, add_roots_flags, compute_of, roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.image_sets import LXMERT_NAMES, Roots, captioned_sets, listed_sets, lxmert_file, read_captioned, split_name
from xvoken.files.keys import read_keys
from xvoken.files.locks import sole_writer
from xvoken.files.safe import all_written, write_json
from xvoken.machine import Compute
from xvoken.recall import evaluate, table


def evaluate_set(encoder: Encoder, name: str, keys_dir: Path, langs: list[str], roots: Roots, compute: Compute) -> dict[str, Any]:
    """The record of one image set: all its captions against all its keys."""
    if not lxmert_file(name, roots).exists() and name not in LXMERT_NAMES:
        raise UserError(f"{name}: has no captions to evaluate with; sets that have some in {roots.lxmert}: {captioned_sets(roots)}")
    captioned = read_captioned(name, langs, roots)
    gallery = read_keys(keys_dir, [name], encoder)
    row_of = {key_id.split("/", 1)[1]: row for row, key_id in enumerate(gallery.ids)}
    captions = [(row_of[captioned.ids[picture]], text) for picture, text in captioned.captions if captioned.ids[picture] in row_of]
    if not captions:
        raise UserError(f"{name}: none of its captions belongs to one of its {len(gallery.ids)} keys")
    if len(captions) < len(captioned.captions):
        say(f"{name}: {len(captioned.captions) - len(captions)} captions of pictures without a key left out")
    sentences = list(dict.fromkeys(text for _, text in captioned.captions))
    by_token = encoder.level == "token"
    # Cut as in training, whose validation measured the same, and whose cache is found again.
    made = token_features if by_token else text_features
    features = made(encoder.text_spec, encoder.text.tower, encoder.tokenizer, sentences, encoder.max_len, compute, name)
    if by_token:
        text = sentence_means(features, encoder.text_head)
    else:
        text = encoder.text_vectors(torch.from_numpy(features.rows.astype("float32")))
    text_row = {sentence: row for row, sentence in enumerate(sentences)}
    rows = torch.tensor([text_row[sentence] for _, sentence in captions])
    return evaluate(text[rows], torch.from_numpy(gallery.vectors), torch.tensor([row for row, _ in captions]))


def main() -> None:
    parser = Parser(description="Recall over whole image sets, both directions.", formatter_class=Help)
    parser.add_argument(
        "--load", required=True, help="a matcher's snapshot, as snap/xmatching/NAME, or a CLIP or SigLIP model by hub id or folder"
    )
    parser.add_argument("--image-sets", default="coco_minival", help="image sets with captions, with commas")
    parser.add_argument("--langs", default="mscoco", help="sources of sentences (keys of sentf), with commas")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: eval/ in the snapshot)")
    add_roots_flags(parser)
    parser.add_argument("--cache", default="data/cache", help="folder for the tower's outputs")
    add_compute_flags(parser, "text tower", "as training takes it, whose cache is then used again")
    args = parser.parse_args()
    encoder = load_encoder(args.load, ["text"], "cpu")
    compute = compute_of(args)
    for image_set in listed_sets([args.image_sets]):
        name, _ = split_name(image_set)
        keys_dir = args.keys_dir or key_files.folder(encoder.home)
        path = (args.output or encoder.home / "eval") / f"{name}.json"
        with sole_writer(path):
            record = evaluate_set(encoder, name, keys_dir, args.langs.split(","), roots_of(args), compute)
            write_json(path, {**record, "snapshot": encoder.name, "snapshot_hash": encoder.hash})
            all_written(path)
        print(f"{name}: {table(record)}\nwrote {path}")


if __name__ == "__main__":
    run_main(main)
