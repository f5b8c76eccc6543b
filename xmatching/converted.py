"""Vokenization's or Maria's BEST.pth as a snapshot, and a snapshot as such a file: xmatching/convert.py does it."""

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models
from torchvision.models import ResNet

from xmatching.conversion import RECIPE, Conversion
from xmatching.published import (
    IMAGE_TOWER,
    PROJECTS,
    TEXT_TOWER,
    Heads,
    Project,
    beyond,
    described,
    our_heads,
    put_into,
    read_state_dict,
    their_heads,
    tower_of,
)
from xmatching.report import write_converted_card
from xmatching.resume import save_image_tower, save_text_tower
from xvoken.console import say
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.matcher import build_heads
from xvoken.encoders.snapshot import ModelConfig
from xvoken.errors import UserError, one_line
from xvoken.files.safe import quoted, replacing
from xvoken.kinds import full_name
from xvoken.towers.hashes import weights_hash
from xvoken.towers.image import ImageTower
from xvoken.towers.text import TextTower
from xvoken.towers.tokenizer import load_tokenizer, tokenizer_hash

# Words, width, layers and positions of the text towers that their LANG_MODELS name and that are taken over.
TEXT_TOWERS = {
    (30522, 768, 12, 512): "bert", (30522, 1024, 24, 512): "bert-large", (50265, 768, 12, 514): "roberta",
    (250002, 768, 12, 514): "xlm-roberta",
}  # fmt: skip
# Where a tower is from.
PUBLISHED, OWN, UNKNOWN = "as published", "the file's own", "published, as the file holds none"
SCRIPT_LAYERS = [4, 3, 2, 1]  # --lang-layers of both projects' scripts/run_xmatching.bash


def to_snapshot(conversion: Conversion, command: list[str]) -> None:
    """Write the snapshot, unless another run has meanwhile; raises UserError for what the file does not say and nobody has."""
    load = str(conversion.source)
    state = read_state_dict(conversion.source)
    heads = described(state, load)
    given = conversion.given
    text, text_from = _text_tower(state, heads, given, load)
    image, image_from = _image_tower(state, heads, given, load)
    tokenizer = load_tokenizer(text.name)
    settings: dict[str, Any] = {
        "source": conversion.digest, "lang": text.name, "lang_layers": list(text.layers), "visn": image.name,
        "visn_weights": given.get("visn_weights"), "level": given.get("level", heads.project.level),
        "max_len": given.get("max_len", heads.project.max_len),
    }  # fmt: skip
    model = ModelConfig(
        **{name: value for name, value in settings.items() if name != "source"},
        lang_hash=weights_hash(text), text_width=text.width, tokenizer=tokenizer_hash(tokenizer), visn_hash=weights_hash(image),
        image_width=image.width, dim=heads.dim, hidden=heads.hidden, hidden_layers=heads.hidden_layers, dropout=heads.project.dropout,
    )  # fmt: skip
    model = replace(model, max_len=min(model.max_len, text.max_tokens))
    module = nn.ModuleDict(build_heads(model))
    _fill(module, our_heads(state), load)
    output = conversion.output
    places = {snapshots.text_tower_folder(output, "BEST"): text_from, snapshots.image_tower_file(output, "BEST"): image_from}
    towers = tuple(place for place, taken in places.items() if taken == OWN)
    with conversion.product(settings, towers).alone(wait=True) as todo:
        if not todo:
            return
        if left := [place for place in places if place not in towers and place.exists()]:
            raise UserError(f"{left[0]} is a tower of another matcher; choose another folder, or: rm -r {quoted(left[0])}")
        if text_from == OWN:
            save_text_tower(output, "BEST", text)
        if image_from == OWN:
            save_image_tower(output, "BEST", image)
        snapshots.write_tokenizer(output, tokenizer)
        write_converted_card(output / "README.md", output.name, model, heads.project.name)
        training = {"recipe": RECIPE, "settings": settings, "towers": [place.name for place in towers]}
        snapshots.write(output, "BEST", {"model": asdict(model), "training": training}, module.state_dict(), command)
    print(f"wrote the matcher to {output} (BEST.safetensors): {_told(model, heads, given, text_from, image_from)}")


def _told(model: ModelConfig, heads: Heads, given: dict[str, Any], text_from: str, image_from: str) -> str:
    """What it was taken for, and by which reason."""
    scripts = f"as {heads.project.name}'s scripts say"
    seen = {"level": "as its names say", "max_len": scripts, "lang_layers": scripts}
    level, length, layers = ("as asked" if name in given else reason for name, reason in seen.items())
    return (
        f"{heads.project.name}'s heads, {model.dim} dimensions, {model.level} level ({level}), captions of at most {model.max_len} "
        f"tokens ({length}); {model.lang}, {text_from}, layers {','.join(map(str, model.lang_layers))} ({layers}); "
        f"{model.visn}, {image_from}"
    )


