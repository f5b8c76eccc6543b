"""The demo's other direction: phrases and pictures chosen once, and the page's part with the crops drawn in."""

import json
import re
from html.parser import HTMLParser

import pytest

from scripts import demo_context
from tests import builder
from tests.running import run_script


@pytest.fixture
def demo(tmp_path):
    names = {"train": ["red heart"], "valid": ["blue <b>heart</b>"], "heldout": ["cat", "dog & co"]}
    for split, texts in names.items():
        rows = [{"img_id": f"{split}_{i}", "sentf": {"openmoji": [text]}} for i, text in enumerate(texts)]
        (tmp_path / "lxmert").mkdir(exist_ok=True)
        (tmp_path / f"lxmert/openmoji_{split}.json").write_text(json.dumps(rows))
    builder.save_pictures(tmp_path / "images", {"heldout_0": (80, 60), "heldout_1": (30, 70)})
    demo_context.prepare(tmp_path)
    return tmp_path


def test_phrases_are_all_names_and_pictures_the_held_out_ones(demo, capsys):
    assert (demo / "context/phrases.txt").read_text().splitlines() == ["blue <b>heart</b>", "cat", "dog & co", "red heart"]
    assert sorted(p.name for p in (demo / "context/images").iterdir()) == ["heldout_0.png", "heldout_1.png"]
    demo_context.prepare(demo)
    assert "skipped" in capsys.readouterr().err


def test_section_draws_all_crops_and_escapes(demo, tmp_path_factory):
    work = tmp_path_factory.mktemp("section")
    builder.save_clip(work / "model")
    run_script("encode_captions", work, "--model", "model", "--captions", demo / "context/phrases.txt")
    run_script("build_context", work, "--model", "model", "--images", demo / "context/images", "--k", 4)
    section = demo_context.context_section(work / "outputs/retrieved_captions/txt_ctx.hdf5", demo / "context/images")
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(section)
    assert tags.count("article") == tags.count("img") == 2
    assert section.count('class="crop"') == 2 * 5 and tags.count("li") == 2 * (4 + 5)
    assert "script" not in tags and "blue &lt;b&gt;heart&lt;/b&gt;" in section and "dog &amp; co" in section
    places = re.findall(r"left:([\d.]+)%;top:([\d.]+)%;width:60%;height:60%", section)
    assert places == [("0", "0"), ("40", "0"), ("0", "40"), ("40", "40"), ("20", "20")] * 2
