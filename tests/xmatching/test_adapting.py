"""--recipe adapt: a dual encoder's own score is kept to the last bits, joined with what is learnt where that finds more, and not else."""

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

from tests import builder
from tests.running import run_here, run_script
from tests.xmatching.test_choice import pictures_of, recall_by_hand, unit, vectors_of
from tests.xmatching.test_finished import imported
from xmatching.choice import Chooser, Sides, recall_sum
from xmatching.folds import folds_of
from xmatching.param import parse_args
from xmatching.shares import ERRORS, by_picture, choose_shares, correction_of
from xvoken.encoders import snapshot as snapshots
from xvoken.encoders.dual import own_heads
from xvoken.encoders.encoder import Encoder, load_encoder
from xvoken.encoders.frozen import FrozenText
from xvoken.errors import UserError
from xvoken.records import rsum
from xvoken.towers import clip
from xvoken.towers.dual import dual_of

MAIN = "xmatching/main.py"
GREYS = {"black": 30, "grey": 120, "white": 220}
SENTENCES = ["a red circle on white", "", "two dogs", "a blue square " * 12]  # the last is longer than either tower takes


@dataclass
class World:
    """folder of everything; clip, siglip: small random dual encoders; flags: where the data and the cache are."""

    folder: Path
    clip: Path
    siglip: Path

    @property
    def roots(self) -> list[object]:
        return ["--lxmert-root", self.folder / "lxmert", "--image-root", self.folder / "images"]

    @property
    def shared(self) -> list[object]:
        return ["--cache", self.folder / "cache", "--num-workers", 1, "--precision", "fp32"]

    def flags(self, dual: Path, output: Path, train: str = "own_train", *more: object) -> list[object]:
        sets = ["--train-imgs", train, "--valid-imgs", "own_valid"]
        return [*self.roots, *sets, *self.shared, "--recipe", "adapt", "--dual", dual, "--output", output, *more]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Drawn pictures, each of its own colour, shape and ground, that their captions name; in own_shuffled those of other pictures."""
    folder = tmp_path_factory.mktemp("adapting")
    (folder / "images").mkdir()
    (folder / "lxmert").mkdir()
    rows = []
    for number, (colour, shape, ground) in enumerate((c, s, g) for c in builder.COLOURS for s in ("circle", "square") for g in GREYS):
        (folder / "images" / f"{number}.png").write_bytes(builder.png(colour, shape, 48, 48, ground=GREYS[ground]))
        captions = [f"a {colour} {shape} on {ground}", f"{ground} behind a {colour} {shape}"]
        rows.append({"img_id": str(number), "sentf": {"mscoco": captions}})
    random.Random(0).shuffle(rows)
    train, valid = rows[:54], rows[54:]
    sentences = [row["sentf"] for row in train]
    random.Random(1).shuffle(sentences)
    shuffled = [{**row, "sentf": sentf} for row, sentf in zip(train, sentences, strict=True)]
    for name, some in (("own_train", train), ("own_valid", valid), ("own_shuffled", shuffled)):
        (folder / "lxmert" / f"{name}.json").write_text(json.dumps(some))
    return World(folder, builder.save_clip(folder / "clip"), builder.save_siglip(folder / "siglip"))


def adapted(small: World, output: Path, dual: Path, train: str = "own_train", *more: object) -> Path:
    done = run_here(MAIN, *small.flags(dual, output, train, *more))
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def learnt(small: World) -> Path:
    """CLIP, adapted to captions that fit their pictures; its keys had been extracted before."""
    ids = ["--ids-root", small.folder / "ids", "--image-sets", "own_train", *small.roots]
    assert run_here("vokenization/create_image_ids.py", *ids).returncode == 0
    done = run_here("vokenization/extract_vision_keys.py", "--load", small.clip, "--output", small.folder / "keys", *ids, *small.shared)
    assert done.returncode == 0, done.stderr
    return adapted(small, small.folder / "learnt", small.clip)


def choice_of(output: Path) -> dict:
    return json.loads((output / "BEST.json").read_text())["choice"]


def best(output: Path) -> float:
    return max(rsum(json.loads(line)) for line in snapshots.metrics_file(output).read_text().splitlines())


def vectors(encoder: Encoder, small: World) -> tuple[np.ndarray, np.ndarray]:
    return encoder.encode_texts(SENTENCES), encoder.encode_images(sorted((small.folder / "images").glob("1*.png")))


def assert_own(output: Path, dual: Path, small: World) -> None:
    """The snapshot's vectors are those of the dual encoder itself."""
    for found, expected in zip(vectors(load_encoder(output), small), vectors(load_encoder(dual), small), strict=True):
        assert found.shape == expected.shape and np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize("dual", ["clip", "siglip"])
