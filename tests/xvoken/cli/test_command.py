"""The command `xvoken`: what it names is there, and costs nothing before there is work."""

import re
import subprocess
import sys

import pytest

from tests.running import ROOT
from xvoken.cli.xvoken import COMMANDS

START = "from xvoken.cli.xvoken import main; main()"
HEAVY = re.compile(r"\| +(torch|torchvision|transformers|faiss|fastapi|PIL)$", re.MULTILINE)


def start(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-c", START, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("words", [["--help"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help(words: list[str]):
    done = start(*words)
    assert done.returncode == 0 and f"usage: {' '.join(['xvoken', *words[:-1]])}" in done.stdout
    assert not HEAVY.findall(done.stderr)


@pytest.mark.parametrize(
    ("words", "message"), [(["serch"], "no such command; there are: search, "), (["search", "--bla"], "; xvoken search --help")]
)
def test_mistakes(words: list[str], message: str):
    done = start(*words)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and len(said) == 1 and message in said[0]
