"""The training itself: towers, data, epochs, snapshots. xmatching/main.py starts it if the training is not finished yet."""

import os
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from xmatching.data import PairBatches
from xmatching.finished import begun_in, is_frozen, read_sets, remember_towers, tower_start
from xmatching.joined import bank_of, fit, joined_learner
from xmatching.launch import LOST
from xmatching.metric import validate
from xmatching.model import Matcher
from xmatching.pairs import Towers, load_pairs
from xmatching.predecessors import start_from
from xmatching.progress import Progress, card_missing, curves_missing, skipped
from xmatching.published import STATE_DICT_ENDINGS
from xmatching.report import Reporter, draw_curves, epoch_line, write_card
from xmatching.resume import load_progress, restore, save_epoch
from xmatching.settings import Training, describe, is_fitted, model_of, said_of
from xmatching.training import Learner
from xvoken.console import say
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.snapshot import Bank, ModelConfig
from xvoken.errors import RunError, UserError
from xvoken.files.image_sets import CaptionedSet
from xvoken.files.locks import sole_writer
from xvoken.files.safe import all_written
from xvoken.machine import settled_precision
from xvoken.records import rsum, table


def train(args: Namespace, command: list[str], device: str, rank: int, world: int, require_lock: Callable[[], None]) -> None:
    # The first process reports every mistake and fills the cache; the others wait until the cache is filled.
    progress = share_progress() if rank > 0 else Progress()
    output = Path(args.output)
    train_sets, valid_sets = read_sets(args)
    loading = tower_start(args)
    towers, training = Towers.from_args(args), Training.from_args(args)
    text, image = towers.text_facts(), towers.image_facts()
    model = model_of(args, text, image)
    args.precision = settled_precision(args.precision, device, begun_in(output))
    precision = args.precision if is_frozen(args) else None
    config = describe(args, model, training, train_sets + valid_sets, precision)
    if rank == 0:
        remember_towers(args, text, image, loading)
        progress = load_progress(output, config, args.resume)
    if progress.finished(args.epochs):
        if rank == 0:
            share_progress(progress)
            complete(output, towers, progress, config, args)
        return
    first_here = int(os.environ.get("LOCAL_RANK", 0)) == 0
    if not first_here:
        dist.barrier()  # until this machine's first process has filled the cache: machines may have caches of their own
    reporter = Reporter(args.report_to if rank == 0 else "none", output, config)
    train_data, valid_data = load_data(args, towers, train_sets, valid_sets)
    if rank == 0:
        begin(progress, args, towers, model, training, train_data)
        share_progress(progress)
    if world > 1 and first_here:
        dist.barrier()
    last = progress.last(args.epochs)
    learner = make_learner(args, towers, model, replace(training, epochs=last), device, progress.chosen)
    restore(progress, learner)
    if rank == 0:
        snapshots.write_tokenizer(output, towers.tokenizer)
        say(f"training on {len(train_data.text_rows):,} pairs, {world} process{'es' * (world > 1)} on {device}")
    began = time.time()
    for epoch in range(progress.next, last + 1):
        record, bank = one_epoch(learner, epoch, train_data, valid_data, rank, world, progress.chosen)
        if rank > 0:
            continue
        require_lock()
        save_epoch(output, learner, config, progress, record, command, bank)
        reporter.log(record)
        left = (time.time() - began) / max(1, epoch - progress.started_at) * (last - epoch)
        say(epoch_line(record, last, left))
    if rank == 0:
        reporter.close()
        finish(output, progress, config, args.recipe)


def begin(progress: Progress, args: Namespace, towers: Towers, model: ModelConfig, training: Training, data: PairBatches) -> None:
    """Make what comes about in closed form, if there is such a head and no earlier run has made it; the progress gets it."""
    if is_fitted(args.head) and not progress.records:
        joined = fit(args, towers, model, training, data)
        progress.chosen, progress.tensors = joined.chosen, joined.tensors


def one_epoch(
    learner: Learner, epoch: int, train_data: PairBatches, valid_data: PairBatches, rank: int, world: int, chosen: dict[str, Any] | None
) -> tuple[dict[str, Any], Bank | None]:
    """Train an epoch, or none for epoch 0, and validate; returns the record and the bank of a snapshot, both empty but in process 0."""
    started = time.time()
    loss, pairs = learner.epoch(epoch, train_data, rank, world) if epoch else (None, 0)
    if rank > 0:
        return {}, None
    seconds, bank = time.time() - started, bank_of(learner.whole, train_data, chosen)
    figures = validate(learner.whole, valid_data, learner.device, bank, chosen["model"]["hubness"] if chosen else 0.0)
    lr = learner.optimizer.param_groups[0]["lr"] if epoch else 0.0
    record = {"epoch": epoch, "loss": None if loss is None else round(loss, 6), "lr": lr, **figures}
    return {**record, "pairs_per_second": round(pairs / seconds), "seconds": round(time.time() - started, 2)}, bank