def test_with_all_weight_on_it_the_vectors_are_its_own(small: World, tmp_path: Path, dual: str):
    model = getattr(small, dual)
    output = adapted(small, tmp_path / "m", model, "own_train", "--part-weights", "1,0", "--hubness", 0)
    assert_own(output, model, small)
    said = snapshots.read(output).model
    assert said.lang == said.visn == str(model) and said.lang_layers == [] and said.max_len == {"clip": 40, "siglip": 12}[dual]
    card = (output / "README.md").read_text()
    assert f"{model}, a dual encoder" in card and "100% of a score is its own" in card


def test_the_share_of_transformers_own_score_is_its_weight(small: World, tmp_path: Path):
    """A score is the weighted mean of that of transformers' model and of cca's."""
    output = adapted(small, tmp_path / "m", small.clip, "own_train", "--part-weights", "1,3")
    encoder, model = load_encoder(output), CLIPModel.from_pretrained(small.clip).eval()
    dim = model.config.projection_dim
    text, image = vectors(encoder, small)
    paths = sorted((small.folder / "images").glob("1*.png"))
    batch = AutoTokenizer.from_pretrained(small.clip)(SENTENCES, return_tensors="pt", padding=True, truncation=True, max_length=40)
    pictures = [builder.Image.open(path).convert("RGB") for path in paths]
    pixels = CLIPImageProcessor.from_pretrained(small.clip)(pictures, return_tensors="pt")
    with torch.inference_mode():
        expected = [model.get_text_features(**batch), model.get_image_features(**pixels)]
    expected = [functional.normalize(getattr(one, "pooler_output", one), dim=-1).numpy() for one in expected]
    assert encoder.dim == dim + 512 and "25% of a score is its own" in (output / "README.md").read_text()
    for found, whole in zip((text, image), expected, strict=True):
        assert np.abs(found[:, :dim] / 0.25**0.5 - whole).max() < 1e-5


def test_where_there_is_something_to_learn_recall_rises(small: World, learnt: Path, tmp_path: Path):
    alone = adapted(small, tmp_path / "alone", small.clip, "own_train", "--head", "own", "--hubness", 0)
    assert choice_of(alone)["weights"] == {"own": 1}
    assert_own(alone, small.clip, small)
    gain = choice_of(learnt)["scores"]["gain over its own score"]
    assert gain["recall"] > ERRORS * gain["standard error"] > 0 and best(learnt) > 1.3 * best(alone)
    trained = adapted(
        small, tmp_path / "linear", small.clip, "own_train", "--head", "own,linear", "--epochs", 30, "--dim", 32, "--part-weights", "1,1"
    )  # eleven pictures held out are too few to choose by
    assert best(trained) > 1.1 * best(alone)


def test_where_there_is_nothing_to_learn_it_stays_as_it_is(small: World, tmp_path: Path):
    output = adapted(small, tmp_path / "m", small.clip, "own_shuffled")
    choice = choice_of(output)
    gains = [scores for name, scores in choice["scores"].items() if name.startswith("gain")]
    assert choice["weights"] == {"own": 1, "cca": 0} and choice["hubness"] == 0
    assert gains and all(gain["recall"] <= ERRORS * gain["standard error"] for gain in gains)
    assert_own(output, small.clip, small)


def test_the_towers_outputs_are_computed_once(small: World, learnt: Path):
    """Keys of the dual encoder, training, and keys of the adapted matcher share one cache of pictures."""
    cache = {path: path.stat().st_mtime_ns for path in (small.folder / "cache").glob("own_train-clip-*.npy")}
    ids = ["--ids-root", small.folder / "ids", "--image-sets", "own_train", *small.roots]
    done = run_here("vokenization/extract_vision_keys.py", "--load", learnt, *ids, *small.shared)
    assert done.returncode == 0 and "wrote 54 keys" in done.stdout, done.stderr
    after = {path: path.stat().st_mtime_ns for path in (small.folder / "cache").glob("own_train-clip-*.npy")}
    assert after == cache and len(cache) == 2  # of pictures and of captions


