"""What there is a choice of, by name, with where it is made. Listing a table imports nothing of what stands in it."""

from importlib import import_module
from typing import Any

# From a tower's output to the joint space; the knobs that a head has besides width, hidden, dim and dropout.
HEADS = {
    "mlp": ("xvoken.encoders.heads:MLPHead", ("hidden_layers",)),
    "linear": ("xvoken.encoders.heads:LinearHead", ()),
    "glu": ("xvoken.encoders.heads:GLUHead", ()),
}
# What `load_encoder` loads, by transformers' model_type; a matcher's snapshot is "matcher".
ENCODERS = {
    "matcher": "xvoken.encoders.matcher:load_matcher",
    "clip": "xvoken.encoders.clip:load_clip",
    "metaclip_2": "xvoken.encoders.clip:load_clip",
    "siglip": "xvoken.encoders.clip:load_clip",
}


def made_by(entry: str) -> Any:
    """The class or function of an entry, as "package.module:name"."""
    module, _, name = entry.partition(":")
    return getattr(import_module(module), name)
