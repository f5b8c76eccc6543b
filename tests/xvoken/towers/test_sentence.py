"""Models of sentence-transformers, read without it, against the library itself: their pooling, modules, lengths and prompts."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import texts
from tests.texts import SENTENCES
from xvoken.encoders.frozen import all_batches
from xvoken.errors import UserError
from xvoken.towers.hashes import weights_hash
from xvoken.towers.sentence import OwnPooling
from xvoken.towers.sentence_files import MODES, prompts, sentence_model, subfolder
from xvoken.towers.tokenizer import load_tokenizer, tokenizer_hash

PROMPTS = {"query": "query: ", "passage": "passage: "}
BASES = {
    "bert": texts.save_bert, "mpnet": lambda folder: texts.save_bert(folder, "mpnet", longest=38), "gpt2": texts.save_gpt2,
    "qwen3": texts.save_qwen3, "t5": texts.save_t5,
}  # fmt: skip
# What stands behind the transformer: the base, its pooling, whether prompts are left out of that, and the modules.
MODELS: dict[str, tuple[str, Any, bool, tuple[str, ...]]] = {
    "minilm": ("bert", "mean", False, ("normalize",)),
    "instructor": ("t5", "mean", True, ("dense", "normalize")),
    "mpnet": ("mpnet", "mean", False, ("normalize",)),
    "qwen": ("qwen3", "lasttoken", False, ("normalize",)),
    "sgpt": ("gpt2", "weightedmean", False, ()),
    "all": ("bert", MODES, False, ("dense", "normalize")),
    "all but a prompt": ("qwen3", MODES, True, ("residual",)),
}


def save(base: Path, folder: Path, pooling: Any, skip: bool, modules: tuple[str, ...]) -> Path:
    """By the library."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    torch.manual_seed(0)
    transformer = Transformer(str(base))
    if transformer.tokenizer.pad_token is None:  # without one, the library takes no text at all
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    made = [transformer, Pooling(32, pooling, include_prompt=not skip)]
    width = made[1].get_embedding_dimension()
    for module in modules:
        if module == "normalize":
            made.append(Normalize())
        elif module == "dense":
            made.append(Dense(width, 7))
        else:
            made.append(Dense(width, 9, bias=False, activation_function=torch.nn.GELU(), use_residual=True))
    model = SentenceTransformer(modules=made, prompts=PROMPTS, default_prompt_name="query", device="cpu")
    model.save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of MODELS and, under their own names, of BASES."""
    root = tmp_path_factory.mktemp("sentences")
    for name, make in BASES.items():
        make(root / name)
    made = {name: save(root / base, root / f"of {name}", *more) for name, (base, *more) in MODELS.items()}
    return {name: root / name for name in BASES} | made


def ours(folder: Path, prompt: str) -> np.ndarray:
    text = texts.frozen(folder, "own", prompt)
    tokens, offsets = text.tokenize(SENTENCES)
    vectors = np.empty((len(SENTENCES), text.width), np.float32)
    for rows, found in text.features(tokens, offsets, all_batches(np.diff(offsets), 3)):
        vectors[rows] = found
    return vectors


def theirs(folder: Path, prompt: str) -> np.ndarray:
    """In one batch; they pad where the tokenizer says, at the left for Qwen3."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(SENTENCES, prompt=prompt)


@pytest.mark.parametrize("prompt", ["", "query: ", "query:"])
@pytest.mark.parametrize("name", MODELS)
def test_against_the_library(saved: dict[str, Path], name: str, prompt: str):
    """The first sentence is cut, the last but one is empty."""
    found, expected = ours(saved[name], prompt), theirs(saved[name], prompt)
    here = [number for number, sentence in enumerate(SENTENCES) if sentence or prompt or name != "sgpt"]
    assert np.allclose(found[here], expected[here], atol=1e-5)  # of a padded text without tokens GPT-2 has no sound state there
    assert np.isfinite(found).all()


