"""The pairs of a training, made from LXMERT files: captions and pictures, or the towers' cached outputs for them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from xmatching.data import CachedInputs, Inputs, PairBatches, PictureInputs, TokenInputs, TokenStates
from xmatching.settings import ImageFacts, TextFacts
from xvoken.cache.augmented import augmented_features
from xvoken.cache.features import Features, left_out
from xvoken.cache.images import cut_features
from xvoken.cache.texts import text_features, token_features
from xvoken.console import say
from xvoken.encoders.matcher import ImageTowerSpec, TextTowerSpec, build_towers
from xvoken.encoders.snapshot import Snapshot, tokenizer_folder, tower_sources
from xvoken.files.image_sets import CaptionedSet
from xvoken.machine import Compute, resolve_precision, workers_on
from xvoken.pictures.augment import Crops
from xvoken.towers.hashes import weights_hash
from xvoken.towers.tokenizer import load_tokenizer, tokenizer_hash


class Towers:
    """The two towers, their tokenizer, and the facts about them that a snapshot keeps. tokenizer: its name, if not the text tower's;
    max_len: the longest caption in tokens, at most, and by default (None), the tower's longest input.
    dual: the dual encoder that both towers are of, None where they are of two models."""

    def __init__(self, text: TextTowerSpec, image: ImageTowerSpec, max_len: int | None, tokenizer: str | None = None):
        self.text_spec, self.image_spec = text, image
        self.tokenizer = load_tokenizer(tokenizer or text.name)
        self.text, self.image, self.dual = build_towers(text, image)
        self.max_len = min(max_len or self.text.max_tokens, self.text.max_tokens)

    @classmethod
    def from_args(cls, args: Namespace) -> "Towers":
        """The towers that the flags name."""
        text = TextTowerSpec(args.lang, args.lang_layers, args.text_pool, args.lang_prompt)
        return cls(text, ImageTowerSpec(args.visn, args.visn_weights, args.visn_pool), args.max_len)

    @classmethod
    def from_snapshot(cls, snapshot: Snapshot) -> "Towers":
        """The towers of a snapshot, trained ones from its files; its own tokenizer, as a trained text tower's folder holds none."""
        model, (lang, visn_weights) = snapshot.model, tower_sources(snapshot)
        text = TextTowerSpec.of(model, lang)
        image = ImageTowerSpec(model.visn, visn_weights, model.visn_pool)
        return cls(text, image, model.max_len, str(tokenizer_folder(snapshot.folder)))

    def modules(self) -> dict[str, nn.Module]:
        """The towers by their names in the matcher."""
        return {"text_tower": self.text, "image_tower": self.image}

    def text_facts(self) -> TextFacts:
        return TextFacts(weights_hash(self.text), self.text.width, tokenizer_hash(self.tokenizer), self.text.max_tokens)

    def image_facts(self) -> ImageFacts:
        return ImageFacts(weights_hash(self.image), self.image.width)


def load_pairs(args: Namespace, towers: Towers, level: str, sets: list[CaptionedSet], augment: bool) -> PairBatches:
    """The pairs of some sets, with cached inputs for frozen towers; captions of unusable pictures are left out.

    level: "sentence" or "token", which output of the text tower is used; augment: whether epochs draw from the --views augmented views.
    """
    texts: list[Any] = []
    images: list[tuple[list[Features], Any]] = []
    text_rows, image_rows, sentences, pictures = [], [], [], 0
    for part in sets:
        distinct = list(dict.fromkeys(sentence for _, sentence in part.captions))
        row_of = {sentence: len(sentences) + i for i, sentence in enumerate(distinct)}
        text_rows += [row_of[sentence] for _, sentence in part.captions]
        image_rows += [pictures + picture for picture, _ in part.captions]
        sentences += distinct
        pictures += len(part.ids)
        if not args.visn_finetune:
            images.append(_image_rows(args, towers, part, args.views if augment else 0))
        if not args.lang_finetune:
            texts.append(_text_rows(args, towers, level, part, distinct))
    cached = TokenStates if level == "token" else CachedInputs
    text: Inputs = cached(texts) if texts else TokenInputs(towers.tokenizer, sentences, towers.max_len, towers.text.prompt)
    owner = np.array(image_rows, np.int64)
    rows = np.array(text_rows, np.int64)
    if not images:
        pictures_in = PictureInputs([path for part in sets for path in part.paths], towers.image.view)
        return PairBatches(text, pictures_in, rows, owner)
    drawn = [augmented for _, augmented in images if augmented is not None]
    views = [CachedInputs(list(caches)) for caches in zip(*(features for features, _ in images), strict=True)]
    if drawn:
        views[0] = CachedInputs([features[0] for features, _ in images], drawn)
    usable = np.logical_and.reduce([view.usable for view in views])
    for view in views:
        view.usable = usable
    keep = usable[owner]
    return PairBatches(text, views[0], rows[keep], owner[keep], list(views[1:]))


def _image_rows(args: Namespace, towers: Towers, part: CaptionedSet, augmented: int) -> tuple[list[Features], Any]:
    """The --key-views views of a set's pictures, and augmented ones (None without); says how many pictures can't be used."""
    compute, rows = compute_of(args), None
    if augmented:
        crops = Crops(augmented, args.crop_scale, args.seed)
        rows = augmented_features(towers.image_spec, towers.image, part.ids, part.paths, crops, compute, part.name).rows
    features = cut_features(towers.image_spec, towers.image, part.ids, part.paths, compute, part.name, args.key_views)
    assert features is not None, "a training's pictures are not done in shares"
    if skipped := left_out(features):
        listed = ", ".join(str(view.path.with_suffix(".json")) for view in features if view.skipped)
        say(f"{part.name}: {len(skipped)} of {len(part.ids)} pictures can't be used, listed in {listed}")
    return features, rows


def _text_rows(args: Namespace, towers: Towers, level: str, part: CaptionedSet, sentences: list[str]) -> Any:
    made = token_features if level == "token" else text_features
    return made(towers.text_spec, towers.text, towers.tokenizer, sentences, towers.max_len, compute_of(args), part.name)


def compute_of(args: Namespace) -> Compute:
    """How frozen towers compute: on all GPUs, even if the training itself uses fewer."""
    devices = tuple(workers_on("auto", args.num_workers))
    return Compute(devices, resolve_precision(args.precision, devices[0]), cache=Path(args.cache), tower_engine=args.tower_engine)
