"""Sets of flags that belong together: --recipe."""

from typing import Any

from xvoken.encoders.sources import image_kind

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

RECIPES = {"published": PUBLISHED, "best": BEST, "zeroshot": ZEROSHOT}


def settled(recipe: str, visn: str) -> dict[str, Any]:
    """The defaults that a recipe gives the flags for this image tower, which is not loaded.

    Towers of other libraries pool as their own model does; they have no `stages`, and no classes whose names are known.
    """
    flags = {"visn_pool": "avg", **RECIPES[recipe]}
    if image_kind(visn) == "torchvision":
        return flags
    return flags | {"visn_pool": "own"} | ({"head": "cca"} if recipe == "best" else {})


# What --optim bert means in Vokenization and Maria besides the optimizer itself.
BERT_OPTIMIZER: dict[str, Any] = {"schedule": "linear", "weight_decay": 0.01}
