"""How fast a served gallery answers: alone, without the text tower's share, and 50 clients at once.

    python benchmarks/serving.py [--small] [--load MODEL --keys-dir KEYS --image-set SET]

prints  milliseconds of a search by a sentence (the tower counted in) and by a row (without it), one at a time; then what 50 clients get,
        each with an address of its own, that search and fetch the best picture's thumbnail again and again; the server's memory before
        and after; the last line is one JSON object. The server is a process of its own; the clients take their part of the same cores.
Without --load a CLIP model of ViT-B/32's size with random weights is asked over 50,000 random keys.
"""

import asyncio
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import httpx
import numpy as np

import xvoken
from benchmarks import worlds
from benchmarks.measure import machine, make_parser
from tests import builder
from xvoken.cli.main import run_main
from xvoken.encoders.identity import identify

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 50


def make_gallery(folder: Path, small: bool) -> tuple[Path, Path, str]:
    """A model, a folder of keys and the name of a set in it."""
    size = {} if small else {"dim": 512, "widths": (512, 768), "layers": 12, "positions": 77}
    load, number = builder.save_clip(folder / "clip", **size), 500 if small else 50_000
    identity, rng = identify(load), np.random.default_rng(0)
    keys = rng.standard_normal((number, identity.dim), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    photos = worlds.photos(folder / "photos", 4 if small else 200)
    xvoken.write_keys(
        folder / "keys", "pics", keys, [f"{i:07d}" for i in range(number)], [photos[i % len(photos)] for i in range(number)], identity
    )
    return load, folder / "keys", "pics"


def memory(process: subprocess.Popen[str]) -> float:
    """MB that the server holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def sentence() -> dict[str, str]:
    return {"text": " ".join(random.choices(builder.WORDS, k=6))}


async def timed(client: httpx.AsyncClient, part: dict[str, object]) -> tuple[float, int]:
    """Milliseconds of a search, and the best picture's row."""
    started = time.perf_counter()
    answer = await client.post("/api/search", json={"parts": [part], "k": 24})
    answer.raise_for_status()
    return (time.perf_counter() - started) * 1000, answer.json()["results"][0]["row"]


async def alone(url: str, times: int) -> dict[str, list[float]]:
    """Searches one at a time: by a sentence, by a row, and the times of pictures that are sent."""
    data = Path(worlds.photos(Path(tempfile.mkdtemp()), 1)[0]).read_bytes()
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:
        found = {"sentence": [], "row": [], "picture": []}
        for _ in range(times):
            found["sentence"].append((await timed(client, sentence()))[0])
            found["row"].append((await timed(client, {"row": random.randrange(100)}))[0])
            await asyncio.sleep(0.1)  # within the rate of one client
        for _ in range(max(1, times // 10)):
            started = time.perf_counter()
            (await client.post("/api/pictures", content=data)).raise_for_status()
            found["picture"].append((time.perf_counter() - started) * 1000)
    return found


async def crowd(url: str, seconds: float) -> tuple[list[float], int]:
    """Milliseconds of all searches of the clients, and the number of requests that failed."""
    taken, failed, end = [], 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal failed
        transport = httpx.AsyncHTTPTransport(local_address=f"127.0.1.{number + 1}")
        async with httpx.AsyncClient(base_url=url, transport=transport, timeout=30) as client:
            while time.perf_counter() < end:
                try:
                    spent, row = await timed(client, sentence())
                    taken.append(spent)
                    (await client.get(f"/thumbs/{row}")).raise_for_status()
                except httpx.HTTPError as error:
                    failed += 1
                    print(f"{type(error).__name__}: {error}", file=sys.stderr)

    await asyncio.gather(*map(one, range(CLIENTS)))
    return taken, failed


def percentiles(taken: list[float]) -> list[float]:
    return [round(float(value), 1) for value in np.percentile(taken, [50, 95])]


def main(argv: list[str] | None = None) -> None:
    parser = make_parser("Milliseconds of searches in a served gallery.")
    parser.add_argument("--load", help="a model of your own, with --keys-dir and --image-set")
    parser.add_argument("--keys-dir", type=Path, help="the folder of its keys")
    parser.add_argument("--image-set", default="pics", help="a set in there")
    parser.add_argument("--precision", default="fp32", help="of the towers, see vokenization/serve.py")
    parser.add_argument("--seconds", type=float, default=60, help="how long the clients ask")
    args = parser.parse_args(argv)
    seconds, times = (1, 2) if args.small else (args.seconds, 50)
    with tempfile.TemporaryDirectory() as folder:
        load, keys, name = (args.load, args.keys_dir, args.image_set) if args.load else make_gallery(Path(folder), args.small)
        flags = ["--load", load, "--keys-dir", keys, "--image-sets", name, "--port", 0, "--device", "cpu", "--precision", args.precision]
        started = time.perf_counter()
        command = [sys.executable, "vokenization/serve.py", *map(str, flags)]
        server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            said = next((line for line in server.stderr or () if "open http" in line), "")
            url, start = said.split("open ")[1].split()[0], time.perf_counter() - started
            single = {what: percentiles(taken) for what, taken in asyncio.run(alone(url, times)).items()}
            asyncio.run(crowd(url, seconds / 6))  # what is kept (thumbnails, buffers) is there from then on
            before = memory(server)
            taken, failed = asyncio.run(crowd(url, seconds))
            after = memory(server)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(20)
    print(f"serving, {machine()}\n  ready after {start:.1f} s")
    for what, (half, most) in [*single.items(), (f"sentence, {CLIENTS} clients", percentiles(taken))]:
        print(f"  {what:<28}{half:8.1f} ms, 95% within {most:8.1f} ms")
    print(f"  {len(taken) / seconds:.0f} searches a second, and thumbnails; {failed} failed; {before:.0f} MB before, {after:.0f} MB after")
    crowded = percentiles(taken)
    record = {
        "stage": "serving", "sentence": single["sentence"], "row": single["row"], "picture": single["picture"], "crowd": crowded,
        "searches_per_s": round(len(taken) / seconds, 1), "failed": failed, "mb": [round(before), round(after)], "machine": machine(),
        "precision": args.precision,
    }  # fmt: skip
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    run_main(main)
