"""The server as programs use it, against the searcher itself."""

import base64
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

import xvoken
from tests import builder
from tests.serving import Served, gallery, served, shapes
from xvoken.ask.queries import ALIKE, Part, Query, picture, query, sentence
from xvoken.encoders.encoder import Encoder
from xvoken.serve.rates import BURST, Rates
from xvoken.serve.thumbs import Thumbs
from xvoken.serve.together import Busy, Together
from xvoken.serve.uploads import Gone, Upload, Uploads

PHRASES = ["a red circle", "a dog", "the sky"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return xvoken.load_encoder(builder.save_clip(tmp_path_factory.mktemp("clip") / "model"), device="cpu")


@pytest.fixture(scope="module")
def server(clip: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Generator[Served]:
    files = {**shapes(), "again.png": shapes()["red.png"], "broken.png": shapes()["blue.png"]}
    searcher = gallery(tmp_path_factory.mktemp("shapes"), files, clip, PHRASES)
    assert searcher.gallery
    Path(searcher.gallery.paths[7]).write_text("<html><script>alert(1)</script>")  # after its key was made
    with served(searcher) as running:
        yield running


def rows(answer: dict) -> list[int]:
    return [hit["row"] for hit in answer["results"]]


def test_searches_are_those_of_the_searcher(server: Served):
    searcher = server.service.searcher
    (expected,) = searcher.search([query([sentence("a red dog"), Part(2, "x"), sentence("sky", -0.5)])], 5)
    found = server.ask({"text": "a red dog"}, {"row": 2}, {"text": "sky", "weight": -0.5}, k=5)
    assert rows(found) == [hit.row for hit in expected.hits]
    assert [hit["score"] for hit in found["results"]] == pytest.approx([hit.score for hit in expected.hits], abs=2e-6)
    assert found["query"] == "a red dog + shapes/blue.png - sky" and found["parts"] == ["a red dog", "shapes/blue.png", "sky"]
    best = found["results"][0]
    assert best["id"] == expected.hits[0].id and best["path"] == expected.hits[0].path and best["rank"] == 1
    assert [hit["copies"] for hit in server.ask({"row": 0}, alike=ALIKE, k=20)["results"]][0] >= 2


def test_a_sent_picture_is_what_its_file_would_be(server: Served):
    searcher = server.service.searcher
    assert searcher.gallery
    path = Path(searcher.gallery.paths[3])
    sent = server.client.post("/api/pictures", params={"name": "a\nname.png"}, content=path.read_bytes())
    assert sent.status_code == 201 and sent.json()["name"] == "a name.png"
    found = server.ask({"picture": sent.json()["picture"]}, k=4)
    (expected,) = searcher.search([query([picture(path)])], 4)
    assert rows(found) == [hit.row for hit in expected.hits] and found["results"][0]["score"] == pytest.approx(1, abs=1e-5)
    small = server.client.get(f"/uploads/{sent.json()['picture']}")
    assert small.headers["content-type"] == "image/webp" and Image.open(BytesIO(small.content)).size == (60, 60)
    assert server.ask({"picture": "AAAA"})[0] == 410


def test_phrases(server: Served):
    searcher = server.service.searcher
    found = server.ask({"row": 1}, path="/api/phrases", k=2)["phrases"]
    (expected,) = searcher.phrases(searcher.row_vector(1)[None], 2)
    assert [(one["phrase"], pytest.approx(one["score"], abs=1e-5)) for one in found] == expected
    assert server.ask({"text": "a dog"}, path="/api/phrases") == (400, "phrases are found for pictures; leave the sentences out")


def test_pictures_are_those_of_the_rows_and_always_encoded_anew(server: Served):
    for path in ("/thumbs/2?side=400", "/pictures/2"):
        answer = server.client.get(path)
        shown = Image.open(BytesIO(answer.content))
        assert (answer.headers["content-type"], shown.format, shown.size) == ("image/webp", "WEBP", (60, 60))
        assert np.abs(np.array(shown.convert("RGB"))[30, 30].astype(int) - builder.COLOURS["blue"]).max() < 20
        assert server.client.get(path, headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    assert server.client.get("/thumbs/7").json() == {"error": "row 7: its picture can't be shown (not a picture)"}
    for path, status in {
        "/thumbs/8": 404,
        "/thumbs/-1": 404,
        "/pictures/99999999999999999999": 404,
        "/thumbs/x": 400,
        "/thumbs/0?side=1": 400,
    }.items():
        assert server.client.get(path).status_code == status


def test_thumbnails_that_are_kept_are_bounded(server: Served):
    thumbs = Thumbs(server.service.searcher, kept=3000)
    made = [thumbs.make(row, 400) for row in range(6)]
    assert thumbs.held == sum(len(one) for row in range(6) if (one := thumbs.known(row, 400))) <= 3000
    assert thumbs.known(5, 400) == made[5] and thumbs.known(0, 400) is None and thumbs.make(0, 400) == made[0]


def test_status_and_openapi(server: Served):
    assert server.client.get("/api/status").json().items() >= {"pictures": 8, "phrases": 3, "dim": 24}.items()
    described = server.client.get("/openapi.json").json()
    assert set(described["paths"]) == {
        "/api/status", "/api/search", "/api/phrases", "/api/pictures", "/thumbs/{row}", "/pictures/{row}", "/uploads/{picture}",
        "/knn-service",
    }  # fmt: skip
    assert "$defs" not in str(described) and "weight" in str(described["paths"]["/api/search"])


def test_requests_that_wait_are_answered_by_one_call():
    calls, first, go = [], threading.Event(), threading.Event()

    def work(asked: list[int]) -> list[int]:
        calls.append(asked)
        first.set()
        go.wait(10)
        if 3 in asked:
            raise ValueError("three")
        return [number * 10 for number in asked]

    together = Together(work, most=4, waiting=6)
    answers = [together.ask(0)]
    first.wait(10)  # it is at work on the first alone
    answers += [together.ask(number) for number in range(1, 7)]
    with pytest.raises(Busy):
        together.ask(7)
    go.set()
    together.close()
    assert calls == [[0], [1, 2, 3, 4], [1], [2], [3], [4], [5, 6]]
    assert [answer.result() for number, answer in enumerate(answers) if number != 3] == [0, 10, 20, 40, 50, 60]
    assert isinstance(answers[3].exception(), ValueError)
    late = Together(work, most=4, within=-1)
    assert isinstance(late.ask(1).exception(10), Busy) and calls[-1] == [5, 6]  # nobody waits for it any more
    late.close()


def test_clients_at_once_get_their_own_answers(server: Served, monkeypatch: pytest.MonkeyPatch):
    searcher, sizes = server.service.searcher, []
    encode = searcher.vectors
    monkeypatch.setattr(searcher, "vectors", lambda queries: sizes.append(len(queries)) or encode(queries))
    texts = [f"{word} {other}" for word in builder.WORDS[:6] for other in builder.WORDS[:5]]
    with ThreadPoolExecutor(30) as threads:
        found = list(threads.map(lambda text: server.ask({"text": text}, k=3), texts))
    expected = searcher.search([query([sentence(text)]) for text in texts], 3)
    assert [rows(one) for one in found] == [[hit.row for hit in answer.hits] for answer in expected]
    assert sum(sizes[:-1]) == 30 and len(sizes) - 1 < 30  # fewer calls than requests


def test_uploads_are_forgotten(monkeypatch: pytest.MonkeyPatch):
    now = 0.0
    monkeypatch.setattr("xvoken.serve.uploads.time.monotonic", lambda: now)
    uploads, one = Uploads(kept=2, seconds=10), Upload("one", np.zeros(2, np.float32), b"")
    a, b = uploads.add(one), uploads.add(one)
    uploads.get(a)
    c = uploads.add(one)  # b is the longest unused
    with pytest.raises(Gone):
        uploads.get(b)
    now = 9
    assert uploads.get(a) is one
    now = 12
    assert uploads.get(a) is one
    with pytest.raises(Gone, match="choose it again"):
        uploads.get(c)


def test_rates():
    now = 0.0
    rates = Rates(2, lambda: now)
    taken = [rates.wait("a") for _ in range(int(2 * BURST) + 2)]
    assert taken[:10] == [0.0] * 10 and taken[10:] == [0.5, 0.5]  # a refused one is not counted
    assert rates.wait("b") == 0
    now = 0.5
    assert rates.wait("a") == 0 and rates.wait("a") > 0
    for number in range(10_000):
        now += 1
        rates.wait(str(number))
    assert len(rates._full) <= 4096


def test_clip_client(server: Served):
    """The request that clip_retrieval/clip_client.py makes (requests.post with data=json.dumps), and the keys that it documents."""
    asked = {
        "text": "a dog", "image": None, "image_url": None, "embedding_input": None, "deduplicate": False, "use_safety_model": True,
        "use_violence_detector": True, "indice_name": "shapes", "use_mclip": False, "aesthetic_score": 9, "aesthetic_weight": 0.5,
        "modality": "image", "num_images": 3, "num_result_ids": 3, "verbose": False,
    }  # fmt: skip

    def post(**more: object) -> httpx.Response:
        import json

        return server.client.post("/knn-service", content=json.dumps({**asked, **more}))

    searcher = server.service.searcher
    assert searcher.gallery
    (expected,) = searcher.search([query([sentence("a dog")])], 3)
    found = post().json()
    assert [(one["id"], one["similarity"], one["caption"]) for one in found] == [(hit.row, hit.score, hit.id) for hit in expected.hits]
    assert found[0]["url"] == f"http://127.0.0.1:{server.port}/pictures/{found[0]['id']}" and httpx.get(found[0]["url"]).is_success
    data = Path(searcher.gallery.paths[4]).read_bytes()
    assert post(text=None, image=base64.b64encode(data).decode()).json()[0]["id"] == 4
    assert post(text=None, embedding_input=(searcher.row_vector(5) * 3).tolist()).json()[0]["id"] == 5
    assert {one["id"] for one in post(text=None, embedding_input=searcher.row_vector(0).tolist(), num_result_ids=8).json()} == set(range(8))
    (one,) = searcher.search([Query((Part(0, ""),))], 8, ALIKE)
    assert len(post(text=None, embedding_input=searcher.row_vector(0).tolist(), num_result_ids=8, deduplicate=True).json()) == len(one.hits)
    assert [set(one) for one in post(num_images=1, num_result_ids=2).json()][1] == {"id", "similarity"}
    for more, said in (
        ({"image_url": "http://127.0.0.1/"}, "fetches nothing"), ({"modality": "text"}, "phrases"), ({"use_mclip": True}, "use_mclip"),
        ({"indice_name": "laion5B"}, "this server has 'shapes'"), ({"image": "a"}, "one of text"), ({"text": None, "image": "ä"}, "base64"),
        ({"text": None, "embedding_input": [1.0]}, "1 numbers"), ({"text": None, "embedding_input": [0.0] * 24}, "no direction"),
    ):  # fmt: skip
        assert (answer := post(**more)).status_code == 400 and said in answer.json()["error"]
