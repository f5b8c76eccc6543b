"""Text towers by name through a training and retrieval: what is taken where no flag says it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests import texts
from tests.running import run_here
from tests.worlds import World
from tests.xvoken.towers.test_sentence import PROMPTS, save
from xmatching.converted import _project_of
from xmatching.param import parse_args
from xvoken.encoders.encoder import load_encoder
from xvoken.encoders.snapshot import ModelConfig, read_header
from xvoken.errors import UserError

LINES = ["a red circle", "", "square painted yellow", "a blue square and a red circle, " * 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """gpt2, t5 and bert, and one of sentence-transformers of the latter, with prompts and a default one."""
    root = tmp_path_factory.mktemp("towers")
    texts.save_gpt2(root / "gpt2")
    texts.save_t5(root / "t5")
    texts.save_bert(root / "bert")
    save(root / "bert", root / "own", "mean", True, ("dense", "normalize"))
    return root


@pytest.mark.parametrize(
    ("lang", "flags", "settled"),
    [
        ("bert", [], ("cls", (4, 3, 2, 1), "")),
        ("own", [], ("own", (1,), "query: ")),
        ("own", ["--lang-prompt", ""], ("own", (1,), "")),
        ("own", ["--lang-prompt", "passage"], ("own", (1,), "passage: ")),
        ("own", ["--lang-prompt", "a text"], ("own", (1,), "a text")),
        ("own", ["--lang-layers", "1"], ("own", (1,), "query: ")),
        ("own", ["--text-pool", "mean", "--lang-prompt", "query"], ("mean", (4, 3, 2, 1), "query: ")),
        ("own", ["--text-pool", "cls"], ("cls", (4, 3, 2, 1), "")),
        ("own", ["--recipe", "best"], ("mean", (4, 3, 2, 1), "")),
        ("own", ["--recipe", "best", "--text-pool", "own"], ("own", (1,), "query: ")),
        ("own", ["--recipe", "zeroshot", "--lang-prompt", "query"], ("mean", (1,), "query: ")),
        ("own", ["--level", "token"], ("cls", (4, 3, 2, 1), "")),
        ("gpt2", [], ("last", (4, 3, 2, 1), "")),
        ("gpt2", ["--text-pool", "mean", "--lang-layers", "2"], ("mean", (2,), "")),
        ("gpt2", ["--level", "token"], ("cls", (4, 3, 2, 1), "")),
        ("t5", [], ("mean", (4, 3, 2, 1), "")),
    ],
)
def test_what_follows_from_the_tower(folder: Path, lang: str, flags: list[str], settled: tuple[str, tuple[int, ...], str]):
    args = parse_args(["--lang", str(folder / lang), *flags])
    assert (args.text_pool, args.lang_layers, args.lang_prompt) == settled


def test_a_misspelt_name_of_a_prompt(folder: Path, capsys: pytest.CaptureFixture[str]):
    """It is taken as text, as any other, but not without a word."""
    for prompt, told in (("querry", True), ("query", False), ("query: ", False)):
        parse_args(["--lang", str(folder / "own"), "--lang-prompt", prompt])
        assert ("own's prompts (passage, query)" in capsys.readouterr().err) == told


def test_short_names():
    """As published, whatever lies in their files; GPT-2's first token says nothing."""
    settled = {name: parse_args(["--lang", name]).text_pool for name in ("bert", "roberta", "minilm", "gpt2")}
    assert settled == {"bert": "cls", "roberta": "cls", "minilm": "cls", "gpt2": "last"}
    args = parse_args(["--lang", "minilm", "--text-pool", "own"])
    assert (args.lang_layers, args.lang_prompt) == ((1,), "")


@pytest.mark.parametrize(
    ("lang", "flags", "message"),
    [
        ("gpt2", ["--text-pool", "cls"], "has seen nothing of a sentence; take last or mean"),
        ("bert", ["--text-pool", "own"], "has no modules.json, as sentence-transformers writes it; take cls, mean or last"),
        ("own", ["--lang-layers", "4,3"], "is of the last layer alone; leave it out, or take --text-pool mean"),
        ("own", ["--lang-finetune"], "is taken frozen; take --text-pool mean or cls"),
        ("own", ["--level", "token", "--lang-prompt", "query"], "--lang-prompt: not with --level token"),
    ],
)
def test_what_does_not_go_together(folder: Path, lang: str, flags: list[str], message: str):
    done = run_here("xmatching/main.py", "--lang", folder / lang, *flags)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1, done.stderr


def flags_of(world: World, output: Path, lang: Path, *more: object) -> list[str]:
    return world.train_flags(output, "--lang", lang, "--epochs", 1, *more)


