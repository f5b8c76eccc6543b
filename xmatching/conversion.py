"""What a snapshot made of another project's weights depends on; imports no torch, as it tells whether it is there already."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.foreign import require_file
from xvoken.errors import UserError
from xvoken.files.safe import sha256_of_file
from xvoken.work.product import Product

RECIPE = "converted"  # in config["training"]["recipe"]


@dataclass
class Conversion:
    """source: their BEST.pth; output: folder of the snapshot; given: what was asked for, fields of ModelConfig by name."""

    source: Path
    output: Path
    given: dict[str, Any]

    @cached_property
    def digest(self) -> str:
        """Hash of the source's bytes; raises UserError if there is no such file."""
        require_file(self.source)
        return sha256_of_file(self.source)[:16]

    def product(self, settings: dict[str, Any] | None = None, towers: tuple[Path, ...] = ()) -> Product:
        """The snapshot; settings: all that was found out, None for those of the snapshot that is there, with what was asked for.

        towers: files of the towers that are written, of a new snapshot. Raises UserError for a folder with another matcher.
        """
        path = snapshots.tensors_file(self.output, "BEST")
        training = snapshots.read_header(path).get("training", {}) if path.exists() else {}
        if snapshots.training_file(self.output).exists() or (path.exists() and training.get("recipe") != RECIPE):
            raise UserError(f"{self.output} holds another matcher; choose another folder, or: rm -r {self.output}")
        then = training.get("settings", {})
        companions = (snapshots.tokenizer_folder(self.output) / "tokenizer.json", self.output / "BEST.json", self.output / "README.md")
        kept = towers or tuple(self.output / name for name in training.get("towers", []))
        asked = settings or {**then, "source": self.digest, **self.given}
        return Product(path, asked, lambda: then, "the matcher of these weights", (*kept, *companions))

    def finished(self) -> bool:
        """Whether the snapshot is there; says so if it is, and raises UserError if it was made of other weights or as something else."""
        return self.product().finished()
