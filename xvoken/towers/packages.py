"""Where installed packages lie, found without importing them."""

import importlib.util
from pathlib import Path


def package_folder(name: str) -> Path | None:
    """The folder of a package; None where it is not installed."""
    spec = importlib.util.find_spec(name)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
