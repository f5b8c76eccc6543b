"""The rule of the house, from the imports alone: who may know whom. docs/architecture.md says why."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from tests.running import ROOT

STAGES = ("xmatching", "tokenization", "vokenization", "ctx", "scripts")
# The rooms that each room may import from, besides itself and the loose modules; of pictures, files know the sources only.
MAY = {
    "pictures": set(),
    "files": {"pictures.sources"},
    "work": {"files"},
    "search": {"files"},
    "towers": {"files", "pictures"},
    "encoders": {"files", "pictures", "towers"},
    "cache": {"files", "pictures", "towers", "encoders", "work"},
    "ask": {"files", "pictures", "towers", "encoders", "search", "cache", "work"},
    "pages": {"files", "pictures", "work"},
    "serve": {"files", "pictures", "towers", "encoders", "search", "work", "ask", "pages"},
    "cli": {"files", "pictures", "towers", "encoders", "search", "cache", "work", "ask", "pages", "serve"},
}
HEAVY = {"torch", "torchvision", "transformers", "faiss"}
LIGHT = {"files", "work", "cli"}  # rooms whose modules import nothing heavy at their top, as the loose ones
FILES = {top: sorted((ROOT / top).rglob("*.py")) for top in ("xvoken", *STAGES)}
NAMES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for top in FILES for path in FILES[top]}


def imports(path: Path, at_top: bool = False) -> set[str]:
    """What a file imports, modules and names in them; at_top: not what only its functions import, or type checkers."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_top else ast.walk(tree)
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    nodes = tree.body if at_top else ast.walk(tree)
    named = [(node.module, alias.name) for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return plain | {module for module, _ in named} | {f"{module}.{name}" for module, name in named}


def room(name: str) -> str:
    """`files` for xvoken.files and xvoken.files.keys, empty for the loose modules."""
    return name.split(".")[1] if name.count(".") > 1 or name.split(".")[-1] in MAY else ""


def test_who_knows_whom():
    for name, path in NAMES.items():
        known = imports(path) & set(NAMES)
        if not name.startswith("xvoken"):
            scripts = {other for other in known if "__main__" in NAMES[other].read_text()}
            assert not {other for other in scripts if other.split(".")[0] not in (name.split(".")[0], "xvoken")}, name
            continue
        assert not {other for other in known if other.split(".")[0] in STAGES}, name
        allowed = MAY.get(room(name), set()) | {room(name)}
        others = {other for other in known if room(other) not in allowed | {""} and other.removeprefix("xvoken.") not in allowed}
        assert not others or name == "xvoken", f"{name} knows {others}"  # the public names are loaded when they are used
        assert len(path.read_text().splitlines()) <= 300, f"{name} is too long to be read at once"


def test_no_circles():
    TopologicalSorter({name: (imports(path) & set(NAMES)) - {name, "xvoken"} for name, path in NAMES.items()}).prepare()


def test_the_library_is_silent_and_knows_no_flags():
    for path in FILES["xvoken"]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        said = [node.lineno for node in calls if getattr(node.func, "id", "") in ("print", "say")]
        assert not said or path.stem in ("console", "interrupts") or path.parent.name == "cli", f"{path} prints in line {said[0]}"
        assert "argparse" not in imports(path) or path.parent.name == "cli", path


def test_light_modules_import_nothing_heavy():
    for name, path in NAMES.items():
        if name.startswith("xvoken") and (room(name) in LIGHT | {""} or name == "xvoken.pictures.sources") and name != "xvoken.recall":
            tops = {found.split(".")[0] for found in imports(path, at_top=True)}
            assert not tops & HEAVY, f"{name}: {tops & HEAVY}"


def drawing() -> str:
    """The rooms and stages, and an arrow from each to those that it imports from; the loose modules, known to all, are left out."""

    def place(name: str) -> str:
        return room(name) if name.startswith("xvoken") else name.split(".")[0]

    arrows = {
        (place(name), place(other))
        for name, path in NAMES.items()
        for other in imports(path) & set(NAMES)
        if name != "xvoken" and place(name) and place(other) not in ("", place(name))
    }
    # What is reached by way of another place is not drawn once more.
    over: dict[str, set[str]] = {}
    for one, other in arrows:
        over.setdefault(one, set()).add(other)

    def below(one: str) -> set[str]:
        return {found for other in over.get(one, set()) for found in {other} | below(other)}

    kept = [(one, other) for one, other in sorted(arrows) if not any(other in below(way) for way in over[one] - {other})]
    return "```mermaid\ngraph TD\n" + "".join(f"  {one} --> {other}\n" for one, other in kept) + "```\n"


def test_the_drawing_is_that_of_the_imports():
    assert drawing() in (ROOT / "docs/architecture.md").read_text(), f"put this into docs/architecture.md:\n{drawing()}"
