"""Peak memory and time of the stages over the number of lines, with towers so small that lines are all there is.

    python benchmarks/memory.py [--small]

Each stage runs in a process of its own for 100,000 and for 3,000,000 short lines: tokenize, retrieve (100 keys), and
reading back what both wrote. Prints MB and seconds, then a JSON object per stage with the growth.
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
from benchmarks.measure import machine, parse_args
from xvoken.messages import run_main

CODE = """
import runpy, sys
sys.path[0] = {root!r}
sys.argv = {argv!r}
{statement}
print("PEAK", next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
READ = """
from pathlib import Path
from xvoken import corpus, vokens
print(corpus.check(Path(sys.argv[1]), "all-MiniLM-L6-v2"))
print(vokens.check(Path(sys.argv[2]), "corpus.txt", "pics"))
"""
WORDS = ["yes", "no", "the", "house", "is", "red", "why", "not", "dogs", "sleep"]


def run_stage(statement: str, *argv: object) -> tuple[float, float]:
    """MB at the peak, seconds."""
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


def main() -> None:
    sizes = (2000, 8000) if parse_args(__doc__.splitlines()[0]).small else (100_000, 3_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        towers = worlds.text_tower(folder, 1, 64), worlds.image_tower(folder, "shufflenet_v2_x0_5")
        load = worlds.snapshot(folder, *towers, hidden=16, dim=16)
        worlds.keys(load, 100, 16)
        found = {lines: measure(folder / str(lines), load, lines) for lines in sizes}
    print(f"{'':12}" + "".join(f"{lines:>22,} lines" for lines in sizes) + f", {machine()}")
    for stage in found[sizes[0]]:
        print(f"{stage:12}" + "".join(f"{found[n][stage][0]:14.0f} MB {found[n][stage][1]:8.1f} s" for n in sizes))
    for stage in found[sizes[0]]:
        growth = found[sizes[1]][stage][0] - found[sizes[0]][stage][0]
        print(json.dumps({"stage": f"memory-{stage}", "growth_mb": round(growth, 1), "lines": sizes, "machine": machine()}))


if __name__ == "__main__":
    run_main(main)
