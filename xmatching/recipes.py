"""Sets of flags that belong together: --recipe."""

from argparse import Namespace
from typing import Any

from xvoken.kinds import HEADS, MODEL
from xvoken.towers.sources import image_kind

# Vokenization's and Maria's training: the defaults of all flags. They augment with random resized crops and flips;
# here training takes the evaluation view, unless --views is given (--views 8 draws from eight cached crops).
PUBLISHED: dict[str, Any] = {}

# Heads in closed form, and all that is chosen for them on pictures held out of the training ones: see xmatching/joined.py.
BEST: dict[str, Any] = {
    "head": "cca,classes",
    "lang_layers": "4,3,2,1",
    "text_pool": "mean",
    "visn_pool": "stages",
    "key_views": None,
    "hubness": None,
    "loss": "infonce",
    "temperature": 0.07,
    "optim": "adamw",
    "schedule": "cosine",
    "lr": 1e-4,
    "weight_decay": 0.1,
    "dropout": 0.0,
    "epochs": 10,
    "early_stop": True,
}

# No training and no captions: the image tower's own classifier names what is in a picture (ConSE; Norouzi et al., ICLR 2014), the
# text tower, which has to be a sentence encoder, compares names and sentences; see xvoken/encoders/heads.py.
ZEROSHOT: dict[str, Any] = {"head": "classes", "lang_layers": "1", "text_pool": "mean", "visn_pool": "avg"}

# A dual encoder's own score, joined with canonical correlation analysis of its towers' outputs for one's own captions: as much of either
# as finds most on pictures held out, and the own score alone where that finds no more (xmatching/shares.py).
ADAPT: dict[str, Any] = {"head": "own,cca", "dual": MODEL, "hubness": None, "epochs": 0}

# A head that is trained from random weights beside it, as in --head own,linear.
ADAPT_TRAINED: dict[str, Any] = {
    "loss": "infonce",
    "temperature": 0.07,
    "optim": "adamw",
    "schedule": "cosine",
    "lr": 1e-3,
    "weight_decay": 0.1,
    "dropout": 0.5,
    "epochs": 100,
}

RECIPES = {"published": PUBLISHED, "best": BEST, "zeroshot": ZEROSHOT, "adapt": ADAPT}


# What --optim bert means in Vokenization and Maria besides the optimizer itself.
BERT_OPTIMIZER: dict[str, Any] = {"schedule": "linear", "weight_decay": 0.01}


def defaults(first: Namespace) -> dict[str, Any]:
    """The defaults that the flags parsed so far bring with them; towers are not loaded.

    Image towers of other libraries than torchvision pool as their own model does; they have no `stages`, and no classes whose names are
    known.
    """
    found = {"visn_pool": "avg", **RECIPES[first.recipe], **(BERT_OPTIMIZER if first.optim == "bert" else {})}
    heads = first.head.split(",")
    if first.recipe == "adapt" and "own" in heads and any(HEADS[name].made == "trained" for name in heads):
        found |= ADAPT_TRAINED
    if image_kind(first.visn) == "torchvision":
        return found
    return found | {"visn_pool": "own"} | ({"head": "cca"} if first.recipe == "best" else {})