def _text_tower(state: dict[str, Tensor], heads: Heads, given: dict[str, Any], load: str) -> tuple[TextTower, str]:
    """The text tower, and where it is from: OWN for the file's, which is another than the one of that name."""
    theirs = tower_of(state, TEXT_TOWER)
    name = given.get("lang") or _seen_text(theirs, load)
    width = len(theirs.get("embeddings.LayerNorm.weight", [])) or TextTower(name, (1,)).width
    layers = given.get("lang_layers") or _seen_layers(heads.text_width, width, load)
    tower = TextTower(name, tuple(layers)).eval().requires_grad_(False)
    if tower.width != heads.text_width:
        raise UserError(
            f"{load}: its text head takes {heads.text_width} numbers, --lang {name} --lang-layers {','.join(map(str, layers))} gives "
            f"{tower.width}; name the tower and the layers that it was trained with"
        )
    if not theirs or _same(tower.model, theirs):
        return tower, PUBLISHED if theirs else UNKNOWN
    put_into(tower.model, theirs, f"{load}: its text tower, lang_model.backbone,")
    return tower, OWN


def _seen_text(theirs: dict[str, Tensor], load: str) -> str:
    words, positions = (theirs.get(f"embeddings.{name}_embeddings.weight") for name in ("word", "position"))
    if words is None or positions is None:
        raise UserError(f"{load}: it holds no text tower of a known kind; say which its heads were trained on: --lang bert, for example")
    depth = len({name.split(".")[2] for name in theirs if name.startswith("encoder.layer.")})
    sizes = (words.shape[0], words.shape[1], depth, len(positions))
    if sizes not in TEXT_TOWERS:
        raise UserError(
            f"{load}: its text tower ({sizes[0]} words, {sizes[2]} layers of {sizes[1]} numbers) is none of those that Vokenization names; "
            "say which it was trained from: --lang, a hub id or a folder"
        )
    return TEXT_TOWERS[sizes]


def _seen_layers(inputs: int, width: int, load: str) -> list[int]:
    if inputs == len(SCRIPT_LAYERS) * width:
        return SCRIPT_LAYERS
    raise UserError(
        f"{load}: its text head takes {inputs} numbers, the text tower's layers have {width} each; say which layers these are, counted "
        "from the last: --lang-layers 1, for example (Vokenization's own default, -1, is its first layer: 12 for bert)"
    )


def _image_tower(state: dict[str, Tensor], heads: Heads, given: dict[str, Any], load: str) -> tuple[ImageTower, str]:
    """As _text_tower. Where the published weights can't be had, the file's own are kept: they are what the heads were trained on."""
    theirs = tower_of(state, IMAGE_TOWER)
    name = given.get("visn") or _seen_image(theirs, load)
    what = f"{load}: its image tower, visn_model.backbone,"
    try:
        tower = ImageTower(name, given.get("visn_weights"))
    except UserError as error:
        if not theirs or given.get("visn_weights") or "can't be downloaded" not in str(error):
            raise
        say(f"{one_line(error).partition(';')[0]}: the file's own are written beside the heads")
        return _built_of(name, theirs, what), OWN
    tower = tower.eval().requires_grad_(False)
    if tower.width != heads.image_width:
        raise UserError(f"{load}: its image head takes {heads.image_width} numbers, --visn {name} gives {tower.width}; name its own")
    if not theirs or _same(tower.model, theirs):
        return tower, PUBLISHED if theirs else UNKNOWN
    put_into(tower.model, theirs, what)
    return tower, OWN


def _seen_image(theirs: dict[str, Tensor], load: str) -> str:
    """The ResNet of torchvision whose tensors have these shapes; their class takes no other classifiers."""
    shapes = {name: tensor.shape for name, tensor in theirs.items() if not name.endswith("num_batches_tracked")}
    for name in models.list_models(module=models):
        if shapes and ("resne" in name):
            with torch.device("meta"):
                known = models.get_model(name, weights=None).state_dict()
            if shapes == {
                key: one.shape for key, one in known.items() if not key.startswith("fc.") and not key.endswith("num_batches_tracked")
            }:
                return name
    raise UserError(f"{load}: it holds no image tower of a known kind; say which its heads were trained on: --visn resnext101_32x8d, say")


def _built_of(name: str, theirs: dict[str, Tensor], what: str) -> ImageTower:
    with torch.device("meta"):
        model = models.get_model(name, weights=None).state_dict()
    counts = {key: torch.zeros((), dtype=torch.long) for key in model if key.endswith("num_batches_tracked")}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "tower.safetensors"
        save_file({**counts, **{key: tensor.float().contiguous() for key, tensor in theirs.items()}}, file)
        return ImageTower(name, str(file)).eval().requires_grad_(False)


