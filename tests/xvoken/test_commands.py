"""The commands that error messages name are taken by the scripts that they name."""

import inspect
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.parsing import takes
from tests.running import ROOT
from xvoken import commands

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# For parameters that have no default, and for those that change what is named.
GIVEN = {
    "train": [(), ("best",)],
    "fix_order": [("openmoji",), ("mine=my folder/{00000..00099}.tar",)],
    "extract_keys": [("snap/xmatching/best", "mine"), ("openai/clip-vit-base-patch32", "mine", Path("my keys"))],
    "evaluate": [("snap/xmatching/best", "mine")],
    "serve": [("--load", "snap/xmatching/best", "--image-sets", "mine,yours", "--port", 8001), ("--images", "my photos")],
    "split_karpathy": [("dataset_coco.json",)],
    "demo_data": [(Path("data/demo"),)],
    "tokenize": [
        (),
        (Path("my data/lines.txt"), "minilm", 5),
        (Path("a.txt"), "bert", None, "wiki", "spacy"),
        (Path("a.txt"), "bert", 1, "", "lines"),
    ],
    "encode_captions": [(), ("models/clip", "other")],
    "vokenize": [(), ("snap/xmatching/best", Path("my data/lines.txt"), "mine,yours"), ("m", "a.txt", "mine", True)],
    "page_of_context": [(Path("my outputs/txt_ctx.hdf5"), "my photos"), (Path("txt_ctx.hdf5"), None, ["mine", "yours"])],
    "install": [(), *((extra,) for extra in EXTRAS)],
}
NAMED = [name for name, found in vars(commands).items() if inspect.isfunction(found) and found.__module__ == commands.__name__]
CALLS = [(name, given) for name in NAMED if name[0] != "_" for given in GIVEN.get(name, [()])]


@pytest.mark.parametrize(("name", "given"), CALLS)
def test_its_script_takes_it(name: str, given: tuple):
    program, *words = shlex.split(getattr(commands, name)(*given))
    if program == "pip":
        extra = f".[{given[0]}]" if given else None
        assert words[:3] == (["install", "-e", extra] if extra else ["install", "-r", "requirements.txt"])
        assert words[3:] == ["-c", "constraints.txt"] and (ROOT / "requirements.txt").is_file() and (ROOT / "constraints.txt").is_file()
        return
    script, *flags = words
    assert takes(script, flags)
