"""The commands that error messages name are taken by the scripts that they name."""

import inspect
import shlex
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.parsing import takes
from xvoken import commands

# For parameters that have no default, and for those that change what is named.
GIVEN = {
    "fix_order": [("openmoji",), ("mine=my folder/{00000..00099}.tar",)],
    "extract_keys": [("snap/xmatching/best", "mine"), ("openai/clip-vit-base-patch32", "mine", Path("my keys"))],
    "evaluate": [("snap/xmatching/best", "mine")],
    "demo_data": [(Path("data/demo"),)],
    "tokenize": [(), (Path("my data/lines.txt"), "minilm", 5)],
    "encode_captions": [(), ("models/clip", "other")],
    "vokenize": [(), ("snap/xmatching/best", Path("my data/lines.txt"), "mine,yours")],
    "install": [(), ("requirements-ray.txt",)],
}
NAMED = [name for name, found in vars(commands).items() if inspect.isfunction(found) and found.__module__ == commands.__name__]
CALLS = [(name, given) for name in NAMED if name[0] != "_" for given in GIVEN.get(name, [()])]


@pytest.mark.parametrize(("name", "given"), CALLS)
def test_its_script_takes_it(name: str, given: tuple):
    program, *words = shlex.split(getattr(commands, name)(*given))
    if program == "pip":
        assert words[:2] == ["install", "-r"] and all((ROOT / word).is_file() for word in words if word.endswith(".txt"))
        return
    script, *flags = words
    assert takes(script, flags)
