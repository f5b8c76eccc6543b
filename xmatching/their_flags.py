"""Flags of Vokenization's and Maria's xmatching/param.py that have no meaning here, or one only where they ask for what is done anyway."""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from xvoken.console import say
from xvoken.errors import UserError

# What is told of a flag that is given: it changes no result there, or none here.
TOLD = {
    "fp16": "training is in fp32 here, unless --train-precision bf16 is given; frozen towers run once, in bf16 where that is fast",
    "sources": "read by nobody, as in Vokenization; --train-langs and --valid-langs say whose sentences are taken",
    "test": "read by nobody, as in Vokenization; --valid-imgs says what --test-only measures on",
    "gpus": "overwritten there, and not read here: the first argument of scripts/run_xmatching.bash says which GPUs",
}
DONE_ANYWAY = ("lang_pretrained", "visn_pretrained")
# Text towers of their LANG_MODELS that are none here.
OTHER_TOWERS = ("gpt", "ctrl", "xl", "xlnet", "xlm", "distil")


def add_their_flags(group: Any) -> None:
    """Add the flags; `heed` takes them out of the namespace again."""
    group.add_argument("--lang-pretrained", action="store_true", help="published weights of the text tower: always so here")
    group.add_argument("--visn-pretrained", action="store_true", help="the same of the image tower")
    group.add_argument("-n", "--nodes", type=int, metavar="N", help="machines: NNODES=N in the environment, see docs/training.md")
    group.add_argument("-nr", "--nr", type=int, metavar="I", help="number of this machine: NODE_RANK=I in the environment")
    group.add_argument("-g", "--gpus", type=int, metavar="N", help="not read; the first argument of scripts/run_xmatching.bash counts")
    group.add_argument("--fp16", action="store_true", help="not read; see --train-precision and --precision")
    group.add_argument("--sources", metavar="NAMES", help="not read; see --train-langs and --valid-langs")
    group.add_argument("--test", metavar="NAMES", help="not read; see --test-only")


def heed(args: Namespace) -> None:
    """Take the flags of `add_their_flags` out of `args`, and say what becomes of them; once, where a training has several processes.

    Raises UserError for values that would give another result there than the run here.
    """
    given = {name: vars(args).pop(name) for name in (*TOLD, *DONE_ANYWAY, "nodes", "nr")}
    for name, told in TOLD.items():
        if given[name] and "RANK" not in os.environ:
            say(f"--{name}: {told}")
    machines, number = int(os.environ.get("NNODES") or 1), int(os.environ.get("NODE_RANK") or 0)
    nodes, rank = given["nodes"] or machines, number if given["nr"] is None else given["nr"]
    if (nodes, rank) != (machines, number):
        raise UserError(
            f"--nodes {nodes} --nr {rank}: machines are counted in the environment here, by the same command on each: NNODES={nodes} "
            f"NODE_RANK={rank} MASTER_ADDR=ADDRESS_OF_NODE_0 MASTER_PORT=29500 bash scripts/run_xmatching.bash ..."
        )
    if args.lang in OTHER_TOWERS and not Path(args.lang).is_dir():
        short = "bert, bert-large, roberta, xlm-roberta and gpt2"
        raise UserError(f"--lang {args.lang}: of Vokenization's text towers {short} have a short name here; give the hub id or a folder")
    if args.optim == "sgd" and not args.momentum and "RANK" not in os.environ:
        say("--optim sgd: without momentum; Vokenization and Maria have 0.9: --momentum 0.9")