def old_layout(folder: Path, new: Path) -> Path:
    """As sentence-transformers 1 to 4 wrote it, with the transformer in a folder of its own."""
    shutil.copytree(new, folder / "0_Transformer", ignore=shutil.ignore_patterns("*_*", "modules.json", "sentence_bert_config.json"))
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (new / file).exists():
            shutil.copy(new / file, folder / "0_Transformer")
    settings = {"max_seq_length": 17, "do_lower_case": True}
    (folder / "0_Transformer/sentence_bert_config.json").write_text(json.dumps(settings))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True})
    )
    (folder / "2_Dense").mkdir()
    weights = {"linear.weight": torch.randn(5, 64), "linear.bias": torch.randn(5)}
    torch.save(weights, folder / "2_Dense/pytorch_model.bin")
    dense = {"in_features": 64, "out_features": 5, "bias": True, "activation_function": "torch.nn.modules.linear.Identity"}
    (folder / "2_Dense/config.json").write_text(json.dumps(dense))
    kinds = [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense")]
    listed = [{"idx": n, "name": str(n), "path": p, "type": f"sentence_transformers.models.{k}"} for n, (p, k) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(listed))
    return folder


@pytest.mark.parametrize("base", ["qwen3", "t5"])
def test_the_old_layout(saved: dict[str, Path], tmp_path: Path, base: str):
    """Texts are brought to lower case first, a saved tokenizer does it by itself, and inputs end behind 17 tokens."""
    folder = old_layout(tmp_path, saved[base])
    assert subfolder(str(folder)) == "0_Transformer"
    assert np.allclose(ours(folder, "Query: "), theirs(folder, "Query: "), atol=1e-5)
    tokenizer = load_tokenizer(str(folder))
    tokenizer.save_pretrained(tmp_path / "saved")
    assert tokenizer_hash(load_tokenizer(str(tmp_path / "saved"))) == tokenizer_hash(tokenizer)
    assert tokenizer_hash(tokenizer) != tokenizer_hash(load_tokenizer(str(saved[base])))


def test_prompts_by_name(saved: dict[str, Path]):
    found = prompts(str(saved["minilm"]))
    assert (found.default, found.by_name["passage"]) == ("query: ", "passage: ")
    assert prompts(str(saved["bert"])).by_name == {}


def test_settings_without_weights_are_in_the_hash(saved: dict[str, Path], tmp_path: Path):
    """Else what was cached of a tower would be taken for that of another pooling."""
    folder, hashes = shutil.copytree(saved["minilm"], tmp_path / "m"), set()
    for pooling in ({"pooling_mode": "mean"}, {"pooling_mode": "cls"}, {"pooling_mode": "cls", "include_prompt": False}):
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
        hashes.add(weights_hash(OwnPooling(str(folder), 32)))
    settings("sentence_bert_config.json", max_seq_length=9)(folder)
    assert len(hashes | {weights_hash(OwnPooling(str(folder), 32))}) == 4


TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}


def modules(*listed: Any) -> Callable[[Path], None]:
    return lambda folder: (folder / "modules.json").write_text(json.dumps(listed))


def settings(file: str, **said: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / file
        path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **said}))

    return write


