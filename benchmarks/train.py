"""Time of training: the published way with the towers in the loop, against training on the towers' cached outputs.

    python benchmarks/train.py [--small]

reads   ../shared/coco_sample (with --small it makes photos instead)
prints  a table; the last line is one JSON object. The towers have the published sizes (ResNeXt-101 32x8d, BERT-base) and
        random weights. All is computed with one thread of one process, like in each of our workers, so that the ratios
        hold for any number of processes; loading of the towers is left out everywhere. vs_straightforward: time of 25
        epochs of COCO the published way (for each caption the picture is decoded, cropped, and both go through the fp32
        towers, captions padded to 75 tokens), divided by our time (cache built once, 25 epochs on it). of_limit: time of the
        towers alone on tensors in memory, divided by the time to build the cache.
"""

import json
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks import worlds
from benchmarks.matching_data import Source, coco_sample, small_source
from benchmarks.measure import machine, make_parser, seconds, threads
from xmatching.data import CachedInputs, PairBatches
from xmatching.pairs import Towers
from xmatching.settings import Training, model_of
from xmatching.stage import make_learner
from xmatching.training import Learner
from xvoken.cache.augmented import AugmentedJob
from xvoken.cache.features import Features
from xvoken.cache.images import ImageJob
from xvoken.cache.texts import TextJob
from xvoken.cli.flags import roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.frozen import batches_by_length
from xvoken.files.image_sets import CaptionedSet, read_captioned
from xvoken.machine import IMAGE_BATCH, resolve_precision
from xvoken.pictures.augment import Crops
from xvoken.pictures.decode import load_picture
from xvoken.towers.image import for_inference
from xvoken.towers.padding import Padding, pad_lines
from xvoken.towers.precision import autocast, cast_weights
from xvoken.towers.tokenizer import load_tokenizer, tokenize

COCO_PICTURES, COCO_CAPTIONS = 118_287, 591_753  # train2014 and nominival
EPOCHS = 25


def learner_for(args: Namespace, towers: Towers) -> Learner:
    return make_learner(args, towers, model_of(args, towers.text_facts(), towers.image_facts()), Training.from_args(args), "cpu")


def published_way(args: Namespace, towers: Towers, part: CaptionedSet, pairs: int) -> float:
    """Seconds per pair with decoding, augmentation and both towers in the loop, fp32."""
    learner, crops = learner_for(args, towers), Crops(1, 0.08, 0)
    padding = Padding.for_tokenizer(towers.tokenizer, args.max_len)
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
    tokens, offsets = tokenize(towers.tokenizer, distinct(part))
    lengths = offsets[1:] - offsets[:-1]
    padding = Padding.for_tokenizer(towers.tokenizer, towers.max_len)
    batches = [pad_lines(tokens, offsets[rows], lengths[rows], padding) for rows in batches_by_length(lengths, 64)]
    text, image = cast_weights(towers.text_spec.build(), precision), for_inference(towers.image_spec.build(), precision)
    with torch.inference_mode(), autocast("cpu", precision):
        image(pixels[:IMAGE_BATCH]), text(*batches[0])
        images = seconds(lambda: [image(batch) for batch in pixels.split(IMAGE_BATCH)], 2)
        return images, seconds(lambda: [text(ids, mask) for ids, mask in batches], 2)


def distinct(part: CaptionedSet) -> list[str]:
    return list(dict.fromkeys(sentence for _, sentence in part.captions))


