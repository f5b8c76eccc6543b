"""Approximate indexes over keys as they come: 200,000 sentences that people wrote, and crops of photos.

    python benchmarks/real_keys.py [--small] [--work FOLDER] [--spaces A,B] [--indexes ivf:4,hnsw:32]

reads   the demo's data and matchers, ../shared/coco_sample if present, and the packages that are installed, for their docstrings,
        comments and documentation; the towers' outputs stay in FOLDER, so that a second run starts with the indexes
prints  for each space the share of keys that an index reads, and how many times as fast as exact search it is, at the least effort
        that finds 95% and 99% of the exact top 5 for 256 other queries; the last line is JSON

texts           the text tower's outputs, asked by others of them
pictures        the image tower's outputs, asked by other crops: 120 random crops of each photo, so near-duplicates abound
texts-demo      sentences in the demo's joint space, asked by sentences
phrases-demo    the same keys, asked by crops: context files
pictures-demo, pictures-zeroshot    crops in the joint spaces, asked by sentences: retrieval; queries lie far from the keys
pictures-hubness    as pictures-demo, with hubness taken off, as retrieval does it
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.matching_data import COCO_SAMPLE, DEMO, ROOT, small_source
from benchmarks.measure import machine, make_parser, seconds, threads
from benchmarks.precision import stage
from benchmarks.real_texts import installed, texts_at_hand
from xvoken.cache.augmented import augmented_features
from xvoken.cache.texts import text_features
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.encoders.frozen import of_length_one
from xvoken.files.indexes import EFFORT, parameters_of
from xvoken.machine import Compute, cores, resolve_precision
from xvoken.pictures.augment import Crops
from xvoken.search import approximate
from xvoken.search.approximate import ApproximateIndex
from xvoken.search.hubness import Extended, Rows, offsets
from xvoken.search.torch_exact import TorchIndex

Vectors = NDArray[np.float32]
TEXTS, QUERIES, CROPS, TOP = 203_000, 1280, 120, 5
TUNED = 5  # one query of so many is for the choice of the effort; times and recalls are of the others
INDEXES = "ivf:1,ivf:2,ivf:4,ivf:8,hnsw:32,ivfpq:4"
TARGETS = (0.95, 0.99)


class Space(NamedTuple):
    """Keys (N, d) and queries (Q, d)."""

    keys: Rows
    queries: Vectors


class Outputs(NamedTuple):
    """What the towers of the first of `encoders` make of sentences and of crops, float16 (n, width) each, those of queries last."""

    encoders: list[Encoder]
    texts: NDArray[np.float16]
    pictures: NDArray[np.float16]
    queries: int


def unit(features: NDArray[np.float16]) -> Vectors:
    """Float32 rows of length 1."""
    return torch.nn.functional.normalize(torch.from_numpy(np.array(features, np.float32)), dim=1).numpy()


def by_head(head: Callable[[torch.Tensor], torch.Tensor], features: NDArray[np.float16]) -> Vectors:
    """The vectors that a head makes of features (n, width)."""
    return np.concatenate(
        [head(torch.from_numpy(np.array(features[at : at + 4096]))).cpu().numpy() for at in range(0, len(features), 4096)]
    )


def outputs(
    loads: list[str], dialogues: list[Path], folders: list[Path], photos: list[Path], work: Path, sizes: tuple[int, int, int]
) -> Outputs:
    """The towers' outputs, from the folder or made now; the other matchers take columns of them. sizes: texts, queries, crops a photo."""
    texts, queries, crops = sizes
    encoders = [load_encoder(load, [], "cpu") for load in loads]
    widest, compute = encoders[0], Compute(("cpu",), resolve_precision("auto", "cpu"), cache=work)
    sentences = texts_at_hand(dialogues, folders, texts)
    text, image = widest.text_spec.build(), widest.image_spec.build()
    said = text_features(widest.text_spec, text, widest.tokenizer, sentences, widest.max_len, compute, "real-texts").rows
    names = [path.stem for path in photos]
    drawn = augmented_features(widest.image_spec, image, names, photos, Crops(crops, 0.08, 0), compute, "real-photos").rows
    shown = drawn.reshape(-1, drawn.shape[-1])[np.random.default_rng(0).permutation(drawn.shape[0] * drawn.shape[1])]
    return Outputs(encoders, said, shown[np.isfinite(shown).all(1)], queries)


def spaces(made: Outputs) -> dict[str, Callable[[], Space]]:
    """The spaces by name, made when they are asked for."""
    first, last, queries = made.encoders[0], made.encoders[-1], made.queries
    text_width, image_width = (spec.build().width for spec in (last.text_spec, last.image_spec))

    def raw(features: NDArray[np.float16], width: int) -> Space:
        rows = unit(features[:, -width:])
        return Space(rows[:-queries], rows[-queries:])

    def joint(encoder: Encoder, keys: str, asked: str) -> Space:
        sides = {"texts": (encoder.text_vectors, made.texts, text_width), "pictures": (encoder.image_vectors, made.pictures, image_width)}
        found = []
        for side, rows in ((keys, slice(0, -queries)), (asked, slice(-queries, None))):
            head, features, width = sides[side]
            found.append(by_head(head, features[rows] if encoder is first else features[rows, -width:]))
        assert all(of_length_one(vectors).all() for vectors in found)
        return Space(*found)

    def without_hubness() -> Space:
        space = joint(first, "pictures", "texts")
        assert first.bank is not None, "the demo's matcher has a bank"
        return Space(Extended(space.keys, offsets([space.keys], first.bank.text.float().numpy(), first.hubness)), space.queries)

    return {
        "texts": lambda: raw(made.texts, text_width),
        "pictures": lambda: raw(made.pictures, image_width),
        "texts-demo": lambda: joint(first, "texts", "texts"),
        "phrases-demo": lambda: joint(first, "texts", "pictures"),
        "pictures-demo": lambda: joint(first, "pictures", "texts"),
        "pictures-zeroshot": lambda: joint(last, "pictures", "texts"),
        "pictures-hubness": without_hubness,
    }


