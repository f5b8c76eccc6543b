"""How a text model reads a sentence, told by its model_type alone: which pooling goes with it. Needs no torch after the first time."""

from pathlib import Path
from typing import Any

from xvoken.files.known import Start, known, remember
from xvoken.towers.packages import package_folder


def reads(model_type: Any) -> str:
    """How models of this model_type read: "forward", "encoder" or "both".

    forward: from the left to the right, so that only the last token has seen a whole sentence: those that transformers has for writing
    texts and not for filling gaps. XLNet is among them: it reads both ways, but its <cls> is the last token too.
    encoder: as an encoder-decoder whose encoder is taken by itself, such as T5's, which has no token for a whole sentence.
    """
    table = (package_folder("transformers") or Path("transformers")) / "models" / "auto" / "modeling_auto.py"
    kind = str(model_type)
    key = {"of": "reads", "model_type": kind}
    if (facts := known(key)) is None or "how" not in facts:
        start = Start.now([table])
        from transformers.models.auto import modeling_auto as auto

        forward = kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
        encoder = auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(kind, "").endswith("EncoderModel")
        facts = {"how": "forward" if forward else "encoder" if encoder else "both"}
        remember(key, [table], facts, start)
    return str(facts["how"])
