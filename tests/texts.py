"""Small text models of the real classes with tokenizers of their kinds, and models of sentence-transformers, for tests."""

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast, T5EncoderModel

from tests import builder
from xvoken.encoders.frozen import FrozenText
from xvoken.towers.text import TextTower
from xvoken.towers.tokenizer import load_tokenizer

LINES = (
    "two dogs run on the beach", "a man's red bicycle, 12 years old", "snow", "the cat (asleep) isn't here: it is there!", "Café naïve",
)  # fmt: skip
# The first is longer than 40 tokens by every tokenizer here, and the last but one empty.
SENTENCES = [" ".join(LINES) + " " + " ".join(reversed(LINES)), *LINES, "", "a dog"]


def save_bytes(folder: Path, end: str = "<|endoftext|>", behind: bool = False, **more: Any) -> int:
    """A byte-level BPE tokenizer as GPT-2's and Qwen's, without a token for padding; behind: whether the end is put behind a text."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, show_progress=False, initial_alphabet=alphabet, special_tokens=[end])
    backend.train_from_iterator([*LINES, "query: ", "Query:"] * 3, trainer)
    if behind:
        backend.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, backend.token_to_id(end))])
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, **more).save_pretrained(folder)
    return backend.get_vocab_size()


def save_unigram(folder: Path, single: str, special: list[str], types: dict[str, int] | None = None, **more: Any) -> int:
    """A sentencepiece-like tokenizer as T5's and XLNet's; single: what stands where, as TemplateProcessing has it."""
    backend = Tokenizer(models.Unigram())
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=120, show_progress=False, special_tokens=special, unk_token="<unk>")
    backend.train_from_iterator([*LINES, "query: ", "Query:"] * 3, trainer)
    ids = [(token, backend.token_to_id(token)) for token in special]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", **more}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return backend.get_vocab_size()


def save_model(folder: Path, kind: str, **config: Any) -> nn.Module:
    """A model of this model_type, with larger weights than a training starts with."""
    torch.manual_seed(0)
    made = AutoConfig.for_model(kind, **config)
    model = builder.spread((T5EncoderModel._from_config if kind == "t5" else AutoModel.from_config)(made))
    model.save_pretrained(folder)
    return model


def save_gpt2(folder: Path) -> nn.Module:
    """A GPT-2 of two layers."""
    words = save_bytes(folder)
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return save_model(folder, "gpt2", vocab_size=words, n_embd=32, n_layer=2, n_head=2, n_positions=40, **ends)


def save_qwen3(folder: Path) -> nn.Module:
    """A Qwen3 as its embedding models: an end behind every text, padding at the left."""
    words = save_bytes(folder, behind=True, pad_token="<|endoftext|>", padding_side="left", model_max_length=4096)
    sizes = builder.sizes(32, 2, 4, num_key_value_heads=2, head_dim=8, max_position_embeddings=40)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    return save_model(folder, "qwen3", vocab_size=words, **sizes, **ends)


def save_t5(folder: Path) -> nn.Module:
    """A T5's encoder, whose positions are relative: its tokenizer says how long an input may be."""
    words = save_unigram(folder, "$A </s>", ["<pad>", "</s>", "<unk>"], eos_token="</s>", model_max_length=40)
    return save_model(folder, "t5", vocab_size=words, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0)


def save_xlnet(folder: Path) -> nn.Module:
    """An XLNet, whose <sep> and <cls>, which is of a kind of its own, stand behind a text."""
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>"]
    more = {"cls_token": "<cls>", "sep_token": "<sep>", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    words = save_unigram(folder, "$A:0 <sep>:0 <cls>:2", special, **more)
    return save_model(folder, "xlnet", vocab_size=words, d_model=32, n_layer=2, n_head=4, d_inner=64)


def save_bert(folder: Path, kind: str = "bert", longest: int = 40, **config: Any) -> None:
    """A BERT, or a model like it, with a WordPiece tokenizer; longest: as the tokenizer has it."""
    builder.save_wordpiece(folder, [*builder.WORDS, "query", "two", "dogs", "run"], "abcdefghijklmnopqrstuvwxyz0123456789:,.!()'")
    words = len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, "model_max_length": longest}))
    save_model(folder, kind, vocab_size=words, **builder.sizes(32, 2, 4, max_position_embeddings=40), **config)


def frozen(folder: Path, pool: str, prompt: str = "", layers: tuple[int, ...] = (1,)) -> FrozenText:
    """Our tower of a folder, at work on the CPU."""
    tower = TextTower(str(folder), layers, pool, prompt).eval().requires_grad_(False)
    return FrozenText(tower, load_tokenizer(str(folder)))