@pytest.mark.parametrize(("lang", "more"), [("own", []), ("gpt2", ["--lang-layers", "2,1"])])
def test_chain(world: World, folder: Path, tmp_path: Path, script: Callable[..., str], lang: str, more: list[str]):
    """What is retrieved for tokens that know of no prompt is what the encoder finds for the lines' texts."""
    output, ids = tmp_path / lang, ["--ids-root", tmp_path]
    few = ["--num-workers", 1, "--precision", "fp32"]
    script("xmatching.main", *flags_of(world, output, folder / lang, *more))
    assert "skipped" in script("xmatching.main", *flags_of(world, output, folder / lang, *more), "--resume")
    model = read_header(output / "BEST.safetensors")["model"]
    expected = ("own", "query: ", 7) if lang == "own" else ("last", "", 64)
    assert (model["text_pool"], model["lang_prompt"], model["text_width"]) == expected
    card = (output / "README.md").read_text()
    assert ('behind the prompt "query: "' in card) == (lang == "own")
    (tmp_path / "lines.txt").write_text("".join(f"{line}\n" for line in LINES))
    script("vokenization.create_image_ids", "--image-sets", "shapes_valid", *ids, *world.roots)
    sets = ["--load", output, "--image-sets", "shapes_valid"]
    script("vokenization.extract_vision_keys", *sets, *ids, *world.roots, *few, "--cache", f"{world.folder}/cache")
    script("tokenization.tokenize_dataset", tmp_path, "lines.txt", folder / lang)
    script(
        "vokenization.vokenize_corpus_mp", *sets, "--corpus", tmp_path / "lines.txt", "--tokenizer-name", folder / lang, "--topk", 2, *few
    )
    assert "matcher" in run_here("scripts/check.py", output, tmp_path / f"lines.txt.{lang}.hdf5").stdout
    with h5py.File(output / "vokens/lines.txt.shapes_valid.hdf5") as file:
        found = file["indices"][:]
    with h5py.File(output / "keys/shapes_valid.hdf5") as file:
        keys = file["keys"][:]
    scores = load_encoder(output, ["text"], "cpu").encode_texts(LINES) @ keys.T
    here = [0, 2, 3]
    assert (found[1] == -1).all()  # a line without tokens has no picture
    assert np.allclose(np.take_along_axis(scores[here], found[here].astype(np.int64), 1), -np.sort(-scores[here], 1)[:, :2], atol=1e-4)


def test_a_prompt_is_a_setting(world: World, folder: Path, tmp_path: Path):
    flags = flags_of(world, tmp_path / "m", folder / "bert", "--lang-layers", 1, "--text-pool", "mean", "--lang-prompt", PROMPTS["query"])
    assert run_here("xmatching/main.py", *flags).returncode == 0
    again = run_here("xmatching/main.py", *flags[:-1], "passage: ", "--resume")
    assert again.returncode == 2 and 'lang_prompt: "query: " then, "passage: " now' in again.stderr, again.stderr
    assert json.loads((tmp_path / "m/BEST.json").read_text())["model"]["lang_prompt"] == "query: "
    started = run_here("xmatching/main.py", *flags[:-2], "--load", tmp_path / "m", "--output", tmp_path / "other")
    assert started.returncode == 2 and "its lang_prompt is query: , the flags say" in started.stderr, started.stderr


def test_a_prompt_is_nothing_that_predecessors_have():
    """A file for them would be of another matcher."""
    sizes = {"text_width": 8, "image_width": 8, "hidden": 1024, "hidden_layers": 2, "dim": 8, "dropout": 0.2}
    assert _project_of(ModelConfig.with_heads(**sizes), Path("m")).name == "Maria"
    with pytest.raises(UserError, match="without --lang-prompt"):
        _project_of(ModelConfig.with_heads(**sizes, lang_prompt="query: "), Path("m"))


@pytest.mark.parametrize("lang", ["gpt2", "t5"])
def test_trained_towers(world: World, folder: Path, tmp_path: Path, lang: str):
    """A tower that was trained is loaded from the snapshot."""
    flags = flags_of(world, tmp_path / "m", folder / lang, "--lang-layers", 1, "--lang-finetune", "--lang-prompt", "query: ")
    done = run_here("xmatching/main.py", *flags)
    assert done.returncode == 0, done.stderr
    vectors = load_encoder(tmp_path / "m", ["text"], "cpu").encode_texts(LINES)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_tokens_of_a_decoder(world: World, folder: Path, tmp_path: Path):
    """On token level, where GPT-2 puts no token around a caption."""
    done = run_here("xmatching/main.py", *flags_of(world, tmp_path / "m", folder / "gpt2", "--lang-layers", 1, "--level", "token"))
    assert done.returncode == 0, done.stderr
    assert load_encoder(tmp_path / "m", ["text"], "cpu").encode_texts(LINES).shape == (4, 16)
