"""What is checked before Ray is asked; Ray itself: scripts/test_ray.bash."""

import socket
import time
from pathlib import Path

import pytest

from xvoken.errors import UserError
from xvoken.work.ray import run_in_ray


@pytest.mark.parametrize("prefix", ["", "ray://"])
def test_nothing_listens_at_the_address(tmp_path: Path, prefix: str):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"{prefix}127.0.0.1:{free.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(UserError, match=f"--ray-address {address}: nothing answers there .*; start it with: ray start --head"):
        run_in_ray(None, [], address, print, print, tmp_path / "error.log")
    assert time.monotonic() - started < 10
