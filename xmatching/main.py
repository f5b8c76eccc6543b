"""Train a sentence-image matcher on captioned pictures.

    bash scripts/run_xmatching.bash 0,1,2,3          (or: python xmatching/main.py --help)

reads   data/lxmert/*.json, data/mscoco/images/, the towers' published weights
writes  OUTPUT/BEST.safetensors, LAST.safetensors (+ .json), tokenizer/, metrics.jsonl, curves.png, README.md (the
        model's card); see xvoken/encoders/snapshot.py
        data/cache/: outputs of frozen towers, see xvoken/cache/features.py and xvoken/cache/augmented.py
"""

import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import torch
import torch.distributed as dist

from xmatching.launch import LOST
from xmatching.metric import rsum, validate
from xmatching.model import Matcher
from xmatching.pairs import Towers, load_pairs
from xmatching.param import HEAD_FLAGS, parse_args
from xmatching.predecessors import start_from
from xmatching.report import Reporter, draw_curves, epoch_line, write_card
from xmatching.resume import Progress, load_progress, save_epoch
from xmatching.training import Learner, Training
from xvoken.cli.flags import roots_of
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders import snapshot as snapshots
from xvoken.errors import RunError, UserError
from xvoken.files.image_sets import CaptionedSet, read_captioned
from xvoken.files.locks import sole_writer
from xvoken.files.safe import all_there, all_written
from xvoken.machine import resolve_precision
from xvoken.recall import table


def read_sets(args: Namespace) -> tuple[list[CaptionedSet], list[CaptionedSet]]:
    """The sets to train and to validate on."""
    roots = roots_of(args)
    train = [] if args.test_only else [read_captioned(name, args.train_langs, roots, args.limit) for name in args.train_imgs]
    return train, [read_captioned(name, args.valid_langs, roots, args.limit) for name in args.valid_imgs]


def train(args: Namespace, device: str, rank: int, world: int, require_lock: Callable[[], None]) -> None:
    # The first process meets every mistake and fills the cache; the others wait, and find it filled.
    progress = share_progress() if rank > 0 else Progress()
    output = Path(args.output)
    train_sets, valid_sets = read_sets(args)
    towers, training = Towers(args), Training.of(args)
    config = describe(args, towers, training, train_sets + valid_sets, device)
    if rank == 0:
        progress = load_progress(output, config, args.resume)
    if progress.epoch == args.epochs:
        if rank == 0:
            all_there(snapshots.training_file(output), snapshots.tensors_file(output, "BEST"))
            say(f"skipped: {output} is trained already ({args.epochs} epochs, same settings)")
            share_progress(progress)
            made_up = [] if snapshots.has_tokenizer(output) else [snapshots.write_tokenizer(output, towers.tokenizer).name]
            # A kill can come between the last epoch and these.
            if made_up := made_up + tell_people(output, progress, config, args.recipe, only_missing=True):
                print(f"wrote what was missing to {output} ({', '.join(made_up)})")
        return
    first_here = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if not first_here:
        dist.barrier()  # another machine may have a cache of its own, which its first process fills
    reporter = Reporter(args.report_to if rank == 0 else "none", output, config)
    train_data, valid_data = load_pairs(args, towers, train_sets, augment=True), load_pairs(args, towers, valid_sets, augment=False)
    if len(train_data.text_rows) < 2:
        raise UserError(f"--train-imgs {','.join(args.train_imgs)}: a single pair is no training, a loss needs negatives")
    if rank == 0:
        share_progress(progress)
    if world > 1 and first_here:
        dist.barrier()
    learner = make_learner(args, towers, config, training, device)
    progress.restore(learner)
    if rank == 0:
        snapshots.write_tokenizer(output, towers.tokenizer)
        say(f"training on {len(train_data.text_rows):,} pairs, {world} process{'es' * (world > 1)} on {device}")
    began = time.time()
    for epoch in range(progress.epoch + 1, args.epochs + 1):
        started = time.time()
        loss, pairs = learner.epoch(epoch, train_data, rank, world)
        if rank > 0:
            continue
        seconds = time.time() - started
        lr = learner.optimizer.param_groups[0]["lr"]
        record = {"epoch": epoch, "loss": round(loss, 6), "lr": lr, **validate(learner.matcher, valid_data, device)}
        record |= {"pairs_per_second": round(pairs / seconds), "seconds": round(time.time() - started, 2)}
        require_lock()
        save_epoch(output, learner, config, progress, record, rsum(record))
        reporter.log(record)
        left = (time.time() - began) / (epoch - progress.started_at) * (args.epochs - epoch)
        say(epoch_line(record, args.epochs, left))
    if rank == 0:
        reporter.close()
        finish(output, progress, config, args.recipe)


