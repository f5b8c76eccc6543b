"""Where a trained matcher lies; xvoken/encoders/snapshot.py reads and writes it."""

from pathlib import Path


def tensors_file(folder: Path, tag: str) -> Path:
    """Where the heads and the config of the BEST or the LAST epoch lie."""
    return folder / f"{tag}.safetensors"