def parameters(index: str, number: int, dim: int) -> tuple[str, dict[str, int]]:
    """Kind and parameters of an index given as KIND:NUMBER: links of hnsw, of the others cells as a multiple of sqrt(number of keys)."""
    kind, _, times = index.partition(":")
    given = {"links": int(times)} if kind == "hnsw" else {"cells": max(1, round(float(times) * number**0.5))}
    return kind, {**parameters_of(kind, number, dim), **given}


def distances(index: ApproximateIndex, queries: Vectors) -> float:
    """Vectors that faiss compares a query with, those of the cells counted in: a figure without seconds."""
    counted = index.faiss.cvar
    stats = counted.hnsw_stats if index.kind == "hnsw" else counted.indexIVF_stats
    stats.reset()
    index.search(queries, TOP)
    return stats.ndis / len(queries) + (0 if index.kind == "hnsw" else index.index.nlist)


def measure(name: str, space: Space, indexes: list[str]) -> Iterator[dict[str, Any]]:
    """Yield a record of each index and target."""
    flat = TorchIndex(space.keys, "cpu", resolve_precision("auto", "cpu"))
    tuned, asked = np.split(space.queries, [len(space.queries) // TUNED])
    exact, expected = flat.search(tuned, TOP)[0], flat.search(asked, TOP)[0]
    exactly = seconds(lambda: flat.search(asked, TOP), 2) / len(asked)
    number, dim = space.keys.shape
    for given in indexes:
        kind, chosen = parameters(given, number, dim)
        started = time.perf_counter()
        built = approximate.build(space.keys, kind, chosen, show_progress=False)
        build = time.perf_counter() - started
        index = ApproximateIndex(space.keys, built, kind, 1)
        for target in TARGETS:
            approximate.tune(index, tuned, exact, target)
            taken = seconds(lambda index=index: index.search(asked, TOP), 1) / len(asked)
            reached = approximate.recall(index.search(asked, TOP)[0], expected)
            yield {
                "space": name, "keys": number, "dim": dim, "index": given, **chosen, "build_seconds": round(build, 1), "target": target,
                EFFORT[kind]: index.effort, "recall": round(reached, 4), "read": round(distances(index, asked) / number, 4),
                "ms": round(1000 * taken, 3), "flat_ms": round(1000 * exactly, 3), "times_flat": round(exactly / taken, 2),
                "built_in_queries": round(build / exactly),
            }  # fmt: skip


def print_record(found: dict[str, Any]) -> None:
    effort = found.get("nprobe", found.get("efSearch"))
    print(
        f"{found['space']:<18}{found['keys']:>8,} {found['index']:<8} recall {found['recall']:.3f} of {found['target']} effort {effort:>5} "
        f"reads {found['read']:7.2%}  {found['ms']:7.3f} ms, exact {found['flat_ms']:6.3f}: {found['times_flat']:6.2f} times  "
        f"built in {found['build_seconds']:.1f} s",
        flush=True,
    )


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Approximate indexes over keys as they come.")
    parser.add_argument("--work", type=Path, help="folder for the towers' outputs (default: a temporary one)")
    parser.add_argument("--spaces", help="some of the spaces, separated by commas")
    parser.add_argument("--indexes", default=INDEXES, help="KIND:NUMBER, links of hnsw, else cells as a multiple of sqrt(number of keys)")
    parser.add_argument("--snapshots", type=Path, default=ROOT / "snap/xmatching", help="folder of the demo's matchers")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, threads(cores()):
        made = small_outputs(Path(folder)) if args.small else real_outputs(args.snapshots, args.work or Path(folder))
        ways = spaces(made)
        wanted = args.spaces.split(",") if args.spaces else [name for name in ways if made.encoders[0].bank or name != "pictures-hubness"]
        records = []
        for name in wanted:
            say(f"{name} ...")
            for record in measure(name, ways[name](), ["ivf:1", "hnsw:8"] if args.small else args.indexes.split(",")):
                print_record(record)
                records.append(record)
    print(json.dumps({"stage": "real_keys", "records": records, "machine": machine()}))


def real_outputs(snapshots: Path, work: Path) -> Outputs:
    dialogues = [*sorted((COCO_SAMPLE / "reddit").glob("*.txt")), *sorted((DEMO / "dialogues").glob("*.txt"))]
    photos = [*sorted((COCO_SAMPLE / "mscoco/images").rglob("*.jpg")), *sorted((DEMO / "photos").iterdir())]
    loads = [str(snapshots / name) for name in ("demo", "demo_zeroshot")]
    return outputs(loads, dialogues, installed(), photos, work, (TEXTS, QUERIES, CROPS))


def small_outputs(folder: Path) -> Outputs:
    """Of some of this project's own texts, made-up photos, and a small matcher."""
    source = small_source(folder)
    stage("xmatching.main", *source.flags, "--output", folder / "matcher")
    photos = sorted((folder / "photos").iterdir())
    return outputs([str(folder / "matcher")], [], [ROOT / "docs", ROOT / "vokenization"], photos, folder / "cache", (500, 30, 8))


if __name__ == "__main__":
    run_main(main)
