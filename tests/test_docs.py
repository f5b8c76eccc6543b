"""What README and docs/ tell people to type is taken by the scripts that they name, and what they link to is there."""

import re
import shlex
from pathlib import Path

import pytest

from tests.parsing import takes
from tests.running import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
INLINE = re.compile(r"`((?:python|bash) [a-z]+/[^`]+)`")
KNOWN = {"LOAD": "snap/xmatching/best", "MODEL": "openai/clip-vit-base-patch32", "TOKENIZER": "minilm", "SLURM_ARRAY_TASK_ID": "1"}
COMMAND = re.compile(r"\b(?:python|bash) [a-z]+/[a-z_]+\.(?:py|bash)\b.*")


def commands(text: str) -> list[str]:
    """All that are given in blocks of code, fenced or indented, or between backticks; continued lines joined, comments left out."""
    code, prose, fenced = [], [], False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        else:
            (code if fenced or line.startswith("    ") else prose).append(line)
    lines = "\n".join(code).replace("\\\n", " ").splitlines()
    lines += [found.replace("\n", " ") for found in INLINE.findall("\n".join(prose))]
    return [found[0] for line in lines if (found := COMMAND.search(re.sub(r"(^|\s)#.*", "", line)))]


def test_all_pages_have_commands():
    assert sum(len(commands(page.read_text())) for page in PAGES) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_taken(page: Path):
    for command in dict.fromkeys(commands(page.read_text())):
        for name, value in KNOWN.items():
            command = re.sub(rf'"?\$\{{?{name}\b\}}?"?', value, command)
        _, script, *flags = shlex.split(command, comments=True)
        if script == "tests/" or "FILE..." in flags or script.startswith("tests/"):
            continue
        flags = [flag for flag in flags if flag not in ("...", "[FOLDER]")]
        shortened = "..." in command
        assert takes(script, flags + (["--load", "L", "--corpus", "C"] if shortened else [])), f"{page.name}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", page.read_text()):
        target = target[0] or target[1]
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        assert other.exists(), f"{page.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}, f"{page.name}: {target}"


def test_the_readme_is_read_at_once():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160