def wrong_weights(folder: Path) -> None:
    weights = load_file(folder / "2_Dense/model.safetensors")
    save_file({name: one[:3].clone() for name, one in weights.items()}, folder / "2_Dense/model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "modules.json").unlink(), "has no modules.json, as sentence-transformers writes it; take cls, mean"),
        (lambda folder: (folder / "modules.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "modules.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda folder: (folder / "modules.json").write_text(" " * (1 << 21)), "larger than 1,048,576 bytes"),
        (modules(), "lists no modules"),
        (modules({"type": 1, "path": ""}), "lists no modules"),
        (modules(TRANSFORMER, {**POOLING, "path": "../../etc"}), "lists no modules"),
        (modules(TRANSFORMER, {**POOLING, "path": "/etc"}), "lists no modules"),
        (
            modules(TRANSFORMER),
            "made of the modules Transformer where Transformer, Pooling, then Dense or Normalize are known; take",
        ),
        (modules({"type": "evil.Transformer", "path": ""}, POOLING), "the modules evil.Transformer, Pooling"),
        (modules(TRANSFORMER, POOLING, {"type": "sentence_transformers.models.CNN", "path": "2"}), "Transformer, Pooling, CNN"),
        (modules({**TRANSFORMER, "path": "0_Transformer"}, POOLING), "a transformer in 0_Transformer, and another one beside it"),
        (lambda folder: (folder / "1_Pooling/config.json").unlink(), "1_Pooling/config.json, which says how tokens are pooled, is missing"),
        (settings("1_Pooling/config.json", pooling_mode=["mean", "attention"]), "the pooling .*attention.*, of which cls, max"),
        (settings("1_Pooling/config.json", pooling_mode={"a": 1}), "the pooling"),
        (settings("2_Dense/config.json", in_features=10**12), "a Dense of .*1000000000000"),
        (settings("2_Dense/config.json", out_features="7"), "a Dense of"),
        (settings("2_Dense/config.json", out_features=9), "its tensors are not those of a Dense from 192 to 9 numbers"),
        (settings("2_Dense/config.json", activation_function="os.system"), "applies 'os.system', known are ELU, GELU"),
        (settings("2_Dense/config.json", bias=[]), "a Dense with"),
        (settings("2_Dense/config.json", module_input_name="token_embeddings"), "Dense on token_embeddings"),
        (lambda folder: (folder / "2_Dense/model.safetensors").unlink(), "2_Dense/model.safetensors is missing"),
        (lambda folder: (folder / "2_Dense/model.safetensors").write_bytes(b"pickle"), "not a file of plain tensors"),
        (wrong_weights, "its tensors are not those of a Dense"),
        (settings("config_sentence_transformers.json", model_type="SparseEncoder"), "a SparseEncoder of sentence-transformers"),
        (settings("sentence_bert_config.json", max_seq_length=-1), "a max_seq_length of -1"),
        (settings("sentence_bert_config.json", modality_config=[1]), "whose modality_config is"),
        (settings("sentence_bert_config.json", modality_config={"message": {}}), "a transformer that takes message"),
        (settings("sentence_bert_config.json", model_args={"revision": "x"}), "a transformer that is loaded with revision"),
        (settings("sentence_bert_config.json", transformer_task="fill-mask"), "a transformer for another task"),
    ],
)
def test_modules_that_are_refused(saved: dict[str, Path], tmp_path: Path, change: Callable[[Path], None], message: str):
    folder = shutil.copytree(saved["all"], tmp_path / "m")
    change(folder)
    with pytest.raises(UserError, match=message) as error:
        OwnPooling(str(folder), 32)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("said", [{"prompts": [1]}, {"prompts": {"a": 1}}, {"default_prompt_name": "none"}, {"default_prompt_name": [1]}])
def test_prompts_that_are_refused(saved: dict[str, Path], tmp_path: Path, said: dict[str, Any]):
    folder = shutil.copytree(saved["minilm"], tmp_path / "m")
    settings("config_sentence_transformers.json", **said)(folder)
    with pytest.raises(UserError, match="prompt"):
        prompts(str(folder))


def test_lengths(saved: dict[str, Path], tmp_path: Path):
    """As its settings say, at most as many as it has positions for; without a word, as its tokenizer says."""
    folder = shutil.copytree(saved["minilm"], tmp_path / "m")
    for said, longest in ((12, 12), (4000, 40)):
        settings("sentence_bert_config.json", max_seq_length=said)(folder)
        assert sentence_model(str(folder)).max_tokens == said
        assert texts.frozen(folder, "own").padding.max_tokens == longest


def test_a_length_that_is_no_number(saved: dict[str, Path], tmp_path: Path):
    """transformers takes it, and fails at the first sentence."""
    folder = shutil.copytree(saved["minilm"], tmp_path / "m")
    settings("tokenizer_config.json", model_max_length="x")(folder)
    with pytest.raises(UserError, match="model_max_length 'x', which is no number"):
        load_tokenizer(str(folder))
