"""Train a sentence-image matcher on captioned pictures.

    bash scripts/run_xmatching.bash 0,1,2,3          (or: python xmatching/main.py --help)

reads   data/lxmert/*.json, data/mscoco/images/, the towers' published weights
writes  OUTPUT/BEST.safetensors, LAST.safetensors (+ .json), tokenizer/, metrics.jsonl; see xvoken/snapshot.py
        data/cache/: outputs of frozen towers, see xvoken/features.py
"""

import os
import sys
import time
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader

from xmatching.data import CachedInputs, Inputs, PairBatches, PictureInputs, TokenInputs
from xmatching.loss import LOSSES
from xmatching.metric import rsum, validate
from xmatching.model import Matcher, gather_batch
from xmatching.param import parse_args
from xmatching.resume import Progress, load_progress, save_epoch
from xvoken import snapshot as snapshots
from xvoken.devices import cores, workers_on
from xvoken.encoders import ImageTowerSpec, TextTowerSpec
from xvoken.features import Features, image_features, text_features
from xvoken.image_sets import CaptionedSet, Roots, read_captioned
from xvoken.messages import run_main, say
from xvoken.recall import table
from xvoken.text_towers import load_tokenizer, tokenizer_hash, weights_hash

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class Towers:
    """The two towers, their tokenizer, and what a snapshot must know of them."""

    def __init__(self, args: Namespace):
        self.text_spec = TextTowerSpec(args.lang, args.lang_layers)
        self.image_spec = ImageTowerSpec(args.visn, args.visn_weights)
        self.tokenizer = load_tokenizer(args.lang)
        self.text, self.image = self.text_spec.build(), self.image_spec.build()
        self.max_len = min(args.max_len, self.text.max_tokens)

    def config(self) -> dict[str, Any]:
        return {
            "lang": self.text.name, "lang_hash": weights_hash(self.text), "lang_layers": list(self.text.layers),
            "text_width": self.text.width, "tokenizer": tokenizer_hash(self.tokenizer), "max_len": self.max_len,
            "visn": self.image.name, "visn_hash": weights_hash(self.image), "visn_weights": self.image_spec.weights,
            "image_width": self.image.width,
        }  # fmt: skip


def load_pairs(args: Namespace, towers: Towers, sets: list[CaptionedSet]) -> PairBatches:
    """The pairs of some sets, with cached inputs for frozen towers; captions of unusable pictures are left out."""
    options = {"cache": Path(args.cache), "precision": args.precision, "devices": workers_on("auto", args.num_workers)}
    images, texts, usable, text_rows, image_rows = [], [], [], [], []
    sentences: list[str] = []
    pictures = 0
    for part in sets:
        distinct = list(dict.fromkeys(sentence for _, sentence in part.captions))
        row_of = {sentence: len(sentences) + i for i, sentence in enumerate(distinct)}
        text_rows += [row_of[sentence] for _, sentence in part.captions]
        image_rows += [pictures + picture for picture, _ in part.captions]
        sentences += distinct
        if not args.visn_finetune:
            features = image_features(towers.image_spec, towers.image, part.ids, part.paths, label=part.name, **options)
            report_skipped(part, features)
            images.append(features)
            usable += [pictures + int(row) for row in features.usable]
        else:
            usable += range(pictures, pictures + len(part.ids))
        if not args.lang_finetune:
            cached = text_features(
                towers.text_spec, towers.text, towers.tokenizer, args.lang, distinct, towers.max_len, label=part.name, **options
            )
            texts.append(cached)
        pictures += len(part.ids)
    text: Inputs = CachedInputs(texts) if texts else TokenInputs(towers.tokenizer, sentences, towers.max_len)
    paths = [path for part in sets for path in part.paths]
    image: Inputs = CachedInputs(images) if images else PictureInputs(paths, towers.image.view)
    keep = torch.isin(torch.tensor(image_rows), torch.tensor(usable))
    return PairBatches(text, image, torch.tensor(text_rows)[keep], torch.tensor(image_rows)[keep])


def report_skipped(part: CaptionedSet, features: Features) -> None:
    """Say how many pictures can't be used; their list lies beside the cache."""
    if features.skipped:
        listed = features.path.with_suffix(".json")
        say(f"{part.name}: {len(features.skipped)} of {len(part.ids)} pictures can't be used, listed in {listed}")


def train_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: PairBatches, args: Namespace, device: str) -> tuple[float, int]:
    """One pass over the planned batches; returns the mean loss and the number of pairs, of all processes."""
    model.train()
    loss_of, world = LOSSES[args.loss], dist.get_world_size() if dist.is_initialized() else 1
    decoders = cores() // world if args.visn_finetune else 0
    total, pairs = torch.zeros((), device=device), 0
    for text, image, owner in DataLoader(data, batch_size=None, num_workers=decoders):
        text, image = model(text.to(device), image.to(device))
        owner = gather_batch(owner.to(device))
        loss = loss_of(gather_batch(text), gather_batch(image), owner, args.margin)
        optimizer.zero_grad()
        (loss * world).backward()  # DDP averages over processes; the sum is wanted, see gather_batch
        nn.utils.clip_grad_norm_(model.parameters(), args.clip)
        optimizer.step()
        total += loss.detach() * len(owner)
        pairs += len(owner)
    return total.item() / max(1, pairs), pairs


