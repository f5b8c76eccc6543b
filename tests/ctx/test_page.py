import shutil
from pathlib import Path

from tests import builder
from tests.running import run_here, run_script
from tests.xvoken.pages.test_pages import array, chunk
from xvoken.files.context import Context


def test_page_of_a_context_file(tmp_path: Path):
    builder.save_clip(tmp_path / "model")
    builder.save_pictures(tmp_path / "photos", {"a": (80, 60), "b": (30, 70), "c": (40, 40)})
    (tmp_path / "phrases.txt").write_text("\n".join(builder.phrases(12)) + "\n")
    run_script("encode_captions", tmp_path, "--model", "model", "--captions", "phrases.txt")
    run_script("build_context", tmp_path, "--model", "model", "--images", "photos", "--k", 4)
    file = tmp_path / "outputs/retrieved_captions/txt_ctx.hdf5"
    shutil.move(tmp_path / "photos/c.png", tmp_path / "c.png")

    def page(*flags: object, code: int = 0) -> str:
        done = run_here("ctx/page.py", *flags, cwd=tmp_path)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    told = page("--images", "photos", "--k", 3)
    assert "wrote 3 pictures with their phrases to outputs/retrieved_captions/txt_ctx.page.html" in told
    assert "<title>photos</title>" in file.with_suffix(".page.html").read_text()
    assert "warning: the pictures given are not all as they were" in told and "c: not among the pictures given" in told
    data = next(path for path in file.with_suffix(".page").iterdir() if path.name != "thumbs")
    lines, views = [line.split("\t") for line in chunk(data, "text.0").split("\n")], chunk(data, "views.0")
    which, scores = array(views["which"], "<i4").reshape(3, 15, 3), array(views["scores"], "<f4").reshape(3, 15, 3)
    for number, name in enumerate("abc"):
        assert lines[number][0] == name
        for view, crops in (("whole", slice(0, 1)), ("five", slice(1, 6)), ("nine", slice(6, 15))):
            item = Context(file, view, k=3)[number]
            texts = [item["texts"]] if view == "whole" else item["texts"]
            assert [[lines[number][i] for i in crop] for crop in which[number, crops].tolist()] == texts
            assert scores[number, crops].reshape(item["scores"].shape).tolist() == item["scores"].tolist()
    shutil.move(tmp_path / "c.png", tmp_path / "photos/c.png")
    assert "warning" not in page("--images", "photos", "--k", 3)
    assert "skipped" in page("--images", "photos", "--k", 3)
