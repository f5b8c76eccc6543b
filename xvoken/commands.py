"""The commands that error messages name, each in one place; a test gives each of them to its script's own parser.

Words in capital letters are to be filled in by the user.
"""

from pathlib import Path
from shlex import quote

SENTENCES = {"spacy": ["--sentences"], "lines": ["--lines-are-sents"]}  # flags by which tokenizing was told how to find sentences


def _command(script: str, *words: object) -> str:
    return " ".join([script, *(quote(str(word)) for word in words)])


def train(recipe: str = "") -> str:
    """Train a matcher on COCO, on GPU 0; recipe: empty for the published one."""
    return _command("bash scripts/run_xmatching.bash 0", *(["--recipe", recipe] if recipe else []))


def convert(weights: object = "BEST.pth", output: object = "snap/xmatching/NAME") -> str:
    """Make a snapshot of Vokenization's or Maria's weights."""
    return _command("python xmatching/convert.py", weights, output)


def prepare_dialogues() -> str:
    """Turn raw dialogues into text files with a line each."""
    return _command("python tokenization/prepare_reddit.py", "RAW_DIR", "OUTPUT_DIR")


def tokenize(
    corpus: Path = Path("DATA_DIR/FILE"), tokenizer: str = "TOKENIZER", limit: object = None, rule: str = "", sentences: str = ""
) -> str:  # fmt: skip
    """Tokenize a text file; tokenizer: its hub id, folder or short name; limit: only the first lines, None for all.

    rule: of the filter, empty for none; sentences: "spacy" splits lines, "lines" takes lines for sentences, empty writes none.
    """
    only = ["--limit", limit] if limit else []
    more = [*only, *(["--filter", rule] if rule else []), *SENTENCES.get(sentences, [])]
    return _command("python tokenization/tokenize_dataset.py", corpus.parent, corpus.name, tokenizer, *more)


def fix_order(image_set: str) -> str:
    """Fix the order of an image set's pictures; image_set: its name, or NAME=FOLDER."""
    return _command("python vokenization/create_image_ids.py", "--image-sets", image_set)


def extract_keys(load: object, image_set: str, output: Path | None = None) -> str:
    """Extract an image set's keys; load: the snapshot or model; output: their folder, None for the usual one."""
    elsewhere = ["--output", output] if output else []
    return _command("python vokenization/extract_vision_keys.py", "--load-dir", load, "--image-sets", image_set, *elsewhere)


def vokenize(load: object = "SNAPSHOT", corpus: object = "CORPUS", image_sets: str = "", sentences: bool = False) -> str:
    """Retrieve images for every line of a corpus; image_sets: names joined by commas, empty for the stage's default.

    sentences: for every sentence instead.
    """
    more = [*(["--image-sets", image_sets] if image_sets else []), *(["--sentences"] if sentences else [])]
    return _command("python vokenization/vokenize_corpus_mp.py", "--load", load, "--corpus", corpus, *more)


def evaluate(load: object, image_set: str) -> str:
    """Measure a snapshot's recall on an image set with captions."""
    return _command("python vokenization/evaluate_retrieval.py", "--load", load, "--image-sets", image_set)


def serve(*words: object) -> str:
    """Serve a gallery; words: its flags."""
    return _command("python vokenization/serve.py", *words)


def split_karpathy(file: str) -> str:
    """Turn a file of the Karpathy split into image sets with captions."""
    return _command("python vokenization/split_karpathy.py", file)


def encode_captions(model: str = "MODEL", exp_name: str = "") -> str:
    """Encode phrases into the caption database; exp_name: the experiment's folder, empty for the usual one."""
    elsewhere = ["--exp_name", exp_name] if exp_name else []
    return _command("python ctx/encode_captions.py", "--model", model, *elsewhere)


def build_context() -> str:
    """Write both context files."""
    return "python ctx/build_context.py"


def page_of_context(context: Path, images: object = None, image_sets: list[str] | None = None) -> str:
    """Write a page of a context file; images, image_sets: where the pictures were taken from, None for COCO."""
    source = ["--images", images] if images else ["--image-sets", *image_sets] if image_sets else []
    return _command("python ctx/page.py", "--context", context, *source)


def demo_data(folder: Path) -> str:
    """Make the demo's data in a folder."""
    return _command("python scripts/demo_data.py", folder)


def install(extra: str = "") -> str:
    """Install packages: those of an extra in pyproject.toml, or, without one, what the stages need."""
    what = f"-e {quote(f'.[{extra}]')}" if extra else "-r requirements.txt"
    return f"pip install {what} -c constraints.txt"
