"""Time to retrieve: batches in corpus order in fp32, our way, and the text tower alone.

    python benchmarks/retrieve.py [--small] [--device cuda:0]

A text tower of BERT-base's size with random weights, lines of 30 tokens on average, 50,000 keys. On a CPU all three ways
run in one process on all cores, ours and the tower alone with a batch on each, in fp32 by the engine that `auto` takes, and in bf16 where
there are units for it. The straightforward way pads
each batch of 32 lines to its longest line, reads one hdf5 slice per line, and searches a faiss L2 index on the CPU (where faiss
is missing, torch's distances to all keys on the device, and the record says so).
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
from xvoken.encoders.frozen import batches_by_length
from xvoken.files import keys as key_files
from xvoken.machine import TEXT_BATCH, Pace, cores, lines_a_part, lines_on, resolve_precision, resolve_tower_engine
from xvoken.towers.padding import pad_lines
from xvoken.work.jobs import prepare
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


def tower_alone(job: VokenizeJob, given: tuple[np.ndarray, np.ndarray], batch: int) -> None:
    *_, (_, out) = job.encoder.text.features(*given, batches_by_length(np.diff(given[1]), batch))
    out.cpu()


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    gpu = args.device != "cpu"
    lines, number = (64, 2000) if args.small else (65_536 if gpu else 1024, 50_000)
    batch, chunk = lines_on(args.device, TEXT_BATCH), lines_a_part(lines, args.device, CHUNK)
    with tempfile.TemporaryDirectory() as name, threads(cores()):
        folder = Path(name)
        text = worlds.text_tower(folder, *((2, 128) if args.small else ()))
        load = builder.save_snapshot(folder / "snap", text, worlds.image_tower(folder, "shufflenet_v2_x0_5"))
        worlds.keys(load, number)
        worlds.corpus(folder / "corpus", lines)
        best, rows = resolve_precision("auto", args.device), {}
        for precision in dict.fromkeys([best] if gpu else [best, "fp32"]):
            pace = Pace(resolve_tower_engine("auto", args.device, precision), threads=1)
            job = VokenizeJob(str(load), folder / "corpus", "minilm", load / "keys", ["pics"], None, 5, "auto", precision, pace=pace)
            prepare(job, args.device, cores())
            given = job.lines.slab(0, lines)
            tower_alone(job, given, batch)
            rows[precision] = {"limit": seconds(lambda job=job, given=given: tower_alone(job, given, batch), 2)}
            rows[precision]["ours"] = seconds(lambda job=job: [job.run(*items, folder / "part") for items in ranges(lines, chunk)], 2)
            rows[precision]["engine"] = job.pace.engine
        where = "cpu" if importlib.util.find_spec("faiss") else args.device
        plain_search, search = worlds.flat_search(np.array(key_files.read(load / "keys", "pics").keys), "l2", where)
        part = lines // 4  # a quarter of the lines is enough to measure the rate of the slow way
        plain = text.build().to(args.device)
        taken = seconds(lambda: straightforward(job, search, part, plain, job.encoder.text_head))
        for precision, found in rows.items():
            more = {"keys": number, "tokens": len(given[0]), "precision": precision, "engine": found.pop("engine"), "cores": cores()}
            found["straightforward"] = taken * lines / part
            report("retrieve", "lines", lines, found, args.device, **more, plain_search=plain_search)


if __name__ == "__main__":
    run_main(main)
