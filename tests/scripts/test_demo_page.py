import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from scripts.demo_lines import Line, choose
from scripts.demo_parts import Trained, photos_section, trained_section, untrained_section
from scripts.demo_photos import PHOTOS
from tests.worlds import World
from xvoken.errors import UserError
from xvoken.recall import evaluate


def record() -> dict:
    import torch

    return {"epoch": 1, "loss": 0.5, **evaluate(torch.eye(3), torch.eye(3), torch.arange(3))}


def test_sections_escape_what_comes_from_files(tmp_path: Path):
    evil = "<script>alert('x')</script>"
    Image.new("RGB", (300, 200), "red").save(tmp_path / "a<b>&.png")
    line = Line(1, ["hello", evil], [(tmp_path / "a<b>&.png", 0.25)])
    trained = Trained("set<1>", {"trained": record()}, [record(), record()], None, 1, [line])
    text = untrained_section([line], [line]) + trained_section(trained, [line], [line]) + photos_section([line])
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == text.count("<article>") == text.count('alt="a&lt;b&gt;&amp;"') == 5
    assert "set&lt;1&gt;" in text
    assert text.count("<br>0.250") == 5


def test_missing_and_broken_pictures_are_named(tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    for name, reason in (("missing.jpg", "missing"), ("broken.jpg", "not a picture")):
        with pytest.raises(UserError, match=f"{name}: {reason}; the page shows this picture"):
            photos_section([Line(1, ["x"], [(tmp_path / name, 0.5)])])


def test_best_lines_show_different_pictures_and_the_sample_others():
    lines = [Line(n, ["x"], [(Path(f"{n % 30}.png"), 1 - n / 1000)]) for n in range(200)]
    best, sample = choose(lines, 24, 20)
    assert [line.number for line in best] == list(range(24))
    assert len(sample) == 20
    assert not {line.number for line in best} & {line.number for line in sample}
    assert choose(lines, 24, 20)[1] == sample


@pytest.fixture
def retrieved(world: World, keyed: Path, tmp_path: Path, script: Callable[..., str]) -> list[object]:
    """Flags of the page: two matchers, the second in the place of the one without training; dialogues, and sentences about photos."""
    shutil.copytree(world.folder / "corpus", tmp_path / "corpus")
    (tmp_path / "corpus/everyday.txt").write_text("a red circle\na blue square\n")
    script("tokenization.tokenize_dataset", tmp_path / "corpus", "everyday.txt", world.bert)
    for name in ("trained", "zeroshot"):
        shutil.copytree(keyed, tmp_path / name)
        evaluation = [*world.roots, "--num-workers", 1]
        script("vokenization.evaluate_retrieval", "--load", tmp_path / name, "--image-sets", "shapes_valid", *evaluation)
    for name, corpus, image_set in (
        ("trained", "lines.txt", "shapes_train"),
        ("trained", "everyday.txt", "shapes_valid"),
        ("zeroshot", "lines.txt", "shapes_valid"),
        ("zeroshot", "everyday.txt", "shapes_valid"),
    ):
        flags = ["--load", tmp_path / name, "--corpus", tmp_path / "corpus" / corpus, "--image-sets", image_set, "--num-workers", 1]
        script("vokenization.vokenize_corpus_mp", *flags)
    flags = ["--load", tmp_path / "trained", "--corpus", tmp_path / "corpus/lines.txt", "--image-sets", "shapes_train"]
    return [*flags, "--eval-set", "shapes_valid", "--output", tmp_path / "page.html"]


def test_results_without_training_come_first(retrieved: list[object], tmp_path: Path, script: Callable[..., str]):
    """And what was made of other files than there are now is refused, for either matcher."""
    sentences, zeroshot = tmp_path / "corpus/everyday.txt", tmp_path / "zeroshot"
    flags = ["scripts.demo_page", *retrieved, "--zeroshot", zeroshot, "--sentences", sentences, "--photo-set", "shapes_valid"]
    assert "wrote the page" in script(*flags)
    text = (tmp_path / "page.html").read_text()
    headings = re.findall("<h2 .*?>(.*?)</h2>", text)
    assert headings == ["Without any training", "Trained on drawings", "The photos again, after training on drawings"]
    assert text.count('<p dir="auto">a blue square</p>') == 2
    assert all(photo.credit in text for photo in PHOTOS.values())
    assert text.count("<b>shapes_valid, trained, ") == text.count("<b>shapes_valid, without training, ") == 2
    assert "skipped" in script(*flags) and "To browse" not in text
    script("vokenization.page", "--load", zeroshot, "--corpus", sentences, "--image-sets", "shapes_valid")
    assert "wrote the page" in script(*flags)  # with a link to the page that is there
    assert re.findall('<a href="(zeroshot.*?)"', text := (tmp_path / "page.html").read_text()) == [
        "zeroshot/vokens/everyday.txt.shapes_valid.page.html"
    ]
    recall = zeroshot / "eval/shapes_valid.json"
    recall.write_text(recall.read_text().replace('"snapshot_hash": "', '"snapshot_hash": "0'))
    with pytest.raises(UserError, match=f"{recall}: of another training"):
        script(*flags)
    recall.write_text(recall.read_text().replace('"snapshot_hash": "0', '"snapshot_hash": "'))
    assert "skipped" in script(*flags)
    sentences.write_text("another\none\n")
    with pytest.raises(UserError, match=f"vokens/everyday.txt.shapes_valid.hdf5 was made of another text than {sentences} holds now"):
        script(*flags)
    assert (tmp_path / "page.html").read_text() == text
    assert "wrote the page" in script("scripts.demo_page", *retrieved)
    text = (tmp_path / "page.html").read_text()
    assert re.findall("<h2 .*?>(.*?)</h2>", text) == headings[1:2] and "Photos:" not in text


@pytest.mark.parametrize(("flag", "other"), [("--zeroshot", "--sentences"), ("--context-images", "--context")])
def test_flags_that_belong_together(flag: str, other: str, tmp_path: Path, script: Callable[..., str]):
    needed = [word for name in ("--load", "--corpus", "--image-sets", "--eval-set", "--output") for word in (name, tmp_path)]
    with pytest.raises(UserError, match=f"({flag} and {other}|{other} and {flag}) belong together"):
        script("scripts.demo_page", *needed, flag, tmp_path)
