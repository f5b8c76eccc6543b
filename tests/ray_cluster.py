"""A real Ray cluster of two nodes on this machine: same bytes as the local engine, also when a node is killed.

Run by scripts/test_ray.bash; not part of the default suite, since Ray is an extra requirement.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.running import run, start, wait_until
from tests.worlds import ScaleWorld, make_scale_world

ADDRESS = "127.0.0.1:6379"
STAGES = ("tokenize", "keys", "retrieve")


def ray(*arguments: str) -> None:
    command = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def nodes() -> list[int]:
    """Process ids of the cluster's nodes (raylets), the second node's last."""
    return sorted(int(path.name) for path in Path("/proc").glob("[0-9]*") if _name(path) == "raylet")


def _name(path: Path) -> str:
    try:
        return (path / "comm").read_text().strip()
    except OSError:
        return ""


def start_second() -> None:
    ray("start", f"--address={ADDRESS}", "--num-cpus=1", "--node-ip-address=127.0.0.1")


def same_bytes(world: ScaleWorld, stage: str, expected: dict[str, bytes], kill: bool) -> None:
    world.remove_outputs(stage)
    process = start(world.command(stage, "--engine", "ray", "--ray-address", ADDRESS))
    if kill:
        wait_until(lambda: world.markers() or process.poll() is not None, what="a part")
        time.sleep(0.1)
        assert process.poll() is None and len(nodes()) == 2, "finished before a node could be killed"
        os.kill(nodes()[-1], signal.SIGKILL)
    error = process.communicate(timeout=180)[1]
    assert process.returncode == 0, error
    assert world.outputs(stage) == expected, f"{stage}: other bytes than the local engine's"
    print(f"{stage}{', a node killed' if kill else ''}: same bytes as the local engine", flush=True)


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    # Ray keeps a token at home once it has started a cluster by itself; nodes and drivers must agree on using it.
    os.environ |= {"HOME": str(folder), "RAY_AUTH_MODE": "disabled"}
    world = make_scale_world(folder / "world")
    expected = {}
    for stage in STAGES:
        done = run(world.command(stage, "--num-workers", "1"))
        assert done.returncode == 0, done.stderr
        expected[stage] = world.outputs(stage)
    ray("start", "--head", "--port=6379", "--num-cpus=1", "--node-ip-address=127.0.0.1", "--include-dashboard=false")
    try:
        start_second()
        assert len(nodes()) == 2
        for stage in STAGES:
            same_bytes(world, stage, expected[stage], kill=False)
        same_bytes(world, "retrieve", expected["retrieve"], kill=True)
    finally:
        for node in nodes():
            os.kill(node, signal.SIGTERM)
        ray("stop", "--force")
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
