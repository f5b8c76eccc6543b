"""Exact search alone: faiss flat, ours in fp32, ours with a bf16 first pass, and one matrix product of that size.

    python benchmarks/search.py [--small] [--device cuda:0]

1,024 queries against 500,000 keys of 512 dimensions (with --device cuda:0 also 5,000,000), top 5. `straightforward` and
`limit` are faiss flat and the fp32 product; the JSON line `search-bf16` holds the first pass in bf16 against them.
"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import faiss
import torch

from benchmarks.measure import parse_args, report, seconds, threads
from xvoken.devices import cores
from xvoken.indexing import TorchIndex
from xvoken.messages import run_main


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 512, generator=generator))


def measure(number: int, queries: int, device: str) -> None:
    keys, asked = unit(number, 0), unit(queries, 1)
    on_device, queries_there = keys.to(device), asked.to(device)
    rows = {"limit": seconds(lambda: queries_there @ on_device.T, 2)}
    flat = faiss.IndexFlatIP(512)
    if device != "cpu":
        flat = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), int(device.split(":")[1]), flat)
    flat.add(keys.numpy())
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows["straightforward"] = seconds(lambda: flat.search(asked.numpy(), 5), 2)
    expected = flat.search(asked.numpy(), 5)[1]
    for stage, precision in (("search", "fp32"), ("search-bf16", "bf16")):
        index = TorchIndex(keys.numpy(), device, precision)
        rows["ours"] = seconds(lambda index=index: index.search(asked.numpy(), 5), 2)
        same = float((index.search(asked.numpy(), 5)[1] == expected).all(1).mean())
        report(stage, "queries", queries, rows, device, keys=number, same_top_5=round(same, 5))


def main() -> None:
    args = parse_args(__doc__.splitlines()[0])
    sizes = [20_000] if args.small else [500_000] if args.device == "cpu" else [500_000, 5_000_000]
    with threads(cores()):
        for number in sizes:
            measure(number, 64 if args.small else 1024, args.device)


if __name__ == "__main__":
    run_main(main)
