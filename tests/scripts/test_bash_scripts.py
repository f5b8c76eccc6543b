"""The bash scripts, as one would call them, on the small world."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests import builder
from tests.running import ROOT
from tests.worlds import World

SCRIPTS = sorted(path for folder in ("scripts", "tokenization") for path in (ROOT / folder).glob("*.bash") if path.name != "common.bash")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_is_the_comment_on_top_and_nothing_is_started(script: Path, flag: str, tmp_path: Path, process: Callable):
    for name in ("python", "python3", "ruff", "ty", "unshare"):
        (tmp_path / name).write_text("#!/bin/sh\necho started >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = process("env", f"PATH={tmp_path}:{os.environ['PATH']}", f"VIRTUAL_ENV={tmp_path}", "bash", script.relative_to(ROOT), flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"  bash {script.relative_to(ROOT)}" in done.stdout
    assert "source" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scripts/run_xmatching.bash"], "the first argument is missing: the GPUs"),
        (["scripts/run_xmatching.bash", "one"], "expected different numbers"),
        (["scripts/run_xmatching.bash", "cpu", "", "--tiny"], "the name of the run, is empty"),
        (["scripts/xmatching_benchmark.bash", "0"], "two arguments are needed"),
        (["scripts/xmatching_benchmark.bash", "0", "nobody"], "snap/xmatching/nobody: no such snapshot; train it with: OUTPUT="),
        (["scripts/xmatching_benchmark.bash", "one", "xmatching/"], "expected different numbers"),
        (["scripts/build_context.bash", "cpu", "--k", "4"], "one argument is taken"),
        (["scripts/extract_keys.bash", "one", "NAME"], "expected different numbers"),
        (["scripts/run_xmatching.bash", "--tiny"], "the GPUs come first"),
        (["scripts/mpvokenize_reddit.bash", "cpu", "nobody"], "snap/xmatching/nobody"),
    ],
)
def test_a_mistake_in_the_call_is_one_line_and_code_2(arguments: list[str], said: str, process: Callable):
    done = process("bash", *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr


TAKEN = """
source scripts/common.bash
take_arguments "$@"
printf '%s|%s|%s|%s' "$PROCESSES" "$RUN" "${#FLAGS[@]}" "${FLAGS[*]}"
"""


@pytest.mark.parametrize(
    ("arguments", "taken"),
    [
        ([], "||0|"),
        (["--limit", "5"], "||2|--limit 5"),
        (["cpu"], "1||0|"),
        (["cpu", "--limit", "5"], "1||2|--limit 5"),
        (["cpu", "bert_resnext"], "1|snap/xmatching/bert_resnext|0|"),
        (["cpu", "my/run", "--limit", "a b"], "1|my/run|2|--limit a b"),
    ],
)
def test_gpus_and_name_are_taken_as_vokenization_takes_them(arguments: list[str], taken: str, process: Callable):
    done = process("bash", "-c", TAKEN, "bash", *arguments)
    assert (done.returncode, done.stdout) == (0, taken), done.stderr


@pytest.mark.slow
def test_training_by_the_words_that_other_stages_take(world: World, tmp_path: Path, process: Callable):
    """The second word is the run's name, as in Vokenization, or a path."""
    flags = world.train_flags(tmp_path, "--epochs", 1)
    at = flags.index("--output")
    del flags[at : at + 2]
    done = process("bash", "scripts/run_xmatching.bash", "auto", tmp_path / "m", *flags, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stderr
    assert (tmp_path / "m/BEST.safetensors").exists()
    done = process("bash", "scripts/run_xmatching.bash", "cpu", "m", *flags, OUTPUT=str(tmp_path / "m"))
    assert done.returncode == 2 and "the run is named twice" in done.stderr


@pytest.mark.slow
def test_training_on_gpus_that_this_machine_has_not_runs_on_the_cpu(world: World, tmp_path: Path, process: Callable):
    flags = world.train_flags(tmp_path / "m", "--epochs", 1)
    done = process("bash", "scripts/run_xmatching.bash", "0,1", *flags, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    assert "no GPU on this machine" in done.stderr
    assert (tmp_path / "m/BEST.safetensors").exists()


@pytest.mark.slow
def test_a_mistake_in_two_processes_is_one_line_and_code_2(world: World, tmp_path: Path, process: Callable):
    done = process("bash", "scripts/run_xmatching.bash", "0,1", "--lxmert-root", tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("no GPU")]
    assert len(said) == 1, done.stderr
    assert "mscoco_train.json does not exist" in said[0]


@pytest.mark.slow
def test_tokenizing_and_retrieving_reddit(world: World, keyed: Path, tmp_path: Path, process: Callable):
    for split in ("valid", "test", "train"):
        (tmp_path / f"{split}.pkl.txt").write_text(f"a red circle\tin {split}\n\n")
    places = {"DATA_DIR": str(tmp_path), "IMAGE_SETS": "shapes_train"}
    done = process(
        "bash", "tokenization/tokenize_reddit_bert.bash", "--num-workers", 1, TOKENIZER=str(world.bert), LOAD=str(keyed), **places
    )
    assert done.returncode == 0, done.stderr
    output = tmp_path / "vokens"
    done = process("bash", "scripts/mpvokenize_reddit.bash", "cpu", keyed, "--output", output, "--num-workers", 1, LOAD="another", **places)
    assert done.returncode == 0, done.stderr
    for split in ("valid", "test", "train"):
        first, second, end = (output / f"{split}.pkl.txt.shapes_train").read_text().split("\n")
        assert len(first.split("\t")) == 5
        assert second == end == ""


@pytest.mark.slow
def test_tokenizing_and_retrieving_wikipedia(world: World, keyed: Path, tmp_path: Path, process: Callable):
    for split in ("valid", "test", "train"):
        (tmp_path / f"wiki.{split}.raw").write_text(f" = Title = \n\n a red circle in {split} \n short \n")
    places = {"DATA_DIR": str(tmp_path), "IMAGE_SETS": "shapes_train"}
    tokenize = ["bash", "tokenization/tokenize_wiki103_bert.bash", "--num-workers", 1, "--no-sentences"]
    done = process(*tokenize, TOKENIZER=str(world.bert), **places)
    assert done.returncode == 0, done.stderr
    output, flags = tmp_path / "vokens", ["--output", tmp_path / "vokens", "--num-workers", 1]
    done = process("bash", "scripts/mpvokenize_wiki103.bash", "cpu", f"{keyed}/", *flags, **places)
    assert done.returncode == 2 and "wiki.valid.raw.tiny-bert.sent does not exist; to have sentences, tokenize again: rm" in done.stderr
    (tmp_path / "wiki.test.raw.tiny-bert.hdf5").unlink()  # of three files the first is done, and the second ends it
    done = process("bash", "scripts/mpvokenize_wiki103.bash", "cpu", f"{keyed}/", *flags, "--no-sentences", **places)
    assert done.returncode == 2 and "wiki.test.raw.tiny-bert.hdf5 does not exist; make it with: " in done.stderr
    texts = [path for path in output.iterdir() if path.name.startswith("wiki.") and path.with_name(f"{path.name}.hdf5").exists()]
    assert [path.name for path in texts] == ["wiki.valid.raw.shapes_train.18"] and texts[0].read_text().count("\n") == 1


@pytest.mark.slow
def test_judging_a_matcher(world: World, keyed: Path, tmp_path: Path, process: Callable):
    """By its folder here; the log is written when all tables are there, and the same when run again; nothing is removed."""
    shutil.copytree(keyed, tmp_path / "m")
    (tmp_path / "m/notes.txt").write_text("mine")
    flags = [*world.roots, "--cache", world.folder / "cache", "--num-workers", 1]
    judge = ["bash", "scripts/xmatching_benchmark.bash", "cpu", tmp_path / "m", *flags]
    done = process(*judge, IMAGE_SETS="shapes_valid,shapes_none")
    assert done.returncode == 2 and len([line for line in done.stderr.splitlines() if "error" in line]) == 1, done.stderr
    assert not [path for path in (tmp_path / "m").iterdir() if "analysis" in path.name]
    done = process(*judge, IMAGE_SETS="shapes_valid,shapes_train")
    assert done.returncode == 0, done.stderr
    log = (tmp_path / "m/analysis.log").read_text()
    assert done.stdout == f"{log}wrote {tmp_path}/m/analysis.log\n"
    assert [line.split(":")[0] for line in log.splitlines() if "captions" in line] == ["shapes_valid", "shapes_train"]
    assert log.count("chance") == 4 and log.count("mAP@R") == log.count("rsum") == 2
    again = process(*judge, IMAGE_SETS="shapes_valid,shapes_train")
    assert (again.stdout, again.stderr.count("skipped")) == (done.stdout, 2)
    assert (tmp_path / "m/analysis.log").read_text() == log and (tmp_path / "m/notes.txt").read_text() == "mine"
    roots = " ".join(map(str, world.roots))
    both = process(*judge, IMAGE_SETS="shapes_valid,shapes_train", CORPORA="shapes_valid", CORPORA_FLAGS=roots)
    assert both.returncode == 0 and "Gini coefficient" in both.stdout, both.stderr
    assert (tmp_path / "m/analysis.log").read_text().startswith(log)
    assert (tmp_path / "m/analysis.log").stat().st_mode == (tmp_path / "m/notes.txt").stat().st_mode


@pytest.mark.slow
def test_from_a_folder_and_sentences_to_a_page(tmp_path: Path, process: Callable):
    """Again only what has changed; names that bash would take apart stay whole."""
    album, output = tmp_path / "my photos $(touch oops)", tmp_path / "found; it's here"
    builder.save_pictures(album, {name: (40 + 3 * number, 30) for number, name in enumerate("abc")})
    (tmp_path / "lines.txt").write_text("a red dog\n\nthe sky over a house\n")
    builder.save_clip(tmp_path / "clip")
    flags = ["--model", tmp_path / "clip", "--images", album, "--output", output, "--topk", 2, "--device", "cpu"]

    def find(texts: object) -> str:
        done = process("bash", "scripts/find.bash", *flags, "--texts", texts)
        assert done.returncode == 0, done.stderr
        page = Path(unquote(urlsplit(done.stdout.split()[-1]).path))
        assert page.parent == output and page.is_file()
        return done.stdout + done.stderr

    assert "3 lines and 3 pictures" in find(tmp_path / "lines.txt")
    assert find(tmp_path / "lines.txt").count("skipped: ") == 4
    said = find("a red dog")
    assert said.count("skipped: ") == 1 and "1 line" in said  # the keys stay
    assert not (tmp_path / "oops").exists() and not (Path(ROOT) / "oops").exists()
