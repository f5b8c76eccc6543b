"""Check files that stages wrote: read them whole, compare them with each other, and describe their content.

    xvoken check snap/xmatching/NAME snap/xmatching/NAME/keys/open_images.hdf5 data/reddit/valid.pkl.txt.bert-base-uncased.hdf5

reads   snapshots (folders), .hdf5 files of any stage with their companion files, .ids files of image sets, .faiss indexes, .hubness.npy
The content of an .hdf5 file decides which stage's file it is. Retrieved images are compared with the tokens given with them or in
their folder, tokens with the text in their folder. The first fault found is reported, with exit code 2.
"""

from collections.abc import Sequence
from pathlib import Path

from xvoken.cli.flags import Parser
from xvoken.cli.main import PATH_FAULTS
from xvoken.encoders import snapshot
from xvoken.errors import UserError, one_line
from xvoken.files import context as context_files
from xvoken.files import corpus, hubness, image_ids, indexes, keys, vokens
from xvoken.files import phrases as caption_db
from xvoken.files.hdf5 import open_hdf5
from xvoken.files.safe import quoted


def check(path: Path, given: Sequence[Path] = ()) -> str:
    """Check `path` and describe its content; raises UserError for a fault, or for a file of no stage. given: all files being checked."""
    try:
        return _check(path, given)
    except UserError:
        raise
    except Exception as error:  # reading a file of another kind can raise anything
        if getattr(error, "errno", None) in PATH_FAULTS:
            raise
        reason = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise UserError(f"{path}: not as a stage writes it ({reason}); if a stage wrote it, remove it and run that stage again") from None


def _check(path: Path, given: Sequence[Path]) -> str:
    if path.is_dir() or path.suffix == ".safetensors":
        return snapshot.check(path)
    if path.suffix == ".ids":
        return image_ids.check(path.parent, path.stem)
    if path.suffix == ".faiss":
        return indexes.check(path)
    if path.name.endswith(hubness.ENDING):
        return hubness.check(path)
    if path.suffix != ".hdf5":
        raise UserError(f"{path}: expected a snapshot's folder, an .hdf5 file, an image set's .ids, a .faiss index or a {hubness.ENDING}")
    with open_hdf5(path, "the stage that writes it") as file:
        names, visual = set(file), "fdim" in file.attrs
    if not names:
        raise UserError(f"{path}: an empty hdf5 file; if a stage wrote it, remove it and run that stage again")
    stem = path.name.removesuffix(".hdf5")
    if "tokens" in names:
        name, _, tokenizer = _split(stem, path.parent)
        return corpus.check(path.parent / name, tokenizer)
    if "indices" in names:
        _same_lines(path, given)
        return vokens.check(path.parent, *stem.rsplit(".", 1))
    if "keys" in names:
        return keys.check(path.parent, stem)
    if visual:
        return context_files.check_visual(path)
    return caption_db.check(path) if "0" in names and "keys" in _group(path) else context_files.check_textual(path)


def _same_lines(path: Path, given: Sequence[Path]) -> None:
    """Compare retrieved images with the tokens and the text of their corpus, given or in the same folder; raises UserError."""
    settings, named, faults = vokens.read_settings(path), [], []
    then, rows = settings.get("corpus"), {key: settings[key] for key in ("filter", "sentences") if key in settings}
    if "vokens_of" in settings:  # revokenized: rows may be sentences by the first tokenizer's tokens, these are the second one's
        rows.pop("sentences", None)
    first_set = next(iter(vokens.read_ids(path.parent, *path.stem.rsplit(".", 1))), "").partition("/")[0]
    for other in dict.fromkeys([*given, *sorted(path.parent.glob("*.hdf5"))]):
        name, _, tokenizer = _split(other.name.removesuffix(".hdf5"), other.parent)
        # The file is named {corpus}.{IMAGE_SET}; another corpus' name may be a prefix of this corpus' name.
        if other.suffix == ".hdf5" and path.name.startswith(f"{name}.{first_set}") and _holds_tokens(other):
            try:
                named.append(corpus.Corpus(other.parent / name, tokenizer, sentences="sentences" in rows))
                corpus.same_text(other.parent / name, path, then, f"rm {quoted(path)} && {vokens.MAKE} (and the flags it had)")
            except UserError as error:  # two folders may each have a train.pkl.txt, and the images belong to one of them
                faults.append(error)
                continue
            if named[-1].identity == then and named[-1].row_settings == rows:
                return
    if faults:
        raise faults[0]
    if then and named:
        mend = f"make them again with: {vokens.MAKE} (and the flags it had), after: rm {quoted(path)}"
        what = f"other {named[0].rows.noun}s than those of {named[0].path}"
        raise UserError(f"{path}: its images are of {what}; {mend}")


def _holds_tokens(path: Path) -> bool:
    try:
        with open_hdf5(path, "the stage that writes it") as file:
            return "tokens" in file
    except UserError:
        return False  # a file of another kind with such a name


def _split(stem: str, folder: Path) -> tuple[str, str, str]:
    """`train.pkl.txt.bert-base-uncased` -> corpus, ".", tokenizer; corpus: the longest beginning that names a file in the folder."""
    for cut in sorted((i for i, char in enumerate(stem) if char == "."), reverse=True):
        if (folder / stem[:cut]).is_file():
            return stem[:cut], ".", stem[cut + 1 :]
    return stem.rpartition(".")


def _group(path: Path) -> set[str]:
    with open_hdf5(path, "the stage that writes it") as file:
        return set(file["0"])


def main(argv: list[str] | None = None) -> None:
    """Check the files named on the command line, and print a line for each."""
    parser = Parser(description="Check files that stages wrote, and describe their content.")
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        help="snapshots' folders, .hdf5 files of any stage, image sets' .ids files, .faiss indexes, .hubness.npy files",
    )
    paths = parser.parse_args(argv).paths
    for path in paths:
        print(f"{path}: {check(path, paths)}")
