"""Time of search alone: faiss flat, our search in fp32 and with a bf16 first pass, one matrix product, approximate indexes.

    python benchmarks/search.py [--small] [--device cuda:0]

1,024 queries against 500,000 keys of 512 dimensions (with --device cuda:0 also 5,000,000), top 5. `straightforward` and
`limit` are faiss flat and the fp32 product; the JSON line `search-bf16` compares the search with a bf16 first pass to them.

On the CPU each kind of approximate index follows, its effort tuned to a recall@5 of 0.95 on 256 other queries: seconds to
build it (on all cores), and to search it; hnsw over 100,000 keys only, as it takes many times longer to build than the others.
Keys and queries of this part lie in clusters of 100: random directions have no neighbourhoods, so that an index over them
would have to look at nearly all keys. Real keys are much harder than such clusters: see real_keys.py, by which `--index auto`
chooses; here it is the speed of the search that is measured, not the effort that real keys need.
"""

import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import faiss
import torch

from benchmarks.measure import parse_args, report, seconds, threads
from xvoken.cli.main import run_main
from xvoken.files import indexes
from xvoken.machine import cores
from xvoken.search import approximate
from xvoken.search.approximate import SavedIndex, open_saved
from xvoken.search.faiss_exact import FaissIndex
from xvoken.search.torch_exact import TorchIndex


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 512, generator=generator))


def measure(number: int, queries: int, device: str) -> None:
    keys, asked = unit(number, 0), unit(queries, 1)
    on_device, queries_there = keys.to(device), asked.to(device)
    rows = {"limit": seconds(lambda: queries_there @ on_device.T, 2)}
    flat = faiss.IndexFlatIP(512)
    if device != "cpu":
        flat = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), torch.device(device).index, flat)
    flat.add(keys.numpy())
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows["straightforward"] = seconds(lambda: flat.search(asked.numpy(), 5), 2)
    expected = flat.search(asked.numpy(), 5)[1]
    for stage, precision in (("search", "fp32"), ("search-bf16", "bf16")):
        index = TorchIndex(keys.numpy(), device, precision)
        rows["ours"] = seconds(lambda index=index: index.search(asked.numpy(), 5), 2)
        same = float((index.search(asked.numpy(), 5)[1] == expected).all(1).mean())
        report(stage, "queries", queries, rows, device, keys=number, same_top_5=round(same, 5))


def clustered(rows: int, seed: int, clusters: int) -> torch.Tensor:
    """Vectors of length 1 around centres that are the same for every seed; two of one cluster have an inner product of about 0.5."""
    generator = torch.Generator().manual_seed(seed)
    centres = unit(clusters, 2)[torch.randint(clusters, (rows,), generator=generator)]
    return torch.nn.functional.normalize(centres.add_(unit(rows, seed)))


def measure_approximate(kind: str, number: int, queries: int) -> None:
    keys = clustered(number, 0, number // 100).numpy()
    tuned, asked = clustered(256, 3, number // 100).numpy(), clustered(queries, 1, number // 100).numpy()
    flat = FaissIndex(keys)
    rows = {"limit": seconds(lambda: asked @ keys.T, 2), "straightforward": seconds(lambda: flat.search(asked, 5), 2)}
    with tempfile.TemporaryDirectory() as folder:
        path = indexes.index_file(Path(folder), "keys", kind)
        build = seconds(lambda: approximate.ensure_index(keys, path, kind))
        index = open_saved(keys, SavedIndex(path, kind, 1))
        approximate.tune(index, tuned, flat.search(tuned, 5)[0], 0.95)
        rows["ours"] = seconds(lambda: index.search(asked, 5), 2)
        reached = approximate.recall(index.search(asked, 5)[0], flat.search(asked, 5)[0])
        more = {"keys": number, indexes.EFFORT[kind]: index.effort, "recall": round(reached, 4), "build_seconds": round(build, 1)}
        report(f"search-{kind}", "queries", queries, rows, megabytes=round(path.stat().st_size / 1e6), **more)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(__doc__.splitlines()[0], argv)
    sizes = [20_000] if args.small else [500_000] if args.device == "cpu" else [500_000, 5_000_000]
    with threads(cores()):
        for number in sizes:
            measure(number, 64 if args.small else 1024, args.device)
        for kind in indexes.EFFORT if args.device == "cpu" else ():
            most = 100_000 if kind == "hnsw" else 500_000
            measure_approximate(kind, 5000 if args.small else most, 64 if args.small else 1024)


if __name__ == "__main__":
    run_main(main)