def train(args: Namespace, device: str, rank: int, world: int) -> None:
    if rank > 0:
        dist.barrier()  # the first process meets every mistake and fills the cache, the others find it filled
    output = Path(args.output)
    roots = Roots.of(args)
    train_sets = [read_captioned(name, args.train_langs, roots, args.limit) for name in args.train_imgs]
    valid_sets = [read_captioned(name, args.valid_langs, roots, args.limit) for name in args.valid_imgs]
    towers = Towers(args)
    config = {"model": {**towers.config(), "dim": args.dim, "hidden": args.hidden, "dropout": args.dropout}}
    config["training"] = settings_of(args, train_sets + valid_sets)
    progress = load_progress(output, config, args.resume)
    if progress.epoch == args.epochs:
        say(f"skipped: {output} is trained already ({args.epochs} epochs, same settings)")
        return
    train_data, valid_data = load_pairs(args, towers, train_sets), load_pairs(args, towers, valid_sets)
    if rank == 0 and world > 1:
        dist.barrier()

    torch.manual_seed(args.seed)
    matcher = Matcher(
        config["model"],
        towers.text.requires_grad_(True) if args.lang_finetune else None,
        towers.image.requires_grad_(True) if args.visn_finetune else None,
    ).to(device)
    optimizer = OPTIMIZERS[args.optim](matcher.parameters(), lr=args.lr)
    progress.restore(matcher, optimizer)
    finetune = args.lang_finetune or args.visn_finetune
    model = nn.parallel.DistributedDataParallel(matcher, find_unused_parameters=finetune) if world > 1 else matcher
    if rank == 0:
        towers.tokenizer.save_pretrained(snapshots.tokenizer_folder(output))
    say_once(rank, f"training on {len(train_data.text_rows):,} pairs, {world} process{'es' * (world > 1)} on {device}")
    began = time.time()
    for epoch in range(progress.epoch + 1, args.epochs + 1):
        torch.manual_seed(hash((args.seed, epoch, rank)) & 0xFFFFFFFF)  # so that a resumed run draws the same dropout
        started = time.time()
        train_data.plan(epoch, args.batch_size, args.seed, rank, world)
        loss, pairs = train_epoch(model, optimizer, train_data, args, device)
        if rank > 0:
            continue
        seconds = time.time() - started
        record = {"epoch": epoch, "loss": round(loss, 6), "lr": args.lr, **validate(matcher, valid_data, device)}
        record |= {"pairs_per_second": round(pairs / seconds), "seconds": round(time.time() - started, 2)}
        save_epoch(output, matcher, optimizer, config, progress, record, rsum(record))
        left = (time.time() - began) / (epoch - progress.started_at) * (args.epochs - epoch)
        say(epoch_line(record, args.epochs, left))
    if rank == 0:
        finish(output, progress)


def settings_of(args: Namespace, sets: list[CaptionedSet]) -> dict[str, Any]:
    """What the trained weights depend on, beside the model."""
    names = ("loss", "margin", "batch_size", "optim", "lr", "epochs", "clip", "seed", "lang_finetune", "visn_finetune", "limit")
    data = {part.name: {"images": len(part.ids), "captions": len(part.captions)} for part in sets}
    return {**{name: getattr(args, name) for name in names}, "data": data}


def epoch_line(record: dict[str, Any], epochs: int, left: float) -> str:
    found, backward = record["text_to_image"], record["image_to_text"]
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['loss']:.4f}  text to image R@1/5/10 {found['R1']:.1f}/{found['R5']:.1f}/"
        f"{found['R10']:.1f} (chance {record['chance']['text_to_image']['R1']:.2f}/{record['chance']['text_to_image']['R5']:.2f}/"
        f"{record['chance']['text_to_image']['R10']:.2f})  image to text {backward['R1']:.1f}/{backward['R5']:.1f}/{backward['R10']:.1f}  "
        f"{record['pairs_per_second']:,} pairs/s  {timedelta(seconds=round(left))} left"
    )


def finish(output: Path, progress: Progress) -> None:
    best = max(progress.records, key=rsum)
    print(f"best epoch {best['epoch']} on the validation gallery:\n{table(best)}")
    print(f"wrote the matcher to {output} (BEST.safetensors, LAST.safetensors, metrics.jsonl)")


def say_once(rank: int, text: str) -> None:
    if rank == 0:
        say(text)


def main() -> None:
    args = parse_args()
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    if world > 1:
        # The wait for the cache is a barrier, and filling it may take days; torchrun ends all when one process dies.
        backend = "cpu:gloo,cuda:nccl" if device != "cpu" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=7))
    try:
        train(args, device, rank, world)
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        sys.exit(1)  # another process was lost: it says why itself, or the launcher does
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


if __name__ == "__main__":
    run_main(main)
