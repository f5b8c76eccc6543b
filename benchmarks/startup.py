"""Time of commands that have nothing to compute: --help of each script, and stages that are finished.

    python benchmarks/startup.py [--small]

prints  for each command its --help, then the second run of tokenizing, of keys and of retrieval; the last line is one JSON object:
        the slowest of either kind, compared with importing torch and transformers, with which all commands used to start, and
        with starting Python
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import worlds
from benchmarks.measure import machine, make_parser, seconds
from tests import builder
from xvoken.cli.main import run_main
from xvoken.files import image_ids

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("xmatching", "tokenization", "vokenization", "ctx")


def timed(repeat: int, *words: object) -> float:
    command = [sys.executable, *map(str, words)]
    return seconds(lambda: subprocess.run(command, cwd=ROOT, check=True, capture_output=True), repeat)


def commands() -> list[str]:
    """The scripts of the stages that take flags."""
    scripts = [path for stage in STAGES for path in sorted((ROOT / stage).glob("*.py")) if '"__main__"' in path.read_text()]
    return [path.relative_to(ROOT).as_posix() for path in scripts if path.name != "gpus.py"]


def finished(folder: Path) -> dict[str, list[object]]:
    """Run some stages once; returns their commands by name."""
    load = builder.save_snapshot(folder / "snap", worlds.text_tower(folder, 2, 128), worlds.image_tower(folder, "shufflenet_v2_x0_5"))
    worlds.keys(load, 1000)
    worlds.photos(folder / "photos", 16)
    (folder / "lines.txt").write_text("a red circle\n" * 500)
    ids = ["--ids-root", folder / "ids"]
    image_ids.write(folder / "ids", "album", sorted(path.name for path in (folder / "photos").iterdir()), folder / "photos")
    few = ["--num-workers", 1, "--device", "cpu"]
    stages = {
        "tokenize": ["tokenization/tokenize_dataset.py", folder, "lines.txt", "minilm"],
        "keys": ["vokenization/extract_vision_keys.py", "--load", load, "--image-sets", "album", "--cache", folder / "cache", *few, *ids],
        "retrieve": [
            "vokenization/vokenize_corpus_mp.py", "--load", load, "--corpus", folder / "lines.txt", "--tokenizer-name", "minilm",
            "--image-sets", "pics", *few,
        ],
    }  # fmt: skip
    for words in stages.values():
        timed(1, *words)
    return stages


def main(argv: list[str] | None = None) -> None:
    args = make_parser("Seconds of commands that have nothing to compute.").parse_args(argv)
    repeat = 1 if args.small else 5
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "home")  # keeps facts about these throw-away models out of the user's cache
        stages = finished(Path(folder))
        libraries, python = timed(repeat, "-c", "import torch, transformers"), timed(repeat, "-c", "pass")
        scripts = commands()[:2] if args.small else commands()
        helps = {script: timed(repeat, script, "--help") for script in scripts}
        again = {name: timed(repeat, *words) for name, words in stages.items()}
    print(f"startup, {machine()}\n  {'import torch, transformers':<44}{libraries:8.2f} s\n  {'python':<44}{python:8.2f} s")
    for name, taken in [(f"{script} --help", taken) for script, taken in helps.items()] + [(f"{n}, finished", t) for n, t in again.items()]:
        print(f"  {name:<44}{taken:8.2f} s")
    slowest, longest = max(helps.values()), max(again.values())
    record = {
        "stage": "startup", "help": round(slowest, 3), "finished": round(longest, 3), "vs_libraries": round(libraries / slowest, 2),
        "of_python": round(python / slowest, 3), "machine": machine(),
    }  # fmt: skip
    print(json.dumps(record))


if __name__ == "__main__":
    run_main(main)
