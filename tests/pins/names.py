"""All that the pins import from the stages, in one place: where a module moves or a class gets another name, only this file changes.

What is here is used by calling it; everything else is pinned by what the commands write.
"""

from xmatching.data import CachedInputs, PairBatches
from xmatching.model import Matcher
from xmatching.param import parse_args
from xmatching.training import Learner, Training
from xvoken.cache.features import Features
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec
from xvoken.files.safe import fingerprint
from xvoken.pictures.augment import Crops
from xvoken.pictures.view import ProcessorView, View
from xvoken.towers.dual import DualTextSpec
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import LITE2_VIEW, for_inference
from xvoken.towers.precision import cast_weights
from xvoken.towers.tokenizer import load_tokenizer, tokenizer_hash

__all__ = [
    "LITE2_VIEW",
    "CachedInputs",
    "DualTextSpec",
    "Crops",
    "Features",
    "ImageTowerSpec",
    "Learner",
    "Matcher",
    "PairBatches",
    "ProcessorView",
    "TextTowerSpec",
    "Training",
    "View",
    "cast_weights",
    "fingerprint",
    "for_inference",
    "load_tokenizer",
    "parse_args",
    "tokenizer_hash",
    "weights_hash",
]