def share_progress(progress: Progress | None = None) -> Progress:
    """From the first process to all: the snapshot may lie on its machine only."""
    box = [progress]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def make_learner(args: Namespace, towers: Towers, config: dict[str, Any], training: Training, device: str) -> Learner:
    torch.manual_seed(args.seed)
    matcher = Matcher(
        config["model"],
        towers.text.requires_grad_(True) if args.lang_finetune else None,
        towers.image.requires_grad_(True) if args.visn_finetune else None,
        checkpointing=args.checkpointing,
    )
    if args.load:
        start_from(args.load, matcher, config["model"], towers.modules())
    return Learner.of(matcher, training, device)


def describe(args: Namespace, towers: Towers, training: Training, sets: list[CaptionedSet], device: str) -> dict[str, Any]:
    """What the weights depend on, as the snapshot keeps it; a run with another description is another training."""
    frozen = not (args.lang_finetune and args.visn_finetune)
    return {
        "model": {**towers.config(), **{name: getattr(args, name) for name in HEAD_FLAGS}},
        "training": {
            **asdict(training), "load": args.load and Path(args.load).name,
            "data": {part.name: {"images": len(part.ids), "captions": len(part.captions)} for part in sets},
            "precision": resolve_precision(args.precision, device) if frozen else None,  # of frozen towers
        },
    }  # fmt: skip


def finish(output: Path, progress: Progress, config: dict[str, Any], recipe: str) -> None:
    best = max(progress.records, key=rsum)
    told = tell_people(output, progress, config, recipe)
    all_written(snapshots.training_file(output), snapshots.tensors_file(output, "BEST"), *(output / name for name in told))
    if not snapshots.has_tokenizer(output):
        raise RunError(f"{snapshots.tokenizer_folder(output)} is gone, something has removed it; run the same command to make it again")
    print(f"best epoch {best['epoch']} on the validation gallery:\n{table(best)}")
    print(f"wrote the matcher to {output} ({', '.join(['BEST.safetensors', 'LAST.safetensors', 'metrics.jsonl', *told])})")


def tell_people(output: Path, progress: Progress, config: dict[str, Any], recipe: str, only_missing: bool = False) -> list[str]:
    """Write card and curves; returns the names of those that were written."""
    card, curves = output / "README.md", output / "curves.png"
    told = []
    if not (only_missing and card.exists()):
        write_card(card, output.name, config, recipe, max(progress.records, key=rsum))
        told.append(card.name)
    if not (only_missing and (curves.exists() or find_spec("matplotlib") is None)) and draw_curves(curves, progress.records):
        told.append(curves.name)
    return told


def test(args: Namespace, device: str) -> None:
    """Print the recall of a snapshot on the validation sets; the flags of the model come from the snapshot."""
    load, tokenizer = args.load or args.output, None
    if not str(load).endswith((".pth", ".pt", ".bin")):
        snapshot = snapshots.read(load)
        saved = {**snapshots.MODEL_DEFAULTS, **snapshot.config["model"]}
        for name in ("visn", "lang_layers", "text_pool", "visn_pool", "max_len", *HEAD_FLAGS):
            setattr(args, name, saved[name])
        args.lang_layers = tuple(args.lang_layers)
        args.lang, args.visn_weights = snapshots.tower_sources(snapshot)
        tokenizer = str(snapshots.tokenizer_folder(snapshot.folder))  # a trained tower has none beside it
    _, valid_sets = read_sets(args)
    towers = Towers(args, tokenizer)
    model = {**towers.config(), **{name: getattr(args, name) for name in HEAD_FLAGS}}
    matcher = Matcher(model)
    start_from(load, matcher, model, towers.modules())
    print(table(validate(matcher.to(device), load_pairs(args, towers, valid_sets, augment=False), device)))


def main() -> None:
    args = parse_args()
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    if args.test_only:
        if rank == 0:
            test(args, device)
        return
    if world > 1:
        # The wait for the cache is a barrier, and filling it may take days; torchrun ends all when one process dies.
        backend = "cpu:gloo,cuda:nccl" if device != "cpu" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=7))
    try:
        # The first process alone writes to the output, and the others wait for it: where it is refused, torchrun ends all.
        with sole_writer(snapshots.training_file(Path(args.output)), Path(args.output)) if rank == 0 else nullcontext() as require_lock:
            train(args, device, rank, world, require_lock)
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        sys.exit(LOST)  # the other process says why itself, or the launcher does
    if dist.is_initialized():  # not after a failure: on GPUs it would wait for what the failed process never does
        dist.destroy_process_group()


if __name__ == "__main__":
    run_main(main)
