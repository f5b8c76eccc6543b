"""The stage on files that the stages' own writers wrote: the record counted by hand, later runs, wrong files."""

import json
import re
import shutil

import h5py
import numpy as np
import pytest

from ctx import judge
from tests.ctx.test_captioned import coco
from tests.running import run_here
from xvoken.files import context as context_files
from xvoken.files import phrases as caption_db
from xvoken.files.phrases import CaptionDB

PHRASES = ["red dog", "blue car", "the of", "big tree", "small cat", "old house", "dog near a tree", "sky", "a red car", "cats"]
CAPTIONS = {
    "3": ["a red dog near the tree", "the dog is old"],
    "42": ["blue car under the sky", "and of the", "a small car"],
    "50": ["it is what it is"],
    "99": [],
}
K = 2


def best_of(picture: int):
    """The rows of the phrases for the 15 views (15, K): all different for a view, often the same for two."""
    numbers = np.random.default_rng(picture)
    return np.stack([numbers.choice(6 if view else len(PHRASES), K, replace=False) for view in range(15)]).astype(np.int32)


@pytest.fixture
def work(tmp_path):
    """Context of pictures 3, 42, 50, 99 and 1000, of which 50's captions have no content word, and the last two have no captions."""
    numbers = np.random.default_rng(0)
    keys = numbers.standard_normal((len(PHRASES), 4)).astype(np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    db = CaptionDB(keys, keys, np.array(PHRASES, object), "db")
    caption_db.write(tmp_path / "db.hdf5", [(keys[:6], keys[:6], PHRASES[:6]), (keys[6:], keys[6:], PHRASES[6:])], {})
    scores = np.tile(np.array([0.5, 0.25], np.float32), (15, 1))
    rows = [(str(number), best_of(number), scores) for number in (3, 42, 50, 99, 1000)]
    context_files.write_textual(tmp_path / "txt_ctx.hdf5", rows, db, [], {})
    coco(
        tmp_path / "coco", val={int(i): (f"COCO_val2014_{int(i):012}.jpg", texts) for i, texts in CAPTIONS.items()} | {5: ("x.jpg", ["a"])}
    )
    lxmert = [{"img_id": f"COCO_val2014_{int(i):012}", "sentf": {"mscoco": texts}} for i, texts in CAPTIONS.items()]
    (tmp_path / "few.json").write_text(json.dumps(lxmert))
    return tmp_path


def judged(work, *flags, code=0):
    done = run_here(
        "ctx/evaluate_context.py", "--context", "txt_ctx.hdf5", "--caption_db", "db.hdf5", "--dataset_root", "coco", *flags, cwd=work
    )
    assert done.returncode == code, done.stderr
    return done


def record(work, name="txt_ctx.eval.json"):
    return json.loads((work / name).read_text())


def test_the_record_is_what_counting_gives(work):
    done = judged(work)
    found = record(work)
    assert (found["pictures"], found["captions"], found["k"]) == (2, 4, K)
    assert found["left_out"] == {
        "pictures": {"without captions": 2, "without content words in captions": 1},
        "captions without content words": 2, "captioned pictures without context": 1,
    }  # fmt: skip
    assert found["caption_db"] == {"phrases": 10, "without content words": 1}
    words = [judge.content_words(phrase) for phrase in PHRASES]
    for view, slots in {"whole": range(1), "five": range(1, 6), "nine": range(6, 15), "all": range(15)}.items():
        shares, chances, numbers = [], [], []
        for picture in ("3", "42"):
            said = [own for text in CAPTIONS[picture] if (own := judge.content_words(text))]
            shown = {int(row) for slot in slots for row in best_of(int(picture))[slot]}
            shares.append(judge.shares(said, [words[row] for row in shown]))
            draws = np.random.default_rng(1)
            random = [draws.choice(len(PHRASES), len(shown), replace=False) for _ in range(3000)]
            chances.append(np.mean([judge.shares(said, [words[row] for row in draw]) for draw in random], 0))
            numbers.append(len(shown))
        of_view = found["views"][view]
        assert of_view["number"] == round(np.mean(numbers), 1)
        for s, share in enumerate(judge.SHARES):
            cell = of_view[share]
            both = sorted(100 * row[s] for row in shares)  # of two pictures, the ends of an interval are the pictures' own
            np.testing.assert_allclose([cell["found"], *cell["interval"]], [np.mean(both), *both], atol=1e-3)
            assert abs(cell["chance"] - 100 * np.mean(chances, 0)[s]) < 2
            low, high = cell["above_chance"]
            assert low - 0.01 < cell["found"] - cell["chance"] < high + 0.01
    assert re.search(r"2 pictures, 4 captions, top 2 of 10 phrases", done.stdout) and "wrote txt_ctx.eval.json" in done.stdout
    whole = found["views"]["whole"]["words"]
    assert f"{whole['found']:.2f} [{whole['interval'][0]:.2f}, {whole['interval'][1]:.2f}]" in done.stdout
    assert f"{whole['chance']:.2f}" in done.stdout
    assert "left out: pictures without captions: 2, pictures without content words in captions: 1" in done.stderr


def test_captions_of_image_sets_are_the_same(work):
    judged(work)
    judged(work, "--image-sets", "few", "--lxmert-root", ".", "--output", "other/few.json")
    assert record(work, "other/few.json")["views"] == record(work)["views"]


def test_a_second_run_tells_what_there_is_and_a_changed_input_is_measured(work):
    first = judged(work)
    before = (work / "txt_ctx.eval.json").read_bytes()
    again = judged(work)
    assert "skipped: txt_ctx.eval.json holds this judgement already" in again.stderr
    assert again.stdout == first.stdout.replace("\nwrote txt_ctx.eval.json", "")
    coco(work / "coco", train={1000: ("a.jpg", ["a dog"])})
    assert "3 pictures, 5 captions" in judged(work).stdout
    with h5py.File(work / "txt_ctx.hdf5", "a") as file:
        file["3/five/texts"][2, 0] = "sky"
    assert "wrote txt_ctx.eval.json" in judged(work).stdout
    shutil.rmtree(work / "coco/annotations")
    coco(work / "coco", val={3: ("a.jpg", ["a dog"])})
    assert "1 pictures, 1 captions" in judged(work).stdout
    assert (work / "txt_ctx.eval.json").read_bytes() != before
    assert not [path.name for path in work.iterdir() if path.name.startswith(".") or "lock" in path.name]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--context", "none.hdf5"], "none.hdf5 does not exist; make it with: python ctx/build_context.py"),
        (["--context", "db.hdf5"], "db.hdf5: 0 has no texts for each of whole, five, nine"),
        (["--context", "vis_ctx.hdf5"], "vis_ctx.hdf5: 3 has no texts"),
        (["--caption_db", "none.hdf5"], "none.hdf5 does not exist; make it with: python ctx/encode_captions.py"),
        (["--caption_db", "txt_ctx.hdf5"], 'txt_ctx.hdf5: its groups are not "0", "1"'),
        (["--caption_db", "other.hdf5"], "is no phrase of other.hdf5; give the database it was made from with --caption_db"),
        (["--dataset_root", "."], "captions_train2014.json does not exist"),
        (["--image-sets", "none"], "none: has no captions"),
        (["--image-sets", "others", "--lxmert-root", "."], "none of its 5 pictures, such as 1000, has captions in others in ., which has"),
        (["--image-sets", "few", "--lxmert-root", ".", "--langs", "vg"], "no sentence of vg in it"),
        (["--output", "txt_ctx.hdf5"], "--output txt_ctx.hdf5: the name of a JSON file is needed"),
        (["--output", "few.json"], "few.json is not a record of evaluate_context.py; give another file with --output, or: rm few.json"),
    ],
)
def test_a_mistake_is_one_line(work, flags, message):
    context_files.write_visual(work / "vis_ctx.hdf5", [("3", np.ones(2, np.float32))], 2, [], {})
    caption_db.write(work / "other.hdf5", [(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), ["a", "b"])], {})
    (work / "others.json").write_text(json.dumps([{"img_id": "COCO_val2014_000000000001", "sentf": {"mscoco": ["a dog"]}}]))
    before = {path.name: path.read_bytes() for path in work.iterdir() if path.is_file()}
    error = judged(work, *flags, code=2).stderr
    lines = [line for line in error.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and message in lines[0] and "Traceback" not in error, error
    assert {path.name: path.read_bytes() for path in work.iterdir() if path.is_file()} == before
