import json
from pathlib import Path

from scripts.mutants import read, report


def test_what_lives_is_counted_and_named(tmp_path: Path):
    """Killed are failures and pytest's own errors alone: not what no test ran, nor what ended for lack of time."""
    for name, codes in (("xvoken/a", [1] * 17 + [3, 0, 36]), ("xvoken/files/b", [1] * 7 + [33, None, -9]), ("xvoken/none", [])):
        path = tmp_path / f"{name}.py.meta"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"exit_code_by_key": {f"{path.stem}.{number}": code for number, code in enumerate(codes)}}))
    modules = read(tmp_path)
    lines, enough = report(modules)
    assert lines[2:4] == ["| `xvoken/a.py` | 20 | 18 | 90.0% | 1 | 1 |", "| `xvoken/files/b.py` | 10 | 7 | 70.0% | 0 | 3 |"]
    assert [line.split()[1] for line in lines[5:]] == ["a.py.18", "b.py.7", "b.py.8", "b.py.9"] and not enough
    assert report({"xvoken/a.py": modules["xvoken/a.py"]})[1] and not report({})[1]
