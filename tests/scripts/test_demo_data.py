import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.demo_data import PACKAGES
from xvoken.errors import UserError


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named_with_what_installs_it(package: str, tmp_path: Path, script: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"missing \({package}\); run: pip install --no-deps -r requirements-demo.txt"):
        script("scripts.demo_data", tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
