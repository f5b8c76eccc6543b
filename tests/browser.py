"""Chromium, as tests and benchmarks use pages in it, and what axe-core finds on a page."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

# What Chromium would ask of other places by itself is switched off.
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
)  # fmt: skip
SERIOUS = """axe.run().then(found => found.violations.filter(one => ["serious", "critical"].includes(one.impact)).map(
    one => `${one.id}: ${one.nodes[0].html}`))"""


@contextmanager
def chromium() -> Generator[Any]:
    """A browser of Playwright's, from Debian's package."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        yield browser
        browser.close()


@contextmanager
def required_chromium() -> Generator[Any]:
    """As `chromium`, for a fixture: without one, tests are skipped with the reason, in CI they fail."""
    if not shutil.which("chromium"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no browser here; apt-get install chromium")
    with chromium() as browser:
        yield browser


def violations(page: Any) -> list[str]:
    """What axe-core finds serious or critical on a page; evaluated, as a page's policy may forbid scripts to be added."""
    if not page.evaluate("'axe' in window"):
        page.evaluate(next(Path(str(files("axe_playwright_python"))).glob("**/axe.min.js")).read_text())
    return page.evaluate(SERIOUS)
