"""Cross-modal retrieval at corpus scale: images for every sentence, sentences for every image.

    encoder = xvoken.load_encoder("snap/xmatching/best")
    keys = xvoken.read_keys("snap/xmatching/best/keys", ["open_images"], encoder=encoder)
    hits = xvoken.open_index(keys).search(encoder.encode_texts(["a red bus"]), k=5)

docs/python.md shows the rest. Names are loaded when they are used: importing xvoken alone takes no time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xvoken.encoders.encoder import Encoder as Encoder
    from xvoken.encoders.encoder import load_encoder as load_encoder
    from xvoken.errors import Error as Error
    from xvoken.files.context import Context as read_context
    from xvoken.files.corpus import read_corpus as read_corpus
    from xvoken.files.keys import read_keys as read_keys
    from xvoken.files.keys import write_keys as write_keys
    from xvoken.files.vokens import read_vokens as read_vokens
    from xvoken.search.index import open_index as open_index

__version__ = "0.2.0.dev0"

_PUBLIC = {
    "Encoder": "xvoken.encoders.encoder:Encoder",
    "Error": "xvoken.errors:Error",
    "load_encoder": "xvoken.encoders.encoder:load_encoder",
    "open_index": "xvoken.search.index:open_index",
    "read_context": "xvoken.files.context:Context",
    "read_corpus": "xvoken.files.corpus:read_corpus",
    "read_keys": "xvoken.files.keys:read_keys",
    "read_vokens": "xvoken.files.vokens:read_vokens",
    "write_keys": "xvoken.files.keys:write_keys",
}
__all__ = ["Encoder", "Error", "load_encoder", "open_index", "read_context", "read_corpus", "read_keys", "read_vokens", "write_keys"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xvoken' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    globals()[name] = found = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
