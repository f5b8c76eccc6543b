"""Peak memory and time of the stages by the number of lines, with towers so small that the lines alone take memory.

    python benchmarks/memory.py [--small] [--lines 100000,3000000] [--keys 50000,500000,5000000]

Each stage runs in a process of its own on --lines short lines: tokenize, retrieve (100 keys), and read what both wrote;
then retrieve for 10,000 lines with --keys keys of 64 dimensions. Prints MB and seconds (start of Python included), then a
JSON object per stage with the growth from the first to the last size. Keys are memory-mapped: MB includes their pages,
which all workers share.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks import worlds
from benchmarks.measure import machine, make_parser
from tests import builder
from xvoken.cli.main import run_main

CODE = """
import runpy, sys
sys.path[0] = {root!r}
sys.argv = {argv!r}
{statement}
print("PEAK", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
READ = """
from pathlib import Path
from xvoken.files import corpus, vokens
print(corpus.check(Path(sys.argv[1]), "all-MiniLM-L6-v2"))
print(vokens.check(Path(sys.argv[2]), "corpus.txt", "pics"))
"""
WORDS = ["yes", "no", "the", "house", "is", "red", "why", "not", "dogs", "sleep"]


def run_stage(statement: str, *argv: object) -> tuple[float, float]:
    """Run a stage; returns its peak memory in MB, and seconds."""
    code = CODE.format(root=str(ROOT), argv=["stage", *map(str, argv)], statement=statement)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(done.stdout.rsplit("PEAK", 1)[1]) / 1024, time.perf_counter() - started


def script(path: str) -> str:
    return f"runpy.run_path({str(ROOT / path)!r})['main']()"


def measure(folder: Path, load: Path, lines: int) -> dict[str, tuple[float, float]]:
    folder.mkdir()
    corpus, rng = folder / "corpus.txt", random.Random(0)
    with open(corpus, "w") as out:
        out.writelines(f"{' '.join(rng.choices(WORDS, k=3))}\n" for _ in range(lines))
    flags = ["--load", load, "--corpus", corpus, "--tokenizer-name", "minilm", "--image-sets", "pics", "--batch-size", 2048]
    return {
        "tokenize": run_stage(script("tokenization/tokenize_dataset.py"), folder, "corpus.txt", "minilm"),
        "retrieve": run_stage(
            script("vokenization/vokenize_corpus_mp.py"), *flags, "--num-workers", 1, "--device", "cpu", "--output", folder / "vokens"
        ),
        "read back": run_stage(READ, corpus, folder / "vokens"),
    }


def measure_keys(folder: Path, load: Path, number: int, lines: int, dim: int) -> tuple[float, float]:
    """Measure exact retrieval with each number of keys."""
    worlds.keys(load, number, dim)
    flags = ["--load", load, "--corpus", folder / str(lines) / "corpus.txt", "--tokenizer-name", "minilm", "--image-sets", "pics"]
    more = ["--limit", 10_000, "--num-workers", 1, "--device", "cpu", "--index", "flat", "--output", folder / f"vokens-{number}"]
    return run_stage(script("vokenization/vokenize_corpus_mp.py"), *flags, *more)


def show(name: str, unit: str, found: dict[int, tuple[float, float]]) -> None:
    """Print MB and seconds for each size, and the JSON object of the growth."""
    print(f"{name:<12}" + "".join(f"{size:>14,} {unit} {mb:8.0f} MB {taken:8.1f} s" for size, (mb, taken) in found.items()))
    sizes = sorted(found)
    (least, quick), (most, slow) = found[sizes[0]], found[sizes[-1]]
    slope = (slow - quick) / (sizes[-1] - sizes[0]) * 1e6
    growth = {"growth_mb": round(most - least, 1), "seconds_per_million": round(slope, 2)}
    print(json.dumps({"stage": f"memory-{name}", **growth, unit: sizes, "machine": machine()}), flush=True)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--lines", type=numbers, default=[100_000, 3_000_000], help="numbers of lines, separated by commas")
    parser.add_argument("--keys", type=numbers, default=[50_000, 500_000], help="numbers of keys, separated by commas")
    args = parser.parse_args(argv)
    lines, keys = ([2000, 8000], [500, 1000]) if args.small else (args.lines, args.keys)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        towers = worlds.text_tower(folder, 1, 64), worlds.image_tower(folder, "shufflenet_v2_x0_5")
        load = builder.save_snapshot(folder / "snap", *towers, hidden=16, dim=16)
        worlds.keys(load, 100, 16)
        found = {size: measure(folder / str(size), load, size) for size in lines}
        for stage in found[lines[0]]:
            show(stage, "lines", {size: found[size][stage] for size in lines})
        (folder / "wide").mkdir()
        wide = builder.save_snapshot(folder / "wide" / "snap", *towers, hidden=16, dim=64)
        show("retrieve", "keys", {size: measure_keys(folder, wide, size, lines[0], 64) for size in keys})


if __name__ == "__main__":
    run_main(main)
