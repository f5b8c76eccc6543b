"""What there is a choice of, by name, with where it is made. Listing a table imports nothing of what stands in it."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class ImagePool:
    """What is taken of an image tower's last map: a layer of torch that gives `side` x `side` values a channel.

    earlier: and the averages of earlier maps.
    """

    layer: str
    side: int = 1
    earlier: bool = False


# From a tower's output to the joint space; the knobs that a head has besides width, hidden, dim and dropout.
HEADS = {
    "mlp": ("xvoken.encoders.heads:MLPHead", ("hidden_layers",)),
    "linear": ("xvoken.encoders.heads:LinearHead", ()),
    "glu": ("xvoken.encoders.heads:GLUHead", ()),
}
# From the states of a caption's tokens (B, T, d) and their mask (B, T) to one vector (B, d).
TEXT_POOLS = {"cls": "xvoken.encoders.text:first_token", "mean": "xvoken.encoders.text:masked_mean"}
# From an image tower's maps to one vector.
IMAGE_POOLS = {
    "avg": ImagePool("torch.nn:AdaptiveAvgPool2d"),
    "max": ImagePool("torch.nn:AdaptiveMaxPool2d"),
    "grid": ImagePool("torch.nn:AdaptiveAvgPool2d", side=2),
    "maps": ImagePool("torch.nn:AdaptiveAvgPool2d", side=2, earlier=True),
}
# Where pictures lie: whether a path names such a source, and what lists it; the first that fits is taken.
SOURCES = {
    "shards": ("xvoken.pictures.sources:is_shards", "xvoken.pictures.sources:shard_ids"),
    "folder": ("xvoken.pictures.sources:is_folder", "xvoken.pictures.sources:folder_ids"),
}
# How captioned pictures are listed, by the ending of the file.
CAPTION_FORMATS = {".json": "xvoken.files.image_sets:read_lxmert"}
# Of an index of keys; all but flat are approximate.
INDEXES = {
    "flat": "xvoken.search.index:build_joined",
    "ivf": "xvoken.search.approximate:build_tuned",
    "hnsw": "xvoken.search.approximate:build_tuned",
    "ivfpq": "xvoken.search.approximate:build_tuned",
}
# What `load_encoder` loads, by transformers' model_type; a matcher's snapshot is "matcher".
ENCODERS = {
    "matcher": "xvoken.encoders.matcher:load_matcher",
    "clip": "xvoken.encoders.clip:load_clip",
    "metaclip_2": "xvoken.encoders.clip:load_clip",
    "siglip": "xvoken.encoders.clip:load_clip",
}
# Text towers and tokenizers that have a short name.
SHORT_NAMES = {
    "bert": "bert-base-uncased",
    "bert-large": "bert-large-uncased",
    "roberta": "roberta-base",
    "distilbert": "distilbert-base-uncased",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
}


def full_name(name: str) -> str:
    """The hub id behind a short name; any other name as it is, without a slash at its end."""
    return SHORT_NAMES.get(name, name.rstrip("/") or name)


def base_name(name: str) -> str:
    """What files made with this model or tokenizer are called after: `a/b/c` gives `c`."""
    return Path(full_name(name)).name


def made_by(entry: str) -> Any:
    """The class or function of an entry, as "package.module:name"."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)


DECODERS = ("pillow", "torchcodec")
BACKENDS = ("auto", "faiss", "torch")
