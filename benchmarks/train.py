"""Seconds of training: the published way with its towers in the loop, against cached towers.

    python benchmarks/train.py

reads   ../shared/coco_sample
prints  a table; the last line is one JSON object. All is computed with one thread of one process, so that the
        ratios hold for any number of processes. vs_straightforward: 25 epochs of COCO the published way (each
        caption with its picture decoded, cropped, and through both fp32 towers, captions padded to 75 tokens) over
        ours (cache built once, 25 epochs on it). of_limit: what the towers alone take on tensors in memory over
        the building of the cache.
"""

import argparse
import json
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.matching_data import sources
from xmatching.data import PairBatches
from xmatching.main import make_learner
from xmatching.pairs import Towers, load_pairs
from xmatching.param import HEAD_FLAGS
from xmatching.training import Learner, Training
from xvoken.devices import autocast, resolve_precision
from xvoken.image_sets import CaptionedSet, Roots, read_captioned
from xvoken.messages import UserError, run_main, say
from xvoken.pictures import load_picture
from xvoken.text_batches import Padding, batches_by_length, pad_lines, tokenize
from xvoken.views import Crops

COCO_PICTURES, COCO_CAPTIONS = 118_287, 591_753  # train2014 and nominival
EPOCHS = 25


def learner_for(args: Namespace, towers: Towers) -> Learner:
    config = {"model": {**towers.config(), **{name: getattr(args, name) for name in HEAD_FLAGS}}}
    return make_learner(args, towers, config, Training.of(args), "cpu")


def published_way(args: Namespace, towers: Towers, part: CaptionedSet, pairs: int) -> float:
    """Seconds per pair with decoding, augmentation and both towers in the loop, fp32."""
    learner, crops = learner_for(args, towers), Crops(1, 0.08, 0)
    padding = Padding.of(towers.tokenizer, args.max_len)
    started = time.perf_counter()
    for first in range(0, pairs, 32):
        captions = part.captions[first : first + 32]
        pixels = torch.cat([crops(load_picture(part.paths[picture]), towers.image.view, picture) for picture, _ in captions])
        tokens, offsets = tokenize(towers.tokenizer, [sentence for _, sentence in captions])
        ids, mask = pad_lines(tokens, offsets[:-1], offsets[1:] - offsets[:-1], padding)
        full = torch.nn.functional.pad(ids, (0, args.max_len - ids.shape[1]), value=padding.pad)
        full_mask = torch.nn.functional.pad(mask, (0, args.max_len - mask.shape[1]))
        with torch.no_grad():
            text, image = towers.text(full, full_mask), towers.image(pixels)
        learner.step(text, image, torch.tensor([picture for picture, _ in captions]), 1)
    return (time.perf_counter() - started) / pairs


def towers_alone(towers: Towers, part: CaptionedSet, precision: str) -> tuple[float, float]:
    """Seconds of the image tower on all pictures and of the text tower on all captions, tensors in memory."""
    pixels = torch.stack([towers.image.view(load_picture(path)) for path in part.paths])
    tokens, offsets = tokenize(towers.tokenizer, list(dict.fromkeys(sentence for _, sentence in part.captions)))
    lengths = offsets[1:] - offsets[:-1]
    padding = Padding.of(towers.tokenizer, towers.max_len)
    batches = [pad_lines(tokens, offsets[rows], lengths[rows], padding) for rows in batches_by_length(lengths, 64)]
    with torch.inference_mode(), autocast("cpu", precision):
        towers.image(pixels[:32]), towers.text(*batches[0])
        started = time.perf_counter()
        for batch in pixels.split(32):
            towers.image(batch)
        images = time.perf_counter() - started
        for ids, mask in batches:
            towers.text(ids, mask)
    return images, time.perf_counter() - started - images


def build(args: Namespace, towers: Towers, part: CaptionedSet) -> tuple[float, PairBatches]:
    """Seconds to build the cache of a set in one process, and its pairs."""
    with tempfile.TemporaryDirectory() as folder:
        args.cache = folder
        started = time.perf_counter()
        data = load_pairs(args, towers, [part], augment=True)
        return time.perf_counter() - started, data


def epoch_seconds(args: Namespace, towers: Towers, data: PairBatches, times: int) -> float:
    """Seconds per pair of an epoch on cached features; the pairs are repeated to fill whole batches."""
    data = PairBatches(data.text, data.images, data.text_rows.repeat(times), data.image_rows.repeat(times))
    learner = learner_for(args, towers)
    learner.epoch(1, data)
    started = time.perf_counter()
    _, pairs = learner.epoch(2, data)
    return (time.perf_counter() - started) / pairs


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds of training.", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--pairs", type=int, default=96, help="pairs timed with the towers in the loop")
    parser.add_argument("--views", type=int, default=0, help="augmented views in the cache, beside the evaluation view")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    source = next((s for s in sources() if s.name == "coco_sample"), None)
    if source is None:
        raise UserError("../shared/coco_sample is not on this machine")
    args = source.args("published", ["--num-workers", "1", "--views", str(flags.views)])
    part = read_captioned("mscoco_train", ["mscoco"], Roots.of(args))
    towers, precision = Towers(args), resolve_precision("auto", "cpu")
    say("the towers in the loop ...")
    theirs = published_way(args, towers, part, flags.pairs) * COCO_CAPTIONS * EPOCHS
    say("the towers alone ...")
    image_alone, text_alone = towers_alone(towers, part, precision)
    say("building the cache ...")
    build_seconds, data = build(args, towers, part)
    step = epoch_seconds(args, towers, data, 10)
    limit = (1 + flags.views) * image_alone + text_alone
    ours = build_seconds / len(part.ids) * COCO_PICTURES + step * COCO_CAPTIONS * EPOCHS
    rows = [
        ("one epoch of COCO, towers in the loop", theirs / EPOCHS),
        (f"{EPOCHS} epochs, towers in the loop", theirs),
        (f"cache of COCO, {flags.views} views, {precision}", build_seconds / len(part.ids) * COCO_PICTURES),
        ("one epoch of COCO on the cache", step * COCO_CAPTIONS),
        (f"cache and {EPOCHS} epochs", ours),
    ]
    for name, seconds in rows:
        print(f"{name:<44}{seconds:12,.0f} s {seconds / 3600:9.2f} h")
    print(f"{len(part.ids)} pictures, {len(part.captions)} captions: towers alone {limit:.1f} s, building the cache {build_seconds:.1f} s")
    result = {"stage": "train", "vs_straightforward": round(theirs / ours, 1), "of_limit": round(limit / build_seconds, 3)}
    print(json.dumps({**result, "views": flags.views, "precision": precision, "pairs_per_second": round(1 / step)}))


if __name__ == "__main__":
    run_main(main)