def test_the_later_stages_take_it(small: World, learnt: Path, tmp_path: Path):
    """Tokens made by the dual encoder's name are those of the adapted matcher."""
    (tmp_path / "lines.txt").write_text("a red circle\n\na blue square on white\n")
    ids = ["--ids-root", small.folder / "ids", "--image-sets", "own_train", *small.roots]
    load = ["--load", learnt, "--corpus", tmp_path / "lines.txt", "--image-sets", "own_train"]
    stages = [
        ["tokenization/tokenize_dataset.py", tmp_path, "lines.txt", small.clip],
        ["vokenization/extract_vision_keys.py", "--load", learnt, *ids, *small.shared],
        ["vokenization/vokenize_corpus_mp.py", *load, "--output", tmp_path, "--precision", "fp32", "--num-workers", 1],
        ["vokenization/evaluate_retrieval.py", "--load", learnt, "--image-sets", "own_train", *small.roots, *small.shared],
        ["scripts/check.py", learnt, learnt / "keys/own_train.hdf5", tmp_path / "lines.txt.own_train.hdf5"],
    ]
    for stage in stages:
        done = run_here(*stage)
        assert done.returncode == 0, done.stderr
    assert "top 5 of 54 images for 3 lines" in done.stdout
    (tmp_path / "phrases.txt").write_text("a red circle\na blue square\n")
    assert "2 phrases" in run_script("encode_captions", tmp_path, "--captions", "phrases.txt", "--model", learnt)
    run_script("build_context", tmp_path, "--images", small.folder / "images", "--model", learnt, "--k", 1)
    assert (tmp_path / "outputs/retrieved_captions/txt_ctx.hdf5").exists()


