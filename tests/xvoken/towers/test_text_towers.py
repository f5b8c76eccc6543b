"""Text towers of many kinds against transformers' own embedding of one sentence at a time: its tokenizer, its model, nothing padded."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tests import texts
from tests.texts import SENTENCES
from xvoken.encoders.compiled import NotConvertible, compile_tower
from xvoken.encoders.frozen import all_batches
from xvoken.errors import UserError
from xvoken.machine import Pace
from xvoken.towers.prompts import behind_prompt
from xvoken.towers.reading import reads
from xvoken.towers.text import TextTower
from xvoken.towers.tokenizer import load_tokenizer, tokenize

KINDS: dict[str, Callable[[Path], torch.nn.Module]] = {
    "gpt2": texts.save_gpt2, "qwen3": texts.save_qwen3, "t5": texts.save_t5, "xlnet": texts.save_xlnet,
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, torch.nn.Module]]:
    folder = tmp_path_factory.mktemp("texts")
    return {kind: (folder / kind, save(folder / kind)) for kind, save in KINDS.items()}


def encoded(folder: Path, pool: str, prompt: str = "", layers: tuple[int, ...] = (1,)) -> np.ndarray:
    """Our vectors of SENTENCES, in batches of several lengths."""
    text = texts.frozen(folder, pool, prompt, layers)
    tokens, offsets = text.tokenize(SENTENCES)
    vectors = np.empty((len(SENTENCES), text.width), np.float32)
    for rows, found in text.features(tokens, offsets, all_batches(np.diff(offsets), 4)):
        vectors[rows] = found
    return vectors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("pool", "prompt"), [("last", ""), ("mean", ""), ("last", "query: "), ("mean", "Query:")])
def test_against_transformers(saved: dict[str, tuple[Path, torch.nn.Module]], kind: str, pool: str, prompt: str):
    """Lines of many lengths, a cut one, an empty one; the word behind a prompt has the tokens that it has in one text with it."""
    folder, model = saved[kind]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    longest = texts.frozen(folder, pool, prompt).padding.max_tokens
    assert longest == (512 if kind == "xlnet" else 40)  # nobody says how many tokens XLNet takes
    for sentence, found in zip(SENTENCES, encoded(folder, pool, prompt), strict=True):
        nothing = kind == "gpt2" and not prompt + sentence  # of which its tokenizer makes no token at all
        text = tokenizer.eos_token if nothing else prompt + sentence
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=longest)
        with torch.inference_mode():
            states = model(**batch).last_hidden_state[0]
        assert np.allclose(found, states[-1] if pool == "last" else states.mean(0), atol=1e-5), sentence


def test_layers_of_a_decoder(saved: dict[str, tuple[Path, torch.nn.Module]]):
    """The last layer is behind the last norm, as the model's own output."""
    folder, model = saved["gpt2"]
    ids = AutoTokenizer.from_pretrained(folder)(SENTENCES[1], return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found = model(ids, output_hidden_states=True)
    expected = torch.cat([found.hidden_states[1][0, -1], found.last_hidden_state[0, -1]])
    assert np.allclose(encoded(folder, "last", layers=(2, 1))[1], expected, atol=1e-5)


def test_what_a_prompt_makes_of_lines(saved: dict[str, tuple[Path, torch.nn.Module]]):
    """Token by token as one text with the prompt; a piece of a line keeps its blank alone; ids that are no text's stay as they are."""
    tokenizer = load_tokenizer(str(saved["gpt2"][0]))
    lines = ["two dogs", "it's 12", " two dogs", ""]
    tokens, offsets = tokenize(tokenizer, lines)
    found, ends = behind_prompt(tokenizer, "Query: ", tokens, offsets)
    got = [found[start:stop].tolist() for start, stop in zip(ends[:-1], ends[1:], strict=True)]
    assert got == tokenizer(["Query: two dogs", "Query: it's 12", "Query: two dogs", "Query: "])["input_ids"]
    apart = tokenizer("t")["input_ids"] + tokenizer("wo")["input_ids"]
    assert apart != tokenizer("two")["input_ids"]
    whole, _ = behind_prompt(tokenizer, "Query: ", np.array(apart, np.int32), np.array([0, len(apart)]))
    assert whole.tolist() == tokenizer("Query: ")["input_ids"] + apart
    assert behind_prompt(tokenizer, "", tokens, offsets) is None


@pytest.mark.parametrize(
    ("kind", "config", "longest"),
    [
        ("mpnet", {"pad_token_id": 1}, 38), ("roberta", {"pad_token_id": 1}, 38), ("albert", {"embedding_size": 16}, 40),
        ("electra", {"embedding_size": 16}, 40), ("modernbert", {"cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 0}, 40),
        ("nomic_bert", {}, 40), ("deberta-v2", {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}, 40),
    ],
)  # fmt: skip
def test_longest_inputs_of_other_encoders(tmp_path: Path, kind: str, config: dict[str, object], longest: int):
    """Of a text that is cut to the longest input, the first token is as transformers has it of the ids themselves."""
    texts.save_bert(tmp_path, kind, **config)
    text = texts.frozen(tmp_path, "cls")
    assert text.padding.max_tokens == longest
    found = encoded(tmp_path, "cls")[0]
    ids = load_tokenizer(str(tmp_path))(SENTENCES[0], truncation=True, max_length=longest)["input_ids"]
    with torch.inference_mode():
        assert np.allclose(found, text.tower.model(torch.tensor([ids])).last_hidden_state[0, 0], atol=1e-5)


def test_how_models_read():
    kinds = ("gpt2", "qwen3", "llama", "xlnet", "t5", "umt5", "bert", "electra", "xlm-roberta", "mpnet", "modernbert", ["hostile"])
    assert [reads(kind) for kind in kinds] == ["forward"] * 4 + ["encoder"] * 2 + ["both"] * 6


def test_models_that_can_not_be_towers(tmp_path: Path):
    texts.save_model(
        tmp_path, "bart", vocab_size=9, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1, decoder_attention_heads=1
    )
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"an adapter for another model"):
        TextTower(str(tmp_path / "adapter"), (1,))
    with pytest.raises(UserError, match=r"an encoder-decoder \(bart\) whose encoder transformers can't load by itself; take another"):
        TextTower(str(tmp_path), (1,))


@pytest.mark.parametrize("kind", KINDS)
def test_compiled(saved: dict[str, tuple[Path, torch.nn.Module]], kind: str):
    """What OpenVINO takes it computes as torch does, for sentences of any length."""
    pytest.importorskip("openvino")
    text = texts.frozen(saved[kind][0], "last", "query: ")
    try:
        made = compile_tower(text.tower, "forward", text.example(2), text.free, text.probe(), Pace(), "fp32")
    except NotConvertible as error:
        pytest.fail(str(error))
    tokens, offsets = text.tokenize(SENTENCES)
    del text.run.tower
    text.run.compiled["forward"], text.run.compiles = made, True
    for rows, found in text.features(tokens, offsets, all_batches(np.diff(offsets), 3)):
        assert np.allclose(found, encoded(saved[kind][0], "last", "query: ")[rows], atol=1e-4)


def test_a_model_without_a_limit(tmp_path: Path):
    texts.save_model(tmp_path, "bloom", vocab_size=9, hidden_size=8, n_layer=1, n_head=2)
    assert TextTower(str(tmp_path), (1,)).max_tokens == 512
