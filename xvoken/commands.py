"""The commands that error messages name, each in one place; a test gives each of them to its script's own parser.

Capital letters stand for what only the user knows.
"""

from pathlib import Path
from shlex import quote


def _command(script: str, *words: object) -> str:
    return " ".join([script, *(quote(str(word)) for word in words)])


def train() -> str:
    return "bash scripts/run_xmatching.bash 0"


def prepare_dialogues() -> str:
    return _command("python tokenization/prepare_reddit.py", "RAW_DIR", "OUTPUT_DIR")


def tokenize(corpus: Path = Path("DATA_DIR/FILE"), tokenizer: str = "TOKENIZER", limit: object = None) -> str:
    only = ["--limit", limit] if limit else []
    return _command("python tokenization/tokenize_dataset.py", corpus.parent, corpus.name, tokenizer, *only)


def fix_order(image_set: str) -> str:
    """image_set: its name, or NAME=FOLDER."""
    return _command("python vokenization/create_image_ids.py", "--image-sets", image_set)


def extract_keys(load: object, image_set: str, output: Path | None = None) -> str:
    elsewhere = ["--output", output] if output else []
    return _command("python vokenization/extract_vision_keys.py", "--load-dir", load, "--image-sets", image_set, *elsewhere)


def vokenize(load: object = "SNAPSHOT", corpus: object = "CORPUS", image_sets: str = "") -> str:
    sets = ["--image-sets", image_sets] if image_sets else []
    return _command("python vokenization/vokenize_corpus_mp.py", "--load", load, "--corpus", corpus, *sets)


def evaluate(load: object, image_set: str) -> str:
    return _command("python vokenization/evaluate_retrieval.py", "--load", load, "--image-sets", image_set)


def encode_captions(model: str = "MODEL", exp_name: str = "") -> str:
    elsewhere = ["--exp_name", exp_name] if exp_name else []
    return _command("python ctx/encode_captions.py", "--model", model, *elsewhere)


def build_context() -> str:
    return "python ctx/build_context.py"


def demo_data(folder: Path) -> str:
    return _command("python scripts/demo_data.py", folder)


def install(extra: str = "") -> str:
    """extra: one of pyproject.toml's; without, what the stages need."""
    what = f"-e {quote(f'.[{extra}]')}" if extra else "-r requirements.txt"
    return f"pip install {what} -c constraints.txt"
