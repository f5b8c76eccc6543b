"""Queries of sentences and pictures against an independent computation on the same vectors."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

import xvoken
from tests import builder
from xvoken.ask.queries import Part, Query, picture, query, sentence, sentence_or_picture
from xvoken.ask.searcher import Searcher, open_searcher
from xvoken.encoders.encoder import Encoder
from xvoken.encoders.identity import Identity
from xvoken.errors import UserError
from xvoken.files.keys import Gallery


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return xvoken.load_encoder(builder.save_clip(tmp_path_factory.mktemp("clip") / "model"), device="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pictures")
    pictures = [(f"{colour}.png", builder.png(colour, "circle", 60, 60)) for colour in list(builder.COLOURS)[:6]]
    pictures += [(f"again_{number}.png", pictures[2][1]) for number in range(4)]
    for name, content in pictures:
        (folder / name).write_bytes(content)
    return [str(folder / name) for name, _ in pictures]


@pytest.fixture(scope="module")
def searcher(clip: Encoder, files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    keys = tmp_path_factory.mktemp("keys")
    xvoken.write_keys(keys, "shapes", clip.encode_images(files), [Path(file).stem for file in files], files, clip)
    return open_searcher(clip.files[0] if clip.files[0].is_dir() else clip.files[0].parent, ["shapes"], keys, "cpu")


def test_sums_and_differences(searcher: Searcher, clip: Encoder, files: list[str]):
    asked = query([sentence("a red dog"), picture(Path(files[1])), sentence("people", -1)])
    assert asked.name == f"a red dog + {Path(files[1]).name} - people"
    a, c = clip.encode_texts(["a red dog", "people"])
    (b,) = clip.encode_images(files[1:2])
    total = a + b - c
    expected = clip.encode_images(files) @ (total / np.linalg.norm(total))
    (answer,) = searcher.search([asked], k=4)
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4]
    for found in ([hit.score for hit in answer.hits], expected[[hit.row for hit in answer.hits]]):
        np.testing.assert_allclose(found, np.sort(expected)[::-1][:4], atol=1e-5)
    best = answer.hits[0]
    assert best.id == f"shapes/{Path(files[best.row]).stem}" and best.path == files[best.row]


def test_one_sentence_is_what_the_index_finds(searcher: Searcher, clip: Encoder, files: list[str]):
    hits = xvoken.open_index(clip.encode_images(files)).search(clip.encode_texts(["a dog", "a cat"]), k=3)
    for row, answer in enumerate(searcher.search([query([sentence("a dog")]), query([sentence("a cat")])], k=3)):
        assert [hit.row for hit in answer.hits] == hits.rows[row].tolist()


def test_a_picture_of_the_gallery_finds_itself(searcher: Searcher):
    (answer,) = searcher.search([Query((Part(0, "row 0"),))], k=2)
    assert answer.hits[0].row == 0 and answer.hits[0].score == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match="rows go from 0 to 9"):
        searcher.search([Query((Part(10, "row 10"),))])


def test_near_duplicates_are_collapsed(searcher: Searcher, files: list[str], monkeypatch: pytest.MonkeyPatch):
    asked = [query([picture(Path(files[2]))])]
    plain, collapsed = searcher.search(asked, k=6)[0].hits, searcher.search(asked, k=20, alike=0.99999)[0].hits
    copies = {2, 6, 7, 8, 9}  # of one picture; a batch may round one of them otherwise
    assert {hit.row for hit in plain[:5]} == copies and plain[5].row not in copies
    assert collapsed[0].row in copies and collapsed[0].copies == 5 and [hit.copies for hit in collapsed[1:]] == [1] * 5
    assert [hit.row for hit in collapsed[1:]] == [hit.row for hit in searcher.search(asked, k=10)[0].hits[5:]]
    assert searcher.search(asked, k=1, alike=0.99999)[0].hits[0].copies == 5
    monkeypatch.setattr("xvoken.ask.searcher.DEEPEST", 4)  # a gallery of near-duplicates alone is not looked through to its end
    assert [hit.copies for hit in searcher.search(asked, k=1, alike=0.99999)[0].hits] == [4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: query([]), "nothing is asked"),
        (lambda: sentence(" \n"), "an empty sentence"),
        (lambda: sentence("a" * 20_000), "at most 10,000"),
        (lambda: sentence_or_picture("nowhere.JPG"), "no such picture"),
        (lambda: query([sentence("a")] * 17), "at most 16"),
    ],
)
def test_mistakes(make, message: str):
    with pytest.raises(UserError, match=message):
        make()


def test_parts_that_cancel_out(searcher: Searcher):
    with pytest.raises(UserError, match="adds up to nothing"):
        searcher.search([query([sentence("a dog"), sentence("a dog", -1)])])


def test_a_probability_does_not_hang_on_how_many_pictures_are_shown_or_collapsed():
    keys = np.repeat(np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0].astype(np.float32), 5, 0)
    gallery = Gallery([keys], [str(row) for row in range(60)], [str(row) for row in range(60)], ["x"])
    known = cast(Identity, SimpleNamespace(calibration=[0, 1, 1], dim=12, hash="x"))
    searcher, asked = Searcher("x", known, gallery), [query([sentence("a dog")])]
    vector = np.full((1, 12), 12**-0.5, np.float32) + 0.1 * keys[:1]
    told = [searcher.answers(asked, vector, k, alike)[0] for k in (1, 5, 60) for alike in (None, 0.95, 1.0)]
    assert len({answer.probability for answer in told}) == 1
    assert [hit.copies for hit in told[-1].hits] == [5] * 12  # exact copies are alike by 1.0, though rounded
