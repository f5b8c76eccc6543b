"""Tables of what a user can choose (heads, poolings, sources, indexes, encoders), by name.

An entry names its class or function as the text "package.module:name", so that listing a table does not import it.
"""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImagePool:
    """How an image tower's feature maps become one vector: a torch layer pools the last map to `side` x `side` values a channel.

    layer: empty where no map is pooled; earlier: whether the averages of earlier maps are put in front.
    """

    layer: str = ""
    side: int = 1
    earlier: bool = False


@dataclass(frozen=True)
class Head:
    """The two classes that take the towers' outputs to the joint space (one class for both if `image` is empty).

    knobs: their parameters besides width, hidden, dim and dropout, fields of ModelConfig; made: how they come about, "trained" from
    random weights, "fitted" in closed form, after which a training can go on, or "given" by the towers themselves.
    """

    text: str
    image: str = ""
    knobs: tuple[str, ...] = ()
    made: str = "trained"


MODEL = "openai/clip-vit-base-patch32"  # where no model is named

HEADS = {
    "mlp": Head("xvoken.encoders.heads:MLPHead", knobs=("hidden_layers",)),
    "linear": Head("xvoken.encoders.heads:LinearHead"),
    "glu": Head("xvoken.encoders.heads:GLUHead"),
    "classes": Head("xvoken.encoders.heads:UnitHead", "xvoken.encoders.heads:ClassNamesHead", ("classes",), made="given"),
    "own": Head("xvoken.encoders.heads:OwnHead", made="given"),
    "cca": Head("xvoken.encoders.heads:AlignedHead", knobs=("rank",), made="fitted"),
}
# Poolings of a caption's token states (B, T, d) with their mask (B, T) to one vector (B, d).
TEXT_POOLS = {
    "cls": "xvoken.towers.text:first_token",
    "mean": "xvoken.towers.text:masked_mean",
    "last": "xvoken.towers.text:last_token",
    "own": "xvoken.towers.sentence:OwnPooling",  # made for a model, by the files that sentence-transformers wrote beside it
}
# Poolings of an image tower's feature maps, or of a transformer's states, to one vector; "own": as the model itself does it.
IMAGE_POOLS = {
    "avg": ImagePool("torch.nn:AdaptiveAvgPool2d"),
    "max": ImagePool("torch.nn:AdaptiveMaxPool2d"),
    "grid": ImagePool("torch.nn:AdaptiveAvgPool2d", side=2),
    "maps": ImagePool("torch.nn:AdaptiveAvgPool2d", side=2, earlier=True),
    "stages": ImagePool("torch.nn:AdaptiveAvgPool2d", earlier=True),
    "cls": ImagePool(),
    "both": ImagePool(),
    "own": ImagePool(),
}
# Sources of pictures: a function that says whether a path is one, and one that lists its pictures; the first that fits is taken.
SOURCES = {
    "shards": ("xvoken.pictures.sources:is_shards", "xvoken.pictures.sources:shard_ids"),
    "folder": ("xvoken.pictures.sources:is_folder", "xvoken.pictures.sources:folder_ids"),
}
# Formats of captioned pictures: the function that reads one, by the ending of the file.
CAPTION_FORMATS = {".json": "xvoken.files.image_sets:read_lxmert", ".tsv": "xvoken.files.image_sets:read_conceptual"}
# Kinds of index over keys; all but flat are approximate.
INDEXES = {
    "flat": "xvoken.search.index:build_joined",
    "ivf": "xvoken.search.approximate:build_tuned",
    "hnsw": "xvoken.search.approximate:build_tuned",
    "ivfpq": "xvoken.search.approximate:build_tuned",
}
# Families of dual encoders that others have trained: transformers' model_types, and other libraries. The functions load a Dual.
DUALS = {
    "clip": "xvoken.towers.clip:load_clip",
    "metaclip_2": "xvoken.towers.clip:load_clip",
    "siglip": "xvoken.towers.clip:load_clip",
    "siglip2": "xvoken.towers.clip:load_clip",
    "open_clip": "xvoken.towers.open_clip:load_open_clip",
}
# Tokenizers that are not loaded by transformers alone.
TOKENIZERS = {"open_clip": "xvoken.towers.open_tokenizer:load_open_tokenizer"}
# Kinds of encoders that `load_encoder` loads; a matcher's snapshot is "matcher".
ENCODERS = {"matcher": "xvoken.encoders.matcher:load_matcher", **dict.fromkeys(DUALS, "xvoken.encoders.dual:load_dual")}
# Kinds of image towers (name, weights, pool -> tower) and of text towers (name, layers, pool, prompt -> tower): what names each is in
# xvoken/towers/sources.py.
IMAGE_TOWERS = {
    "torchvision": "xvoken.towers.image:ImageTower",
    "timm": "xvoken.towers.timm_tower:TimmTower",
    "transformers": "xvoken.towers.vision:VisionTower",
    "dual": "xvoken.towers.dual:image_tower",
}
TEXT_TOWERS = {
    "transformers": "xvoken.towers.text:TextTower",
    "dual": "xvoken.towers.dual:text_tower",
}
# Text towers and tokenizers that have a short name.
SHORT_NAMES = {
    "bert": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "roberta": "roberta-base",
    "xlm-roberta": "xlm-roberta-base",
    "distilbert": "distilbert-base-uncased",
    "gpt2": "openai-community/gpt2",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
}


def full_name(name: str) -> str:
    """The hub id behind a short name; any other name unchanged, except that a slash at its end is cut off."""
    return SHORT_NAMES.get(name, name.rstrip("/") or name)


def base_name(name: str) -> str:
    """The part of a model's or tokenizer's name that goes into file names.

    `a/b/c` and `timm:c` give `c`; `open_clip:a/b` gives `a-b`, and so does `open_clip:a/folder/b`, where b is a file.
    """
    scheme, _, rest = full_name(name).rpartition(":")
    model, _, weights = rest.partition("/")
    return f"{model}-{Path(weights).name}" if scheme == "open_clip" and weights and not Path(rest).is_dir() else Path(rest).name


def made_by(entry: str) -> Any:
    """Import the class or function that an entry, "package.module:name", names."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


DECODERS = ("pillow", "torchcodec")
# Numbers of views of a picture, the first ones of xvoken.pictures.cuts.CUTS, that its vector can be the mean of.
KEY_VIEWS = (1, 2, 4)
BACKENDS = ("auto", "faiss", "torch")
