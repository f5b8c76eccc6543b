"""Time to retrieve: batches in corpus order in fp32, our way, and the text tower alone.

    python benchmarks/retrieve.py [--small] [--device cuda:0]

A text tower of BERT-base's size with random weights, lines of 30 tokens on average, 50,000 keys. On a CPU all three ways
run in one process with one thread, like each of our workers, and show what one core can do. The straightforward way pads
each batch of 32 lines to its longest line, reads one hdf5 slice per line, and searches a faiss L2 index on the CPU (where faiss
is missing, torch's distances to all keys on the device, and the record says so). Our way and the
tower alone run in bf16 if the device has units for it, as with `--precision auto`.
"""

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch

from benchmarks import worlds
from benchmarks.measure import parse_args, report, seconds, threads
from tests import builder
from vokenization.vokenization import VokenizeJob
from vokenization.vokenize_corpus_mp import CHUNK
from xvoken.cli.main import run_main
from xvoken.encoders.frozen import batches_by_length, pad_lines
from xvoken.encoders.precision import autocast
from xvoken.files import keys as key_files
from xvoken.machine import TEXT_BATCH, cores, lines_a_part, lines_on, resolve_precision
from xvoken.work.parts import ranges


@torch.inference_mode()
def straightforward(job: VokenizeJob, search: Callable, lines: int, tower: torch.nn.Module, head: torch.nn.Module) -> None:
    corpus = job.lines
    for start in range(0, lines, 32):
        stop = min(start + 32, lines)
        sentences = [corpus.tokens[corpus.offsets[i] : corpus.offsets[i + 1]] for i in range(start, stop)]
        lengths = np.array([len(sentence) for sentence in sentences])
        ids, mask = pad_lines(np.concatenate(sentences), np.cumsum(lengths) - lengths, lengths, job.encoder.text.padding)
        search(head(tower(ids.to(job.encoder.device), mask.to(job.encoder.device))).cpu().numpy(), job.topk)


@torch.inference_mode()
def tower_alone(job: VokenizeJob, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    with autocast(job.encoder.device, job.precision):
        for ids, mask in batches:
            out = job.encoder.text.tower(ids, mask)
    out.cpu()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    gpu = args.device != "cpu"
    lines, number = (64, 2000) if args.small else (65_536 if gpu else 1024, 50_000)
    batch, chunk = lines_on(args.device, TEXT_BATCH), lines_a_part(lines, args.device, CHUNK)
    with tempfile.TemporaryDirectory() as name, threads(cores() if gpu else 1):
        folder = Path(name)
        text = worlds.text_tower(folder, *((2, 128) if args.small else ()))
        load = builder.save_snapshot(folder / "snap", text, worlds.image_tower(folder, "shufflenet_v2_x0_5"))
        worlds.keys(load, number)
        worlds.corpus(folder / "corpus", lines)
        precision = resolve_precision("auto", args.device)
        job = VokenizeJob(str(load), folder / "corpus", "minilm", load / "keys", ["pics"], None, 5, "auto", precision)
        job.setup(args.device)
        tokens, offsets = job.lines.slab(0, lines)
        counts = np.diff(offsets)
        padded = [pad_lines(tokens, offsets[rows], counts[rows], job.encoder.text.padding) for rows in batches_by_length(counts, batch)]
        batches = [(ids.to(args.device), mask.to(args.device)) for ids, mask in padded]
        tower_alone(job, batches[:2])
        rows = {"limit": seconds(lambda: tower_alone(job, batches), 2)}
        rows["ours"] = seconds(lambda: [job.run(*items, folder / "part") for items in ranges(lines, chunk)], 2)
        where = "cpu" if importlib.util.find_spec("faiss") else args.device
        plain_search, search = worlds.flat_search(np.array(key_files.read(load / "keys", "pics").keys), "l2", where)
        part = lines // 4  # a quarter of the lines is enough to measure the rate of the slow way
        plain = text.build().to(args.device)
        taken = seconds(lambda: straightforward(job, search, part, plain, job.encoder.text_head))
        rows["straightforward"] = taken * lines / part
    more = {"keys": number, "tokens": len(tokens), "precision": precision, "threads": cores() if gpu else 1, "plain_search": plain_search}
    report("retrieve", "lines", lines, rows, args.device, **more)


if __name__ == "__main__":
    run_main(main)
