"""Time until one sentence is answered from 50,000 keys: by a command that has to load everything, and by a model that stays loaded.

    python benchmarks/asking.py [--small] [--load CLIP_FOLDER]

The model has a text tower of ViT-B/32's size with random weights, or is the one at --load; keys are random, as large as its own.
`straightforward` is transformers and numpy in a few lines, `limit` is, cold, the import of torch and transformers, and, warm, the text
tower alone. Two JSON lines: `ask-cold`, one query by a fresh process, and `ask-warm`, one query of 20 after another.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import h5py
import numpy as np
import torch

from benchmarks.measure import make_parser, report, seconds
from tests import builder
from xvoken.ask.queries import query, sentence
from xvoken.ask.searcher import open_searcher
from xvoken.cli.main import run_main
from xvoken.encoders.identity import identify
from xvoken.files import keys as key_files

ROOT = Path(__file__).resolve().parents[1]
SENTENCES = [f"a {colour} {thing} near the house" for colour in ("red", "blue", "old", "small", "big") for thing in builder.WORDS[5:9]]


def plain(load: str, path: str) -> Callable[[str], list[int]]:
    """What one writes who does not know this library: a function that gives the best ten rows for a sentence."""
    from transformers import AutoTokenizer, CLIPModel

    model, tokenizer = CLIPModel.from_pretrained(load).eval(), AutoTokenizer.from_pretrained(load)
    with h5py.File(path) as file:
        keys = file["keys"][:]

    @torch.inference_mode()
    def ask(text: str) -> list[int]:
        out = model.text_model(**tokenizer([text], return_tensors="pt")).pooler_output
        vector = torch.nn.functional.normalize(model.text_projection(out), dim=-1).numpy()[0]
        return np.argsort(-(keys @ vector))[:10].tolist()

    return ask


def made_keys(folder: Path, load: str, number: int) -> Path:
    """Random keys of the set `made`, as this model might have made them; returns their file."""
    identity, numbers = identify(load), np.random.default_rng(0)
    vectors = numbers.standard_normal((number, identity.dim), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    key_files.write_keys(folder, "made", vectors, [f"{i:07d}.jpg" for i in range(number)], encoder=identity)
    return key_files.keys_file(folder, "made")


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Seconds until a sentence is answered.")
    parser.add_argument("--load", help="a CLIP model's folder (default: one of random weights)")
    args = parser.parse_args(argv)
    number = 1000 if args.small else 50_000
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["XDG_CACHE_HOME"] = str(folder / "home")
        size = {} if args.small else {"dim": 512, "widths": (512, 768), "layers": 12, "positions": 77}
        load = args.load or str(builder.save_clip(folder / "clip", weights=torch.nn.Module.eval, **size))
        keys = made_keys(folder, load, number)

        def cold(*words: str) -> float:
            return seconds(
                lambda: subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True), 1 if args.small else 3
            )

        script = f"from benchmarks.asking import plain; print(plain({load!r}, {str(keys)!r})({SENTENCES[0]!r}))"
        command = ["--load", load, "--image-sets", "made", "--keys-dir", str(folder), "--device", "cpu", SENTENCES[0]]
        rows = {
            "straightforward": cold("-c", script), "ours": cold("vokenization/search.py", *command),
            "limit": cold("-c", "import torch, transformers"),
        }  # fmt: skip
        report("ask-cold", "queries", 1, rows, keys=number)

        ask, searcher = plain(load, str(keys)), open_searcher(load, ["made"], folder, "cpu")
        same = [ask(text) == [hit.row for hit in searcher.search([query([sentence(text)])])[0].hits] for text in SENTENCES]
        ways = {
            "straightforward": ask,
            "ours": lambda text: searcher.search([query([sentence(text)])]),
            "limit": lambda text: searcher.encoder("text").encode_texts([text]),
        }
        rows = {name: seconds(lambda way=way: [way(text) for text in SENTENCES], 3) for name, way in ways.items()}
        report("ask-warm", "queries", len(SENTENCES), rows, keys=number, same_top_10=sum(same) / len(same))


if __name__ == "__main__":
    run_main(main)
