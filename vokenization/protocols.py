"""Protocols of retrieval on captioned sets: which pictures, how they are ranked, and what others have published for the same.

The sets are those of the Karpathy split (Karpathy and Fei-Fei, CVPR 2015), as vokenization/split_karpathy.py writes them.
"""

from dataclasses import dataclass
from typing import Any

CAPTIONS = 5  # of a picture; COCO has a sixth or seventh for some, which VSE++ and all that followed leave out


@dataclass(frozen=True)
class Published:
    """A figure of others, recall at 1 from text to image in percent; source: the paper or page that has it."""

    model: str
    recall: float
    source: str


@dataclass(frozen=True)
class Protocol:
    """image_set, langs: what is evaluated, and its source of sentences; pictures: how many it has, with five captions each.

    folds: in how many blocks of neighbours in the split's order they are ranked, whose figures are averaged; made_from: the file that the
    image set is made from; published: figures measured in the same way, for the table.
    """

    image_set: str
    langs: tuple[str, ...]
    pictures: int
    made_from: str
    folds: int = 1
    published: tuple[Published, ...] = ()

    def fits(self, record: dict[str, Any]) -> bool:
        """Whether a record is of all the protocol's pictures and captions, so that it can be compared."""
        return record["images"] == self.pictures and record["captions"] == CAPTIONS * self.pictures


COCO_5K = (
    Published("VSE++ (ResNet-152)", 30.3, "Faghri et al., BMVC 2018, arXiv:1707.05612"),
    Published("CLIP ViT-B/32 (zero-shot)", 30.4, "open_clip, docs/openclip_retrieval_results.csv; the model: arXiv:2103.00020"),
    Published("LiT B/16 trained on COCO alone", 32.1, "big_vision, configs/proj/image_text, coco_B16B; the method: arXiv:2111.07991"),
    Published("SigLIP 2 g", 56.1, "Tschannen et al., 2025, arXiv:2502.14786"),
    Published("PE-Core G", 58.1, "Bolya et al., 2025, arXiv:2504.13181"),
)
PROTOCOLS = {
    "coco5k": Protocol("coco_karpathy_test", ("mscoco",), 5000, "dataset_coco.json", published=COCO_5K),
    "coco1k": Protocol("coco_karpathy_test", ("mscoco",), 5000, "dataset_coco.json", folds=5),
    "flickr": Protocol("flickr30k_karpathy_test", ("flickr30k",), 1000, "dataset_flickr30k.json"),
}


def remarks(name: str, record: dict[str, Any]) -> list[str]:
    """Lines below a record's table: published figures of the same protocol, or why they can't be compared."""
    protocol = PROTOCOLS[name]
    if not protocol.fits(record):
        whole = f"{protocol.pictures:,} pictures with {CAPTIONS} captions each"
        return [f"not to be compared with published figures: {name} is {whole}, these are {record['images']:,} and {record['captions']:,}"]
    if seen := record.get("seen"):
        which = ", ".join(f"{number:,} of its pictures are in {image_set}" for image_set, number in seen.items())
        return [f"not to be compared with published figures: {which}, on which this matcher was trained or chosen"]
    width = max((len(one.model) for one in protocol.published), default=0)
    lines = [f"  {one.model:<{width}} {one.recall:6.1f}   {one.source}" for one in protocol.published]
    return [f"published, {name}, text to image R@1:", *lines] if lines else []