def test_again_it_is_skipped_without_torch_and_other_captions_are_refused(small: World, learnt: Path):
    before = {path: path.stat().st_mtime_ns for path in learnt.rglob("*")}
    done, heavy = imported(MAIN, *small.flags(small.clip, learnt))
    assert (done.returncode, done.stderr) == (0, f"skipped: {learnt} is trained already (0 epochs, same settings)") and not heavy
    others = {"data": ["own_shuffled"], "head": ["own_train", "--head", "own"], "part_weights": ["own_train", "--part-weights", "1,0"]}
    for told, flags in others.items():
        done = run_here(MAIN, *small.flags(small.clip, learnt, *flags))
        assert done.returncode == 2 and "was trained with other settings" in done.stderr and told in done.stderr, done.stderr
    assert {path: path.stat().st_mtime_ns for path in learnt.rglob("*")} == before


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--dual", "CLIP", "--lang", "bert"], "--lang: --dual CLIP names both towers"),
        (["--lang", "CLIP"], "--head own: both towers must be of one dual encoder"),
        (["--dual", "BERT"], "--dual BERT: no dual encoder, such as CLIP"),
        (["--lang", "CLIP", "--visn", "SIGLIP"], "--head own: both towers must be of one dual encoder"),
        (["--dual", "CLIP", "--head", "own,classes"], "--head classes: CLIP is a dual encoder and classifies nothing"),
        (["--dual", "CLIP", "--recipe", "best"], "--head classes: CLIP is a dual encoder and classifies nothing"),
        (["--dual", "CLIP", "--level", "token"], "--level token: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--text-pool", "mean"], "--text-pool: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--lang-layers", "2"], "--lang-layers: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--lang-prompt", "query: "], "--lang-prompt: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--max-len", "20"], "--max-len: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--visn-pool", "stages"], "--visn-pool: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--visn-weights", "x.pth"], "--visn-weights: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--lang-finetune"], "--lang-finetune: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--head", "linear", "--visn-finetune"], "--visn-finetune: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--views", "2"], "--views: CLIP is a dual encoder"),
        (["--dual", "CLIP", "--part-weights", "1"], "--part-weights: 1 weights for the 2 heads own,cca"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(small: World, flags: list[str], told: str):
    builder.save_bert(small.folder / "bert", **builder.sizes(16, 1, 2))
    folders = {"CLIP": str(small.clip), "SIGLIP": str(small.siglip), "BERT": str(small.folder / "bert")}
    with pytest.raises(UserError) as error:
        parse_args(["--recipe", "adapt", *(folders.get(flag, flag) for flag in flags)])
    found = str(error.value)
    for name, folder in folders.items():
        found = found.replace(folder, name)
    assert found.startswith(told) and "\n" not in found


def test_both_ways_to_name_it_are_the_same(small: World, tmp_path: Path):
    (tmp_path / "link").symlink_to(small.clip)
    ways = [["--dual", small.clip], ["--lang", small.clip, "--visn", small.clip], ["--lang", tmp_path / "link", "--visn", small.clip]]
    found = [vars(parse_args(["--recipe", "adapt", *map(str, way)])) for way in ways]
    for other in found[1:]:
        assert {**other, "dual": None, "lang": None} == {**found[0], "dual": None, "lang": None}
    done = run_here(MAIN, *small.flags(Path("owner/no-such-model"), tmp_path / "m"))
    assert done.returncode == 2 and "owner/no-such-model: can't be loaded" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("own", [0, 1])
def test_the_share_is_what_finds_most_and_never_less_than_its_own_score(own: int):
    """A head that knows half of the captions and another that knows the rest find more together; one of noise gets nothing."""
    pictures = pictures_of([1] * 120)
    chooser = Chooser(folds_of(pictures, 0))
    image, noise = unit(120, 64, seed=1), unit(120, 64, seed=2)
    known = torch.arange(120)[:, None] % 2 == 0
    half, rest = torch.where(known, image, noise), torch.where(known, unit(120, 64, seed=3), image)
    for other, gains in ((rest, True), (unit(120, 64, seed=4), False)):
        texts = [half, other] if own == 0 else [other, half]
        parts = [[vectors_of(fold, text, image, pictures) for fold in chooser.folds] for text in texts]
        weights = choose_shares(chooser, parts, own)
        assert (0 < weights[own] < 1 if gains else weights == [float(own == 0), float(own == 1)]) and sum(weights) == pytest.approx(1)
        scored = [
            np.mean([recall_sum(fold, Sides.joined([part[n] for part in parts], some)) for n, fold in enumerate(chooser.folds)])
            for some in (weights, [float(own == 0), float(own == 1)])
        ]
        assert scored[0] > scored[1] + 50 if gains else scored[0] == scored[1]
    assert correction_of(["own", "cca"], chooser, parts[own], 0.5) == 0.5 and correction_of(["own"], chooser, parts[own], None) == 0


def test_the_dual_encoder_is_loaded_once_for_both_towers(small: World, learnt: Path, monkeypatch: pytest.MonkeyPatch):
    loaded, load = [], clip.load_clip
    monkeypatch.setattr(clip, "load_clip", lambda name: loaded.append(name) or load(name))
    for towers in (["text", "image"], ["text"], []):
        load_encoder(learnt, towers)
    assert loaded == [str(small.clip)] * 2


def test_an_input_of_fixed_length_is_never_cut(small: World):
    """SigLIP was trained on inputs of its whole length; CLIP's are as long as their texts."""
    for folder, longest in ((small.siglip, 12), (small.clip, 5)):
        dual = dual_of(str(folder))
        assert FrozenText(dual.text, dual.tokenizer, max_tokens=5).padding.max_tokens == longest


def test_a_projection_that_is_no_matrix_is_refused(small: World):
    dual = dual_of(str(small.clip))
    linear = torch.nn.Linear(32, 24, bias=False)
    for projection in (torch.nn.Linear(32, 24), torch.nn.Sequential(linear), torch.nn.Linear(24, 24, bias=False)):
        with pytest.raises(UserError, match="--head own: a projection of this dual encoder is no matrix"):
            own_heads(replace(dual, text_projection=projection))


def test_a_pictures_part_in_the_recall(small: World):
    pictures = pictures_of([3, 1, 2, 4, 1, 2])
    fold = folds_of(pictures, 1)[0]
    fold.gallery, (fold.pairs, fold.owner) = np.arange(6), pictures.pairs(np.arange(6))
    sides = vectors_of(fold, unit(13, 8, seed=5), unit(6, 8, seed=6), pictures)
    scores = (sides.text @ sides.image.T).numpy()
    found = by_picture(fold, sides)
    assert found.shape == (6,) and found.mean().item() == pytest.approx(recall_by_hand(scores, scores, fold.owner.numpy()))