def _same(model: nn.Module, theirs: dict[str, Tensor]) -> bool:
    """Whether a tower of theirs is this one, to the bit or rounded to 16 bits (apex); poolers are not looked at, as no head takes them."""
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("pooler.") and tensor.is_floating_point()}
    return not beyond(model, theirs) and all(
        name in theirs
        and tensor.shape == theirs[name].shape
        and any(torch.equal(theirs[name].float(), one) for one in (tensor, tensor.half().float()))
        for name, tensor in own.items()
    )


def to_state_dict(source: Path, path: Path, position_ids: bool) -> None:
    """Write the matcher of a snapshot as a file that Vokenization's or Maria's load_state_dict takes.

    position_ids: whether the text tower's are written. Raises UserError for a matcher that their classes can't be, and for a file that
    holds something else.
    """
    snapshot = snapshots.read(source)
    model = snapshot.model
    project = _project_of(model, source)
    lang, visn_weights = snapshots.tower_sources(snapshot)
    text = TextTower(lang, tuple(model.lang_layers)).eval()
    image = ImageTower(model.visn, visn_weights).eval()
    for tower, flag in ((text, "lang"), (image, "visn")):
        if weights_hash(tower) != getattr(model, f"{flag}_hash"):
            raise UserError(f"{source}: --{flag} {getattr(model, flag)} has other weights here than those that its heads were trained on")
    towers = {TEXT_TOWER: _their_text(text, position_ids, source), IMAGE_TOWER: _their_image(image, source)}
    state = their_heads(snapshot.tensors, project)
    state |= {prefix + name: tensor for prefix, tower in towers.items() for name, tensor in tower.items()}
    if path.exists():
        _require_equal(path, state)
        say(f"skipped: {path} holds this matcher already")
        return
    with replacing(path) as temporary:  # as torch 1.4 reads it, which both projects were run with
        torch.save({name: tensor.contiguous() for name, tensor in state.items()}, temporary, _use_new_zipfile_serialization=False)
    print(
        f"wrote {path}: {len(state)} tensors by {project.name}'s names; there: --lang {_short(model.lang)} --visn {model.visn} "
        f"--lang-layers {','.join(map(str, model.lang_layers))} --dim {model.dim}{_unlike(model)}"
    )


def _project_of(model: ModelConfig, source: Path) -> Project:
    """The project whose classes have these heads; raises UserError if none has."""
    for project in PROJECTS:
        sizes = (project.level, project.hidden, project.hidden_layers)
        plain = not model.parts and (model.head, model.text_pool, model.visn_pool, model.lang_prompt) == ("mlp", "cls", "avg", "")
        if plain and (model.level, model.hidden, model.hidden_layers) == sizes:
            return project
    classes = "; ".join(f"{one.name}'s: --level {one.level} --hidden {one.hidden} --hidden-layers {one.hidden_layers}" for one in PROJECTS)
    raise UserError(
        f"{source}: its heads are none that Vokenization's or Maria's classes have; such a matcher is trained with --head mlp --text-pool "
        f"cls --visn-pool avg, without --lang-prompt, and {classes}"
    )


def _their_text(tower: TextTower, position_ids: bool, source: Path) -> dict[str, Tensor]:
    state = tower.model.state_dict()
    if tower.model.config.model_type not in ("bert", "roberta", "xlm-roberta"):
        raise UserError(f"{source}: Vokenization's and Maria's text model takes no {tower.model.config.model_type}; train with --lang bert")
    ids = torch.arange(tower.model.config.max_position_embeddings)[None]
    return {**({"embeddings.position_ids": ids} if position_ids else {}), **state}


def _their_image(tower: ImageTower, source: Path) -> dict[str, Tensor]:
    if not isinstance(tower.model, ResNet):
        raise UserError(f"{source}: Vokenization's and Maria's image model takes torchvision's ResNets only, not {tower.name}")
    return {name: tensor for name, tensor in tower.model.state_dict().items() if not name.endswith("num_batches_tracked")}


def _require_equal(path: Path, state: dict[str, Tensor]) -> None:
    then = read_state_dict(path)
    if then.keys() != state.keys() or not all(torch.equal(tensor, then[name]) for name, tensor in state.items()):
        raise UserError(f"{path} holds other weights; choose another name, or: rm {quoted(path)}")


def _short(lang: str) -> str:
    """The name in their LANG_MODELS."""
    return {full_name(name): name for name in TEXT_TOWERS.values()}.get(lang, lang)


def _unlike(model: ModelConfig) -> str:
    """What of the matcher their classes do not have."""
    lost = [f"--key-views {model.key_views}"] if model.key_views != 1 else []
    lost += [f"--hubness {model.hubness:g}"] if model.hubness else []
    named = "" if _short(model.lang) in TEXT_TOWERS.values() else f"; their LANG_MODELS needs an entry for {model.lang}"
    return named + (f"; not written: {', '.join(lost)}, which they do not have" if lost else "")


def _fill(module: nn.Module, state: dict[str, Tensor], load: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{load}: its heads are not two mlps of one size ({one_line(error)[:160]})") from None
