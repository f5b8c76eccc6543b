"""Small dual encoders of the real classes with random weights: SigLIP 2's NaFlex, and open_clip's."""

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import processors
from torch import nn
from transformers import BertConfig, Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Tokenizer

from tests.builder import WORDS, save_wordpiece, sizes, spread

VISION = {"image_size": 32, "layers": 2, "width": 48, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}
TIMM = {"image_size": 32, "timm_model_name": "resnet10t", "timm_pool": "avg", "timm_proj": "linear"}
TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
SIGLIP_TEXT = {
    **TEXT, "vocab_size": 100, "context_length": 16, "hf_tokenizer_name": "some/tokenizer", "tokenizer_kwargs": {"clean": "canonicalize"},
    "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
}  # fmt: skip
BERT_TEXT = {
    "context_length": 16, "hf_model_name": "tiny-bert", "hf_tokenizer_name": "tiny-bert", "hf_proj_type": "linear",
    "tokenizer_kwargs": {"strip_sep_token": True},
}  # fmt: skip
COCA = {
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2}, "custom_text": True,
}  # fmt: skip


def open_config(**changes: Any) -> dict[str, Any]:
    """A model_cfg of open_clip's: a ViT and CLIP's text transformer, with these entries instead."""
    return {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, **changes}


def save_open_clip(folder: Path, preprocess: dict[str, Any] | None = None, **changes: Any) -> nn.Module:
    """A model of open_clip's in a folder, with a tokenizer of WordPiece beside it where its config names one of transformers."""
    folder.mkdir(parents=True)
    config = open_config(**changes)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    if config["text_cfg"].get("hf_tokenizer_name"):
        save_wordpiece(folder, [*WORDS], "abcdefghijklmnopqrstuvwxyz")
    torch.manual_seed(0)
    model = spread(open_clip.create_model(f"local-dir:{folder}", pretrained_text=False))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return model


def save_bert_config(folder: Path) -> None:
    """The config of a text tower of transformers', for open_clip's HFTextEncoder."""
    BertConfig(vocab_size=100, max_position_embeddings=32, **sizes(32, 2, 2)).save_pretrained(folder)


def save_siglip2(folder: Path, seed: int = 0) -> Path:
    """A SigLIP 2 model of patches in any ratio, with a tokenizer of Gemma's kind that puts an end behind a text."""
    torch.manual_seed(seed)
    letters = [*"abcdefghijklmnopqrstuvwxyz", "▁", *(f"<0x{byte:02X}>" for byte in range(256))]
    ids = {token: number for number, token in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *letters])}
    tokenizer = Siglip2Tokenizer(vocab=ids, merges=[], padding_side="right", model_input_names=["input_ids"])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    text = sizes(32, 2, 2, vocab_size=len(ids), max_position_embeddings=64, projection_size=32)
    vision = sizes(32, 2, 2, patch_size=8, num_patches=16)
    spread(Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=30).save_pretrained(folder)
    return folder
