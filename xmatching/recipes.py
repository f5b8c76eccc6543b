"""Sets of flags that belong together: --recipe."""

from typing import Any

# Vokenization's and Maria's training: the defaults of all flags. They augment with random resized crops and flips;
# here training takes the evaluation view, unless --views is given (--views 8 draws from eight cached crops).
PUBLISHED: dict[str, Any] = {}

# Chosen on pictures carved from the training parts of OpenMoji and of COCO photos, never on held-out ones, by
# benchmarks/search_recipe.py (its trials: search_recipe.jsonl). The pooling "maps" and the dropout come from a separate
# comparison on three or four carvings of OpenMoji and six of COCO (text to image R@5): "maps" instead of "grid" gained 0.9
# points on OpenMoji and 2.7 on COCO, then 50 epochs with dropout 0.5 gained 0.9 and 1.8; with 25 epochs dropout 0.5 loses.
# Views gained 0.2 points of the search's score, less than the noise, for nine times the tower's work: left out.
BEST: dict[str, Any] = {
    "loss": "infonce",
    "temperature": 0.07,
    "head": "linear",
    "text_pool": "mean",
    "visn_pool": "maps",
    "optim": "adamw",
    "schedule": "cosine",
    "lr": 1e-3,
    "weight_decay": 0.1,
    "dropout": 0.5,
    "epochs": 100,
}

# No training and no captions: the image tower's own classifier names what is in a picture (ConSE; Norouzi et al., ICLR 2014), the
# text tower, which has to be a sentence encoder, compares names and sentences; see xvoken/encoders/heads.py.
ZEROSHOT: dict[str, Any] = {"head": "classes", "lang_layers": "1", "text_pool": "mean", "visn_pool": "avg"}

RECIPES = {"published": PUBLISHED, "best": BEST, "zeroshot": ZEROSHOT}
