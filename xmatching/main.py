"""Train a sentence-image matcher on captioned pictures.

    bash scripts/run_xmatching.bash 0,1,2,3          (or: python xmatching/main.py --help)

reads   data/lxmert/*.json, data/mscoco/images/, the towers' published weights
writes  OUTPUT/BEST.safetensors, LAST.safetensors (+ .json), tokenizer/, metrics.jsonl, curves.png, README.md (the
        model's card); see xvoken/encoders/snapshot.py
        data/cache/: outputs of frozen towers, see xvoken/cache/features.py and xvoken/cache/augmented.py
With --recipe zeroshot nothing is trained, and no captions are read: xmatching/zeroshot.py.
The training itself is xmatching/stage.py; this script does what needs no torch, whose import takes seconds.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401
from xvoken.interrupts import importing

from xmatching.finished import is_finished
from xmatching.param import parse_args, trains_nothing
from xvoken.cli.main import run_main


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    alone = int(os.environ.get("WORLD_SIZE", 1)) == 1  # with several processes, stage.py checks this in the first one
    if alone and not args.test_only and is_finished(args):
        return
    command = [sys.argv[0], *(sys.argv[1:] if argv is None else argv)]
    if trains_nothing(args):
        with importing():
            from xmatching import zeroshot
        zeroshot.make(args, command)
        return
    with importing():
        from xmatching import stage
    stage.run(args, command)


if __name__ == "__main__":
    run_main(main)
