"""How the tokens of a line get their vokens: in which segments they are searched for, and by which numbers a line's picture is told."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vokenization.segments import SEGMENT
from xvoken.cli.flags import at_least
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files import vokens
from xvoken.files.safe import quoted
from xvoken.files.voken_kinds import IN_FOLDER, KINDS, NO_PICTURE, SIGNED, TOKEN
from xvoken.work.parts import parts_folder

NOT_OF_INDEX = ("min_probability", "segment", "vokens")  # settings of retrieval that an approximate index does not hang on


@dataclass(frozen=True)
class Layout:
    """level: of the matcher, sentence or token; kind: one of KINDS on sentence level.

    segment: lines with more tokens are cut into segments (0: none is); None on token level for an output that was begun before there were
    segments: then none is, and settings do not speak of it.
    """

    level: str
    segment: int | None
    kind: str = SIGNED

    @staticmethod
    def add_flags(parser: argparse.ArgumentParser) -> None:
        """--segment and --vokens."""
        parser.add_argument(
            "--segment", type=at_least(0), metavar="N",
            help="cut lines of more than N tokens (of more than the tower takes, if that is less) into segments of equal length that are "
            f"searched for by themselves, so that every token has its picture; 0: no (default: {SEGMENT} on token level, 0 on sentence "
            "level, where the tower cuts off what it does not take)",
        )  # fmt: skip
        parser.add_argument(
            "--vokens", choices=KINDS, default=None,
            help=f"numbers of a line's tokens, on sentence level; signed: row r at the first, -r - 1 behind it, as Vokenization's loader "
            f"undoes where the folder's path contains \"sent\"; all: r at all of them; first: r at the first, {NO_PICTURE} behind it "
            f"(default: {SIGNED})",
        )  # fmt: skip

    @classmethod
    def of(cls, args: argparse.Namespace, level: str, begun: dict[str, Any]) -> "Layout":
        """What is asked for; begun: the settings that the output is begun or finished with, empty if it is not.

        Raises UserError for --vokens on token level.
        """
        if level != TOKEN:
            return cls(level, args.segment or 0, args.vokens or SIGNED)
        if args.vokens:
            raise UserError(f"--vokens {args.vokens}: this matcher is on token level, where each token has a picture of its own")
        old = bool(begun) and "segment" not in begun
        if old and not args.segment:
            return cls(level, None)
        return cls(level, SEGMENT if args.segment is None else args.segment)

    def settings(self) -> dict[str, Any]:
        """What files keep of it: nothing where it is as before there was a choice."""
        segment = {} if self.segment is None or (self.level != TOKEN and not self.segment) else {"segment": self.segment}
        return segment | ({} if self.kind == SIGNED else {"vokens": self.kind})

    def said(self) -> str:
        """What the vokens are, for the report."""
        if self.level == TOKEN:
            return f"the row of each token's own picture, {NO_PICTURE} where it has none"
        return KINDS[self.kind] + (f"; {IN_FOLDER}" if self.kind == SIGNED else "")

    def counted(self, summaries: list[dict[str, Any]]) -> tuple[dict[str, int], str]:
        """The lines that were cut, by a tower or into segments, for the report and in words."""
        cut = sum(summary["cut"] for summary in summaries)
        if not self.segment:
            return {"cut": cut}, f"{cut:,} cut to the tower's length"
        segmented = sum(summary["segmented"] for summary in summaries)
        return {"cut": cut, "segmented": segmented}, f"{segmented:,} in segments of at most {self.segment} tokens"

    def tell_old(self, hdf5: Path) -> None:
        """Say what a finished file on token level lacks that was begun before there were segments."""
        if self.level == TOKEN and self.segment is None and hdf5.exists():
            say(
                f"note: {hdf5} was made before lines of more than {SEGMENT} tokens were cut into segments, and has -1 for tokens that the "
                f"tower cut off, where Vokenization's training stops; to have a picture for each: rm {quoted(hdf5)}, then the same command"
            )

    def tell(self, output: Path) -> None:
        """Say where readers may go wrong with what was written to this folder."""
        if self.level != TOKEN and self.kind == SIGNED and "sent" not in str(output):
            say(f"note: {IN_FOLDER}, and {output} has none; for that reader give --output a name with it, or take --vokens all or first")


def sets_name(where: Path, corpus_name: str, image_sets: list[str], most: int | None, images: int) -> str:
    """The image sets as they stand in the names of files: sorted, joined with `_`, and the number of images where `most` limits it.

    images: that are searched. A file of an earlier version, which said `most` where there were fewer images, keeps its name.
    """
    name = "_".join(sorted(image_sets))
    if most is None:
        return name
    old = vokens.hdf5_file(where, corpus_name, f"{name}.{most}")
    return f"{name}.{most if old.exists() or parts_folder(old).exists() else images}"