def load_data(
    args: Namespace, towers: Towers, train_sets: list[CaptionedSet], valid_sets: list[CaptionedSet]
) -> tuple[PairBatches, PairBatches]:
    """Pairs to train on and the validation gallery; raises UserError if there are too few pairs to train on."""
    train_data = load_pairs(args, towers, args.level, train_sets, augment=True)
    valid_data = load_pairs(args, towers, args.level, valid_sets, augment=False)
    if len(train_data.text_rows) < 2:
        raise UserError(f"--train-imgs {','.join(args.train_imgs)}: fewer than two usable pairs, a loss needs negatives")
    return train_data, valid_data


def complete(output: Path, towers: Towers, progress: Progress, config: dict[str, Any], args: Namespace) -> None:
    """Say that the training is finished, and write what a run that was killed after its last epoch has not written."""
    say(skipped(output, progress.epoch))
    made_up = [] if snapshots.has_tokenizer(output) else [snapshots.write_tokenizer(output, towers.tokenizer).name]
    if made_up := made_up + tell_people(output, progress, config, args.recipe, only_missing=True):
        print(f"wrote what was missing to {output} ({', '.join(made_up)})")


def share_progress(progress: Progress | None = None) -> Progress:
    """Send the first process's progress to all processes: the snapshot may lie on its machine only."""
    box = [progress]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def make_learner(
    args: Namespace, towers: Towers, model: ModelConfig, training: Training, device: str, chosen: dict[str, Any] | None = None
) -> Learner:
    """All to train with; chosen: of a matcher with closed-form heads, which is built by it, and gets its weights by `restore`."""
    torch.manual_seed(args.seed)
    if chosen:
        return joined_learner(ModelConfig.read(chosen["model"]), training, device)
    matcher = Matcher(
        model,
        towers.text.requires_grad_(True) if args.lang_finetune else None,
        towers.image.requires_grad_(True) if args.visn_finetune else None,
        checkpointing=args.checkpointing,
    )
    if args.load:
        start_from(args.load, matcher, model, towers.modules(), args.level_given)
    return Learner.to_train(matcher, training, device)


def finish(output: Path, progress: Progress, config: dict[str, Any], recipe: str) -> None:
    best = max(progress.records, key=rsum)
    told = tell_people(output, progress, config, recipe)
    all_written(snapshots.training_file(output), snapshots.tensors_file(output, "BEST"), *(output / name for name in told))
    if not snapshots.has_tokenizer(output):
        raise RunError(f"{snapshots.tokenizer_folder(output)} is gone, something has removed it; run the same command to make it again")
    print(f"best epoch {best['epoch']} on the validation gallery:\n{table(best)}")
    print(f"wrote the matcher to {output} ({', '.join(['BEST.safetensors', 'LAST.safetensors', 'metrics.jsonl', *told])})")


def tell_people(output: Path, progress: Progress, config: dict[str, Any], recipe: str, only_missing: bool = False) -> list[str]:
    """Write the model's card and the curves; returns the names of the files written."""
    card, curves = output / "README.md", output / "curves.png"
    told = []
    if not only_missing or card_missing(output):
        write_card(card, output.name, progress.described(config), recipe, max(progress.records, key=rsum))
        told.append(card.name)
    if (not only_missing or curves_missing(output)) and draw_curves(curves, progress.records):
        told.append(curves.name)
    return told


def test(args: Namespace, device: str) -> None:
    """Print the recall of a snapshot on the validation sets; the snapshot's own model settings override the flags."""
    load = args.load or args.output
    snapshot = None if str(load).endswith(STATE_DICT_ENDINGS) else snapshots.read(load)
    if not snapshot and is_fitted(args.head):
        raise UserError(f"--load {load}: a state dict has one trained head; leave out --recipe best, or name its --head")
    _, valid_sets = read_sets(args)
    towers = Towers.from_snapshot(snapshot) if snapshot else Towers.from_args(args)
    text, image = towers.text_facts(), towers.image_facts()
    model = replace(snapshot.model, lang=towers.text.name, **said_of(text, image)) if snapshot else model_of(args, text, image)
    args.key_views = model.key_views
    matcher = Matcher(model)
    start_from(load, matcher, model, towers.modules(), args.level_given)
    valid_data = load_pairs(args, towers, model.level, valid_sets, augment=False)
    print(table(validate(matcher.to(device), valid_data, device, snapshot and snapshot.bank, model.hubness)))


def run(args: Namespace, command: list[str]) -> None:
    """Train, or measure with --test-only. command: the command line, which the snapshot keeps."""
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(device)
    if args.test_only:
        if rank == 0:
            test(args, device)
        return
    if world > 1:
        # Processes wait at a barrier while the cache is filled, which may take days; torchrun ends all if one process dies.
        backend = "cpu:gloo,cuda:nccl" if device != "cpu" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(days=7))
    try:
        # Only the first process writes to the output, and locks it; if the lock is refused, torchrun ends the waiting others.
        with sole_writer(snapshots.training_file(Path(args.output)), Path(args.output)) if rank == 0 else nullcontext() as require_lock:
            train(args, command, device, rank, world, require_lock)
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        os._exit(LOST)  # the failed process or the launcher reports why; a normal exit would be aborted by gloo's threads
    if dist.is_initialized():  # not after a failure: on GPUs it would wait for the failed process
        dist.destroy_process_group()
