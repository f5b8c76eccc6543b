"""All that the pins import from the stages, in one place: where a module moves or a class gets another name, only this file changes.

What is here is used by calling it; everything else is pinned by what the commands write.
"""

from xmatching.data import CachedInputs, PairBatches
from xmatching.model import Matcher
from xmatching.param import parse_args
from xmatching.training import Learner, Training
from xvoken.clip_encoder import ClipTextSpec
from xvoken.devices import cast_weights
from xvoken.disk import fingerprint
from xvoken.encoders import ImageTowerSpec, TextTowerSpec
from xvoken.features import Features
from xvoken.image_towers import LITE2_VIEW, for_inference
from xvoken.pictures import View
from xvoken.processor_view import ProcessorView
from xvoken.text_towers import load_tokenizer, tokenizer_hash, weights_hash
from xvoken.views import Crops

__all__ = [
    "LITE2_VIEW",
    "CachedInputs",
    "ClipTextSpec",
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
