"""Shares of a work: any order and number of them gives the bytes of one run."""

import argparse
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from xvoken.cli.flags import add_engine_flags, engine_of
from xvoken.errors import UserError
from xvoken.machine import LOCAL, Engine
from xvoken.work.parts import Parts, remove_leftover


@dataclass
class Cubes:
    def setup(self, device: str) -> None:
        self.device = device

    def run(self, start: int, stop: int, part: Path) -> dict[str, Any]:
        part.with_suffix(".txt").write_text("".join(f"{i**3}\n" for i in range(start, stop)))
        return {}


EXPECTED = "".join(f"{i**3}\n" for i in range(23))


def cubes(output: Path, engine: Engine = LOCAL) -> bool:
    """Run one engine; returns whether it was the one that joined."""
    with Parts(output, 23, 4, {"of": "integers"}, engine=engine) as parts:
        if not parts.run(Cubes(), ["cpu"], "cubes", "n"):
            return False
        assert not output.exists(), "joined twice"
        output.write_text("".join(parts.part(n).with_suffix(".txt").read_text() for n in range(len(parts.ranges))))
    return True


@pytest.mark.parametrize("shares", [1, 2, 3, 8])
def test_who_ends_last_joins(tmp_path: Path, shares: int) -> None:
    output = tmp_path / "cubes"
    joined = [cubes(output, Engine(share=(share, shares))) for share in range(shares, 0, -1)]  # of 8, two have nothing to do
    assert joined == [False] * (shares - 1) + [True]
    assert output.read_text() == EXPECTED and not (tmp_path / "cubes.parts").exists()


def test_shares_at_the_same_time_join_once(tmp_path: Path) -> None:
    output, joined = tmp_path / "cubes", []
    threads = [threading.Thread(target=lambda i=i: joined.append(cubes(output, Engine(share=(i, 3))))) for i in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(joined) == [False, False, True]
    assert output.read_text() == EXPECTED


@contextmanager
def joining(output: Path) -> Iterator[Parts]:
    """Two shares done, the second one about to join."""
    cubes(output, Engine(share=(1, 2)))
    with Parts(output, 23, 4, {"of": "integers"}, engine=Engine(share=(2, 2))) as parts:
        assert parts.run(Cubes(), ["cpu"], "cubes", "n")
        yield parts


def started_again(output: Path, share: int) -> tuple[threading.Thread, list[bool]]:
    """A share on its own thread, when it waits; and what it will have returned."""
    joined: list[bool] = []
    thread = threading.Thread(target=lambda: joined.append(cubes(output, Engine(share=(share, 2)))))
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and not joined
    return thread, joined


@pytest.mark.parametrize("share", [1, 2])
def test_a_share_waits_for_the_one_that_joins(tmp_path: Path, share: int, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "cubes"
    with joining(output):
        thread, joined = started_again(output, share)
        output.write_text(EXPECTED)
    thread.join()
    assert joined == [False] and [path.name for path in tmp_path.iterdir()] == ["cubes"]
    assert re.search(r"waiting for another run .*\n.*cubes: joined by another share\n", capsys.readouterr().err)


def test_a_share_joins_when_the_one_before_it_has_failed_to(tmp_path: Path) -> None:
    output = tmp_path / "cubes"
    with pytest.raises(KeyboardInterrupt), joining(output):
        thread, joined = started_again(output, 1)
        raise KeyboardInterrupt
    thread.join()
    assert joined == [True] and output.read_text() == EXPECTED


def test_a_finished_output_whose_parts_are_still_held_is_no_mistake(tmp_path: Path) -> None:
    output = tmp_path / "cubes"
    with joining(output) as parts:
        output.write_text(EXPECTED)
        remove_leftover(output)
        assert parts.folder.exists()
    assert not parts.folder.exists()


def test_join_waits_for_all_shares_and_joins_what_is_there(tmp_path: Path) -> None:
    output = tmp_path / "cubes"
    with pytest.raises(UserError, match="6 of 6 parts are missing, the first is 0"):
        cubes(output, Engine(join=True))
    assert not list(tmp_path.iterdir())
    assert not cubes(output, Engine(share=(1, 2)))
    with pytest.raises(UserError, match="3 of 6 parts are missing, the first is 1; run the shares that are to do them"):
        cubes(output, Engine(join=True))
    with Parts(output, 23, 4, {"of": "integers"}, engine=Engine(share=(2, 2))):
        for engine in (LOCAL, Engine(join=True), Engine(share=(2, 2))):
            with pytest.raises(UserError, match="another run"):
                cubes(output, engine)
    assert cubes(output, LOCAL) and output.read_text() == EXPECTED  # a plain run does what is left


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--part 1", "together"),
        ("--part 3 --parts 2", "from 1 to"),
        ("--join --part 1 --parts 2", "only joins"),
        ("--ray-address x:1", "--engine"),
    ],
)
def test_flags_that_do_not_go_together(flags: str, message: str) -> None:
    parser = argparse.ArgumentParser()
    add_engine_flags(parser)
    with pytest.raises(UserError, match=message):
        engine_of(parser.parse_args(flags.split()))
    assert engine_of(parser.parse_args(["--part", "2", "--parts", "2"])).share == (2, 2)


def test_joining_with_other_settings_leaves_no_plan(tmp_path: Path):
    """The shares would be held against it."""
    with pytest.raises(UserError, match="parts are missing"):
        cubes(tmp_path / "out", Engine(join=True))
    assert not (tmp_path / "out.parts/plan.json").exists()
