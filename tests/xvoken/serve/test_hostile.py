"""Requests that a server on a shared machine has to withstand."""

import contextlib
import io
import json
import signal
import socket
import threading
import zlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

import xvoken
from tests import builder
from tests.running import run_here, script, start, wait_until
from tests.serving import Served, gallery, served, shapes
from xvoken.ask.searcher import Searcher
from xvoken.serve import guard
from xvoken.serve.server import open_door

TOKEN = "a-token-of-some-length"


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("hostile")
    return gallery(folder, shapes(3), xvoken.load_encoder(builder.save_clip(folder / "clip"), device="cpu"))


@pytest.fixture(scope="module")
def server(searcher: Searcher) -> Generator[Served]:
    with served(searcher) as running:
        yield running


def raw(server: Served, request: bytes) -> bytes:
    """What is answered to these bytes, to the end of the connection."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(request)
        connection.settimeout(10)
        answer = b""
        try:
            while more := connection.recv(65536):
                answer += more
        except OSError:
            pass
    return answer


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421), ({"Host": "evil.example:8000"}, 421), ({"Host": "10.0.0.1"}, 421),
        ({"Host": "localhost.evil.com"}, 421),
        ({"Host": "127.0.0.1@evil.com"}, 421), ({"Host": "[::1"}, 421), ({"Host": ""}, 421), ({"Host": "LOCALHOST:9000"}, 200),
        ({"Host": "[::1]:8000"}, 200), ({"Host": "localhost."}, 200), ({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403), ({"Host": "localhost:7", "Origin": "http://localhost:7"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)  # fmt: skip
def test_host_and_origin(server: Served, headers: dict[str, str], status: int):
    for path in ("/api/status", "/thumbs/0"):
        answer = server.client.get(path, headers=headers)
        assert answer.status_code == status
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert "default-src 'none'" in answer.headers["content-security-policy"] and "set-cookie" not in answer.headers


def test_two_hosts_and_none(server: Served):
    assert b" 421 " in raw(server, b"GET / HTTP/1.0\r\n\r\n")
    assert b" 4" in raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")[:20]


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/assets/../server.py", "/assets/%2e%2e%2fserver.py", "/thumbs/..%2f..%2fetc", "/assets/", "/docs"]
)
def test_paths(server: Served, path: str):
    answer = raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split(b" ", 2)[1] in (b"400", b"404") and b"error" in answer and b"/work" not in answer and b"root:" not in answer


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "parts"), (b"{", "Invalid JSON"), (b"[]", "object"), (b"\xff\xfe", "Invalid JSON"), (b"[" * 100_000, "recursion"),
        (b'{"parts": []}', "nothing is asked"), (b'{"parts": [{}]}', "one of text"), (b'{"parts": [{"text": "\\ud800"}]}', "Invalid JSON"),
        (b'{"parts": [{"text": "a", "weight": NaN}]}', "weight"), (b'{"parts": [{"text": "a", "weight": 1e999}]}', "weight"),
        (b'{"parts": [{"text": "a", "weight": 0}]}', "weight of 0"), (b'{"parts": [{"text": " "}]}', "empty sentence"),
        (b'{"parts": [{"row": 3}]}', "rows go from 0 to 2"), (b'{"parts": [{"row": -1}]}', "rows go"),
        (b'{"parts": [{"row": 1e30}]}', "row"),
        (b'{"parts": [{"row": 0}, {"row": 0, "weight": -1}]}', "adds up to nothing"), (b'{"parts": [{"text": "a"}], "k": 0}', "k"),
        (b'{"parts": [{"text": "a"}], "k": 100000}', "k"), (b'{"parts": [{"path": "/etc/passwd"}]}', "not permitted"),
        (json.dumps({"parts": [{"text": "a"}] * 5000}).encode(), "at most 16"),
        (json.dumps({"parts": [{"text": "a" * 10_001}]}).encode(), "10,000"),
    ],
)  # fmt: skip
def test_bad_bodies(server: Served, body: bytes, said: str):
    answer = server.client.post("/api/search", content=body)
    assert answer.status_code == 400 and said in answer.json()["error"] and "\n" not in answer.json()["error"]


def test_a_body_of_millions_of_values(server: Served):
    answer = server.client.post("/knn-service", content=b'{"embedding_input":[' + b"1," * 300_000 + b"1]}")
    assert answer.status_code == 400 and "200,000 values" in answer.json()["error"]


def test_head_answers_as_get_does(server: Served):
    for path in ("/", "/thumbs/0", "/api/status"):
        got, head = server.client.get(path), server.client.head(path)
        assert head.status_code == 200 and head.content == b"" and head.headers["content-length"] == str(len(got.content))


def test_what_is_no_http(server: Served, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    """A request in a request is not answered, and nobody fills the log."""
    both = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    answer = raw(server, both + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ") and answer.count(b"HTTP/1.1") == 1
    raw(server, b"\x16\x03\x01\x02")
    raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n\r\n\x01")
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert b" 404 " in connection.recv(65536)
        connection.sendall(b"no length\r\n" * 9)  # behind the answer
        with contextlib.suppress(ConnectionError):
            connection.recv(65536)
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")  # and goes away
    assert server.ask({"text": "a dog"}, k=1)["results"]
    assert capfd.readouterr().err == "" and not [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]


def test_one_client_leaves_connections_to_others(server: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "EACH", 4)
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.3"), timeout=10))
        assert other.get(f"http://127.0.0.1:{server.port}/").status_code == 200
        many = []
        for _ in range(6):
            many.append(stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10, ("127.0.0.2", 0))))
            many[-1].sendall(b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")  # and no more
        for connection in many[:2]:  # the oldest ones
            with contextlib.suppress(ConnectionError):
                assert connection.recv(100) == b""
        many[-1].sendall(b"        ")
        assert many[-1].recv(100).startswith(b"HTTP/1.1 400")
        assert other.get(f"http://127.0.0.1:{server.port}/").status_code == 200


def test_one_client_leaves_work_to_others(server: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "AT_WORK", 0)
    assert server.client.get("/api/status").status_code == 429
    monkeypatch.undo()
    assert server.client.get("/api/status").status_code == 200  # and was not counted further


def endless() -> bytes:
    """A small JPEG of 1,000 scans."""
    data = io.BytesIO()
    Image.new("L", (64, 64), 128).save(data, "JPEG", progressive=True)
    whole = data.getvalue()[:-2]
    return whole + whole[whole.rfind(b"\xff\xda") :] * 1000 + b"\xff\xd9"


def bomb() -> bytes:
    """A PNG of a few KB that says it has 30,000 x 30,000 pixels."""
    data = io.BytesIO()
    Image.new("1", (8, 8)).save(data, "PNG")
    head = b"IHDR" + (30_000).to_bytes(4, "big") * 2 + data.getvalue()[24:29]
    return data.getvalue()[:12] + head + zlib.crc32(head).to_bytes(4, "big") + data.getvalue()[33:]


def test_bad_pictures(server: Served):
    whole = shapes()["red.png"]
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    bad = [(b"", "empty file"), (svg, "not a picture"), (whole[:200], "can't be decoded"), (bomb(), "too large"), (endless(), "scans")]
    for data, said in bad:
        answer = server.client.post("/api/pictures", content=data)
        assert answer.status_code == 400 and said in answer.json()["error"]
    behind = io.BytesIO()
    Image.new("L", (64, 64)).save(behind, "JPEG", progressive=True)
    for good in (whole, behind.getvalue() + b"\xff\xda" * 1000):  # a phone's JPEG may have a film behind it
        assert server.client.post("/api/pictures", content=good).status_code == 201


def test_bodies_are_bounded_while_they_come(server: Served, monkeypatch: pytest.MonkeyPatch):
    assert b" 413 " in raw(server, b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n")
    head = b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    assert b" 413 " in raw(server, head + chunk * 17)  # just beyond 1 MB, with no length said and no end
    for long in (20_000, 700_000):
        assert raw(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * long + b"\r\n\r\n").split()[1] in (b"431", b"400")
    monkeypatch.setattr(guard, "TOGETHER", 1000)
    answer = server.client.post("/api/search", content=b"a" * 100_000)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert server.ask({"text": "a dog"}, k=1)["results"]  # a sentence is taken in any case
    monkeypatch.undo()
    assert server.client.post("/api/search", content=b"a" * 100_000).status_code == 400  # what was held is free again


def test_a_slow_client_is_cut_off(searcher: Searcher, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "WITHIN", 0.3)
    with served(searcher) as running:
        for begun in (b"GET / HT", b"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"):
            assert raw(running, begun) == b""


def test_rate(searcher: Searcher):
    with served(searcher, rate=1) as running:
        answers = [running.client.get("/api/status") for _ in range(7)]
        assert [answer.status_code for answer in answers[:5]] == [200] * 5 and answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1 and "too many" in answers[-1].json()["error"]


def test_token(searcher: Searcher):
    with served(searcher, TOKEN) as running:
        client = running.client
        assert running.url.endswith(f"/#token={TOKEN}")
        assert client.get("/").status_code == client.get("/assets/page.js").status_code == 200  # the page itself, which holds nothing
        assert b"--accent" in client.get("/assets/theme.css").content and b'@import "theme.css"' in client.get("/assets/style.css").content
        for path in ("/api/status", "/thumbs/0", "/pictures/0", "/uploads/x", "/openapi.json", "/assets/nothing.js.map"):
            for headers in (
                {},
                {"Authorization": "Bearer wrong"},
                {"Authorization": f"Bearer {TOKEN}x"},
                {"Authorization": "Bearer"},
                {"Cookie": TOKEN},
            ):
                assert client.get(path, headers=headers).status_code == 401
        strange = "GET /api/status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic \xe9\r\nOrigin: http://localhost\r\n\r\n"
        assert b" 401 " in raw(running, strange.encode("latin-1"))
        known = {"Authorization": f"Bearer {TOKEN}"}
        key = client.get("/api/status", headers=known).json()["key"]
        assert client.get("/thumbs/0", params={"key": key}).status_code == 200 == client.get("/thumbs/0", headers=known).status_code
        assert (
            client.get("/thumbs/0", params={"key": "wrong"}).status_code
            == client.get("/api/status", params={"key": key}).status_code
            == 401
        )
        found = httpx.post(
            f"http://:{TOKEN}@127.0.0.1:{running.port}/knn-service", content=json.dumps({"text": "a dog", "num_images": 1})
        ).json()
        assert client.get(found[0]["url"]).status_code == 200


def test_elsewhere_than_on_loopback_a_token_is_made():
    door = open_door("0.0.0.0", 0, None, 50, "")
    door.listening.close()
    assert len(door.access.token or "") >= 32 and door.access.is_mine("10.1.2.3:8000") and not door.access.is_mine("evil.example")
    door = open_door("127.0.0.1", 0, None, 50, "")
    door.listening.close()
    assert door.access.token is None and not door.access.is_mine("10.1.2.3:8000")


def test_an_unexpected_error_is_one_line_and_told(server: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    monkeypatch.setattr(server.service.thumbs, "make", lambda row, side: 1 / 0)
    answer = server.client.get("/pictures/0")
    assert answer.status_code == 500 and answer.json() == {"error": "the server failed; its log says why"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    told: list[str] = []
    wait_until(lambda: "GET '/pictures/0': ZeroDivisionError" in "".join([*told, told.append(capfd.readouterr().err) or told[-1]]), 10)


def test_stopped_while_it_answers(searcher: Searcher, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    asked, go = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as threads:
        with served(searcher) as running:
            encode = searcher.vectors
            monkeypatch.setattr(searcher, "vectors", lambda queries: asked.set() or go.wait(10) and encode(queries))
            url = f"http://127.0.0.1:{running.port}/api/search"
            answer = threads.submit(httpx.post, url, json={"parts": [{"text": "a dog"}]}, timeout=20)
            assert asked.wait(10)
            threading.Timer(1.5, go.set).start()  # uvicorn waits for a second
        assert answer.result().status_code == 503 and "stopped" in answer.result().json()["error"]
    assert not [record for record in caplog.records if record.name != "httpx"]


@pytest.mark.slow
def test_ctrl_c(searcher: Searcher):
    assert searcher.gallery
    keys = Path(searcher.gallery.paths[0]).parents[1] / "keys"
    process = start(script("vokenization/serve.py", "--load", searcher.load, "--keys-dir", keys, "--image-sets", "shapes", "--port", 0))
    assert process.stderr
    assert (told := process.stderr.readline()).startswith("3 pictures, clip: open http://127.0.0.1:"), told
    with httpx.Client() as client:  # whose connection stays open
        assert client.get(told.split()[4]).status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=20) == ("", "stopped\n") and process.returncode == 130


def test_mistakes_of_the_command(searcher: Searcher, server: Served, tmp_path: Path):
    load = ["vokenization/serve.py", "--load", searcher.load, "--image-sets", "shapes"]
    taken = run_here(*load, "--port", server.port)
    assert (
        taken.returncode == 2
        and f"port {server.port} of 127.0.0.1 is taken" in taken.stderr
        and f"--port {server.port + 1}" in taken.stderr
    )
    for flags, said in (
        (["--token", "short"], "at least 16"), (["--host", "192.0.2.1", "--port", 0], "can't listen there"),
        (["--port", 70000], "can't listen"), (["--host", "a..b"], "can't listen"),
        (["--port", 0], "shapes.hdf5 does not exist"),
    ):  # fmt: skip
        done = run_here(*load, *flags)
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    done = run_here(*load[:3], "--images", tmp_path, "--keys-dir", tmp_path)
    assert done.returncode == 2 and "--images goes with neither" in done.stderr