def build(args: Namespace, towers: Towers, part: CaptionedSet, precision: str, folder: Path) -> tuple[float, float, PairBatches]:
    """Seconds to cache a set's pictures (all views) and captions, by the stage's own jobs, and its pairs."""
    paths, sentences = [str(path) for path in part.paths], distinct(part)
    if args.views:
        pictures = AugmentedJob(towers.image_spec, paths, Crops(args.views, args.crop_scale, args.seed), precision, IMAGE_BATCH, 0)
    else:
        pictures = ImageJob(towers.image_spec, paths, precision, IMAGE_BATCH, 0)
    captions = TextJob(towers.text_spec, towers.tokenizer, sentences, towers.max_len, precision, 64)
    taken = []
    for name, job, items in (("pictures", pictures, len(paths)), ("captions", captions, len(sentences))):
        job.setup("cpu")
        taken.append(seconds(lambda job=job, items=items, name=name: job.run(0, items, folder / name), 2))
    rows = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pictures", "captions")}
    evaluation = rows["pictures"][:, 0] if args.views else rows["pictures"]
    row_of = {sentence: i for i, sentence in enumerate(sentences)}
    text_rows = np.array([row_of[sentence] for _, sentence in part.captions])
    text, image = (CachedInputs([Features(array, [], folder)]) for array in (rows["captions"], evaluation))
    return *taken, PairBatches(text, image, text_rows, np.array([picture for picture, _ in part.captions]))


def epoch_seconds(args: Namespace, towers: Towers, data: PairBatches, times: int) -> float:
    """Seconds per pair of an epoch on cached features; the pairs are repeated to fill whole batches."""
    data = PairBatches(data.text, data.images, data.text_rows.repeat(times), data.image_rows.repeat(times))
    learner = learner_for(args, towers)
    learner.epoch(1, data)
    started = time.perf_counter()
    _, pairs = learner.epoch(2, data)
    return (time.perf_counter() - started) / pairs


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Seconds of training.")
    parser.add_argument("--pairs", type=int, default=96, help="number of pairs to time with the towers in the loop")
    parser.add_argument("--views", type=int, default=0, help="augmented views per picture in the cache, besides the evaluation view")
    flags = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name, threads(1):
        measure(flags, small_source(Path(name)) if flags.small else coco_sample(), Path(name))


def measure(flags: Namespace, source: Source, folder: Path) -> None:
    image = worlds.image_tower(folder, "shufflenet_v2_x0_5" if flags.small else "resnext101_32x8d")
    text = worlds.text_tower(folder, *((2, 128) if flags.small else ()))
    load_tokenizer("minilm").save_pretrained(text.name)
    layers = ",".join(map(str, text.layers))
    more = [
        "--lang",
        text.name,
        "--lang-layers",
        layers,
        "--visn",
        image.name,
        "--visn-weights",
        image.weights,
        "--views",
        str(flags.views),
    ]
    args = source.args("published", more)
    part = read_captioned(args.train_imgs[0], args.train_langs, roots_of(args))
    towers, precision = Towers.from_args(args), resolve_precision("auto", "cpu")
    say("the towers in the loop ...")
    theirs = published_way(args, towers, part, 32 if flags.small else flags.pairs) * COCO_CAPTIONS * EPOCHS
    say("the towers alone ...")
    image_alone, text_alone = towers_alone(towers, part, precision)
    say("building the cache ...")
    pictures, captions, data = build(args, towers, part, precision, folder)
    step = epoch_seconds(args, towers, data, 10)
    limit = (1 + flags.views) * image_alone + text_alone
    cache = pictures / len(part.ids) * COCO_PICTURES + captions / len(part.captions) * COCO_CAPTIONS
    ours = cache + step * COCO_CAPTIONS * EPOCHS
    rows = [
        ("one epoch of COCO, towers in the loop", theirs / EPOCHS),
        (f"{EPOCHS} epochs, towers in the loop", theirs),
        (f"cache of COCO, {flags.views} views, {precision}", cache),
        ("one epoch of COCO on the cache", step * COCO_CAPTIONS),
        (f"cache and {EPOCHS} epochs", ours),
    ]
    for row, taken in rows:
        print(f"{row:<44}{taken:12,.0f} s {taken / 3600:9.2f} h")
    alone = f"{image_alone * (1 + flags.views):.1f} + {text_alone:.1f} s"
    print(f"{len(part.ids)} pictures, {len(part.captions)} captions: towers alone {alone}, the cache {pictures:.1f} + {captions:.1f} s")
    result = {"stage": "train", "vs_straightforward": round(theirs / ours, 1), "of_limit": round(limit / (pictures + captions), 3)}
    print(json.dumps({**result, "views": flags.views, "precision": precision, "pairs_per_second": round(1 / step), "machine": machine()}))


if __name__ == "__main__":
    run_main(main)
