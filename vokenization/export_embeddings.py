"""Write keys in the layout that clip-retrieval and autofaiss read.

    python vokenization/export_embeddings.py --load snap/xmatching/NAME --image-sets open_images

reads   snap/xmatching/NAME/keys/{IMAGE_SET}.hdf5, .ids, .path; captions of sets in the LXMERT layout
writes  snap/xmatching/NAME/export/{IMAGE_SET}/img_emb/img_emb_0000.npy: float16 (n, dim), each row of length 1
        snap/xmatching/NAME/export/{IMAGE_SET}/metadata/metadata_0000.parquet: image_path, caption, one row per key
The numbers in file names are padded with zeros, because readers take the files in the order of their names.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np

from xvoken import commands
from xvoken.cli.flags import LOAD, Help, Parser, add_roots_flags, at_least_one, names, roots_of
from xvoken.cli.main import run_main
from xvoken.encoders.identity import identify
from xvoken.errors import UserError
from xvoken.files import keys as key_files
from xvoken.files.image_sets import Roots, listed_sets, lxmert_file, read_captioned, split_name
from xvoken.files.locks import sole_writer
from xvoken.files.safe import all_written, quoted, replacing, save_array


def captions_of(name: str, langs: list[str], roots: Roots) -> dict[str, str]:
    """The first caption of each picture, by id; {} for a set without captions."""
    if not lxmert_file(name, roots).exists():
        return {}
    read, first = read_captioned(name, langs, roots), {}
    for picture, text in read.captions:
        first.setdefault(read.ids[picture], text)
    return first


def load_pyarrow() -> tuple[Any, Any]:
    """pyarrow and its parquet module; raises UserError if they are not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(f"parquet files need pyarrow; run: {commands.install('export')}") from None
    return pyarrow, pyarrow.parquet


def export(keys: key_files.Keys, captions: dict[str, str], folder: Path, rows_a_file: int) -> int:
    """Write one image set; returns the number of files of each kind."""
    pa, pq = load_pyarrow()
    starts = range(0, len(keys.ids), rows_a_file)
    digits = max(4, len(str(len(starts))))
    numbers = [f"{number:0{digits}d}" for number in range(len(starts))]
    files = [(folder / f"img_emb/img_emb_{number}.npy", folder / f"metadata/metadata_{number}.parquet") for number in numbers]
    written = [path for pair in files for path in pair]
    with sole_writer(folder / "img_emb", folder):
        no_others(folder, set(written))
        for start, (array, table) in zip(starts, files, strict=True):
            rows = slice(start, start + rows_a_file)
            save_array(array, keys.keys[rows].astype(np.float16))
            columns = {"image_path": keys.paths[rows], "caption": [captions.get(i, "") for i in keys.ids[rows]]}
            with replacing(table) as temporary:
                pq.write_table(pa.table(columns), temporary)
        all_written(*written)
    return len(starts)


def no_others(folder: Path, files: set[Path]) -> None:
    """Raise UserError if the folder has files of another export: readers would take them too."""
    there = {*folder.glob("img_emb/img_emb_*.npy"), *folder.glob("metadata/metadata_*.parquet")}
    if others := sorted(there - files):
        mend = f"remove them, or take another --output: rm -r {quoted(folder)}"
        raise UserError(f"{others[0]} belongs to another export ({len(others)} such files), and readers take all that they find; {mend}")


def keys_of(load: str) -> Path:
    """The folder of the keys: in a folder that has some, else where all stages look for this model's."""
    own = key_files.folder(Path(load))
    return own if any(own.glob("*.hdf5")) else key_files.folder(identify(load).home)


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Write keys in the layout that clip-retrieval and autofaiss read.", formatter_class=Help)
    parser.add_argument("--load", required=True, help=LOAD)
    parser.add_argument("--image-sets", default="open_images", help="image sets, separated by commas")
    parser.add_argument("--keys-dir", type=Path, help="folder of the keys (default: keys/ in the snapshot)")
    parser.add_argument("--output", type=Path, help="folder to write to (default: export/ in the snapshot)")
    parser.add_argument("--rows-per-file", type=at_least_one, default=1_000_000, help="keys per file")
    parser.add_argument("--langs", type=names, default="mscoco", help="sources of sentences (keys of sentf), separated by commas")
    add_roots_flags(parser)
    args = parser.parse_args(argv)
    keys_dir = args.keys_dir or keys_of(args.load)
    for image_set in listed_sets([args.image_sets]):
        name, _ = split_name(image_set)
        key_files.require(keys_dir, name, args.load)
        keys = key_files.read(keys_dir, name)
        folder = (args.output or keys_dir.parent / "export") / name
        files = export(keys, captions_of(name, args.langs, roots_of(args)), folder, args.rows_per_file)
        print(f"wrote {len(keys.ids):,} keys of {keys.keys.shape[1]} dimensions to {folder} ({files} .npy and .parquet)")


if __name__ == "__main__":
    run_main(main)
