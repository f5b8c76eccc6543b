"""Small galleries, served as the command serves them, in threads of the test's process."""

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import xvoken
from tests import builder
from tests.running import wait_until
from xvoken.ask.searcher import Searcher, open_searcher
from xvoken.encoders.encoder import Encoder
from xvoken.serve.server import make_server, open_door
from xvoken.serve.service import Service


@dataclass
class Served:
    """A server that runs: its address with the token, its port, the service behind it, and a client that asks it."""

    url: str
    port: int
    service: Service
    client: httpx.Client

    def ask(self, *parts: dict[str, Any], path: str = "/api/search", **more: Any) -> Any:
        """Ask for parts; the answer, or (status, error)."""
        answer = self.client.post(path, json={"parts": list(parts), **more})
        return answer.json() if answer.is_success else (answer.status_code, answer.json()["error"])


@contextmanager
def served(searcher: Searcher, token: str | None = None, rate: float = 1000, host: str = "127.0.0.1") -> Generator[Served]:
    door = open_door(host, 0, token, rate, "")
    server, service = make_server(searcher, door)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [door.listening]})
    thread.start()
    port = door.listening.getsockname()[1]
    try:
        wait_until(lambda: server.started, 20)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield Served(door.url, port, service, client)
    finally:
        server.should_exit = True
        thread.join()
        service.close()


def gallery(folder: Path, pictures: dict[str, bytes], encoder: Encoder, phrases: list[str] | None = None) -> Searcher:
    """A searcher of these pictures (file name: content) as the image set `shapes`, and of phrases."""
    from xvoken.files import phrases as phrase_files

    (folder / "pictures").mkdir(parents=True)
    for name, content in pictures.items():
        (folder / "pictures" / name).write_bytes(content)
    paths = [str(folder / "pictures" / name) for name in pictures]
    if not pictures:
        return open_searcher(encoder.made_with[0], [], device="cpu")
    xvoken.write_keys(folder / "keys", "shapes", encoder.encode_images(paths), list(pictures), paths, encoder)
    database = folder / "caption_db.hdf5" if phrases else None
    if database:
        vectors = encoder.encode_texts(phrases or [])
        phrase_files.write(database, [(vectors, vectors, phrases or [])], {"model_hash": encoder.hash, "settings": json.dumps({})})
    return open_searcher(encoder.made_with[0], ["shapes"], folder / "keys", "cpu", phrases=database)


def shapes(number: int = 6) -> dict[str, bytes]:
    return {f"{colour}.png": builder.png(colour, "circle", 60, 60) for colour in list(builder.COLOURS)[:number]}
