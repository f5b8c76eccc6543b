"""What mutmut found, by module: how many mutants the tests kill, and which live. Exit code 1 where a module's share is below what is asked.

scripts/mutants.bash calls it, where the folder mutants/ is. For mutmut it is a plugin of pytest, too.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ASKED = 90  # percent of the mutants of each module
KILLED, TIMED_OUT = (1, 3), (24, -24, 36, 152, 255)  # exit codes that mutmut keeps; all others live: passed, tested by nothing, never run


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """The test that starts processes, which takes seconds, comes last: most mutants are found by another one before."""
    items.sort(key=lambda item: item.nodeid.endswith("stops_the_run[2]"))


def read(folder: Path) -> dict[str, dict[str, int | None]]:
    """Exit code of each mutant, by module, of all modules that have any."""
    found = {}
    for path in sorted(folder.rglob("*.py.meta")):
        if codes := json.loads(path.read_text(encoding="utf-8"))["exit_code_by_key"]:
            found[path.relative_to(folder).as_posix().removesuffix(".meta")] = codes
    return found


def report(modules: dict[str, dict[str, int | None]]) -> tuple[list[str], bool]:
    """The lines of a table and of those that live, and whether every module has its share."""
    lines, alive, enough = ["| module | mutants | killed | | timeouts | live |", "| --- | --- | --- | --- | --- | --- |"], [], bool(modules)
    for module, codes in modules.items():
        killed, late = (sum(code in kind for code in codes.values()) for kind in (KILLED, TIMED_OUT))
        share = 100 * killed / len(codes)
        lines.append(f"| `{module}` | {len(codes)} | {killed} | {share:.1f}% | {late} | {len(codes) - killed - late} |")
        alive += [name for name, code in codes.items() if code not in KILLED + TIMED_OUT]
        enough = enough and share >= ASKED
    return [*lines, "", *(f"lives: {name}   (mutmut show {name})" for name in alive)], enough


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Print what mutmut found, by module; exit code 1 if a module falls short.")
    parser.add_argument("folder", type=Path, nargs="?", default=Path("mutants"), help="what mutmut has written (default: %(default)s)")
    lines, enough = report(read(parser.parse_args(argv).folder))
    print("\n".join(lines))
    sys.exit(not enough)


if __name__ == "__main__":
    main()
