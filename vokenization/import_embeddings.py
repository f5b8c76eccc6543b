"""Import keys that another tool made with the same model, in the layout of clip-retrieval (and of export_embeddings.py).

    python vokenization/import_embeddings.py --load openai/clip-vit-base-patch32 --image-sets laion --from FOLDER

reads   FOLDER/img_emb/img_emb_*.npy: float16 or float32 (n, dim), files in the order of their names
        FOLDER/metadata/metadata_*.parquet: image_path of each row; without these files, rows are named by their numbers
writes  snap/xmatching/NAME/keys/{IMAGE_SET}.hdf5 (keys float32 (N, dim) of length 1, ids), .ids, .path, .skipped.tsv;
        see xvoken/files/keys.py
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import xvoken.interrupts  # noqa: F401

import numpy as np
from numpy.typing import NDArray

from vokenization.export_embeddings import load_pyarrow
from xvoken.cli.flags import LOAD, Help, Parser
from xvoken.cli.main import run_main
from xvoken.console import progress, say
from xvoken.encoders.identity import Identity, identify
from xvoken.errors import UserError, one_line
from xvoken.files import keys as key_files
from xvoken.files.image_sets import split_name
from xvoken.files.safe import fingerprint, sha256_of_file
from xvoken.work.product import Product

BLOCK = 8192  # rows in memory at once


def listed_files(folder: Path) -> list[tuple[Path, Path | None]]:
    """Each .npy file with its .parquet file (None if there are no .parquet files); raises UserError if either file of a pair is missing."""
    arrays = sorted(folder.glob("img_emb/img_emb_*.npy"))
    if not arrays:
        raise UserError(f"{folder}: no img_emb/img_emb_*.npy in it; give with --from the folder that clip-retrieval inference wrote")
    tables = [folder / "metadata" / f"{path.stem.replace('img_emb', 'metadata', 1)}.parquet" for path in arrays]
    there = set(folder.glob("metadata/metadata_*.parquet"))
    if not there:
        return [(path, None) for path in arrays]
    if odd := sorted(there ^ set(tables)):
        what = "has no .npy file in img_emb" if odd[0] in there else "does not exist"
        raise UserError(f"{odd[0]}: {what}; bring the missing file back, or move metadata away to name rows by their numbers")
    return list(zip(arrays, tables, strict=True))


def open_array(path: Path, dim: int, load: str) -> NDArray[Any]:
    """The array of a .npy file, memory-mapped: float16 or float32 (n, dim); raises UserError for anything else."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # unlike np.load, it can't unpickle
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not a complete .npy file of numbers ({one_line(error)[:100]}); make it again") from None
    if array.dtype not in (np.float16, np.float32) or array.ndim != 2:
        raise UserError(f"{path}: {array.dtype} of shape {array.shape}; float16 or float32 of shape (n, {dim}) was expected")
    if array.shape[1] != dim:
        raise UserError(f"{path}: keys of {array.shape[1]} dimensions, those of {load} have {dim}; give the model that made them as --load")
    return array


def image_paths(table: Path, rows: int) -> list[str]:
    """image_path of each row; raises UserError if there is no such column, or if the table does not have `rows` rows."""
    pa, pq = load_pyarrow()
    try:
        names = pq.ParquetFile(table).schema_arrow.names
        if "image_path" not in names:
            raise UserError(f"{table}: has no column image_path, only {', '.join(names)}; move metadata away to name rows by their numbers")
        paths = pq.read_table(table, columns=["image_path"])["image_path"].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{table}: not a complete parquet file ({one_line(error)[:100]}); make it again") from None
    if len(paths) != rows:
        raise UserError(f"{table}: has {len(paths)} rows, its .npy file {rows}; make both again")
    return ["" if path is None else str(path) for path in paths]


def blocks(array: NDArray[Any]) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield rows (n, dim) and their lengths (n, 1), in float64, because squares of large float32 values would overflow."""
    for start in range(0, len(array), BLOCK):
        rows = array[start : start + BLOCK].astype(np.float64)
        yield rows, np.linalg.norm(rows, axis=1, keepdims=True)


def fault(name: str, length: float) -> str:
    """The reason why a row with this name and vector length can't be a key; "" if it can."""
    if not name or not name.isprintable():
        return "an image_path that can't stand in a list"
    if not np.isfinite(length):
        return "not finite"
    return "zero" if length == 0 else ""


@dataclass
class Import:
    """The .npy and .parquet files of a folder, read twice: for the names and faults of all rows, then for the keys."""

    files: list[tuple[Path, Path | None]]
    dim: int
    load: str

    def sift(self) -> tuple[list[str], list[tuple[str, str, str]], list[NDArray[np.bool_]]]:
        """Names of the usable rows; (name, name, reason) of the others; which rows are usable, one bool array per file."""
        ids, skipped, usable = [], [], []
        for path, table in progress(self.files, desc="img_emb", unit="file"):
            array = open_array(path, self.dim, self.load)
            first = sum(map(len, usable))
            names = image_paths(table, len(array)) if table else [str(first + row) for row in range(len(array))]
            lengths = [length for _, column in blocks(array) for length in column[:, 0].tolist()]
            faults = [fault(name, length) for name, length in zip(names, lengths, strict=True)]
            ids += [name for name, reason in zip(names, faults, strict=True) if not reason]
            listed = ((name if name.isprintable() else repr(name), reason) for name, reason in zip(names, faults, strict=True) if reason)
            skipped += [(name, name, reason) for name, reason in listed]
            usable.append(np.array([not reason for reason in faults], bool))
        return ids, skipped, usable

    def keys(self, usable: list[NDArray[np.bool_]]) -> Iterator[NDArray[np.float32]]:
        """Yield blocks (n, dim) of the usable rows, scaled to length 1."""
        for (path, _), mask in zip(self.files, usable, strict=True):
            for number, (rows, lengths) in enumerate(blocks(open_array(path, self.dim, self.load))):
                keep = mask[number * BLOCK : (number + 1) * BLOCK]
                yield (rows[keep] / lengths[keep]).astype(np.float32)


def import_keys(identity: Identity, load: str, name: str, folder: Path, where: Path) -> None:
    """Write the keys of one image set, unless they exist already."""
    files = listed_files(folder)
    # Files are known by their content: embeddings that were made again have the same size.
    known = [[path.name, sha256_of_file(path)] for pair in progress(files, desc="hashes", unit="file") for path in pair if path]
    settings = {"snapshot": identity.name, "snapshot_hash": identity.hash, "files": len(known), "imported": fingerprint({"files": known})}
    output = key_files.keys_file(where, name)
    product = Product(
        output, settings, lambda: key_files.read_settings(where, name), f"the keys of these {len(known):,} files",
        key_files.companions(where, name), (key_files.skipped_file(where, name),),
    )  # fmt: skip
    with product.alone() as todo:
        if not todo:
            return
        source = Import(files, identity.dim, load)
        made_by = {"snapshot": identity.name, "snapshot_hash": identity.hash, "image_set": name, "imported_from": str(folder.resolve())}
        ids, skipped = write_keys(source, folder, where, name, settings, made_by)
    left_out = f"; {len(skipped)} left out, listed in {name}.skipped.tsv" if skipped else ""
    print(f"wrote {len(ids):,} keys of {identity.dim} dimensions to {output}{left_out}")


def write_keys(
    source: Import, folder: Path, where: Path, name: str, settings: dict[str, Any], made_by: dict[str, Any]
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Write the usable rows; returns their names, and (name, name, reason) of the others."""
    ids, skipped, usable = source.sift()
    if not ids:
        raise UserError(f"{folder}: none of its {len(skipped)} rows can be a key ({', '.join(sorted({row[2] for row in skipped}))})")
    if twice := len(ids) - len(set(ids)):
        again = next(name for name, count in Counter(ids).items() if count > 1)
        say(f"warning: {twice} rows have the same name as another row, for example {again}; are there files of two exports in {folder}?")
    key_files.write(where, name, source.keys(usable), ids, ids, skipped, settings, made_by)
    return ids, skipped


def main(argv: list[str] | None = None) -> None:
    parser = Parser(description="Import keys that another tool made with the same model.", formatter_class=Help)
    parser.add_argument("--load", required=True, help=f"the model that made the keys: {LOAD}")
    parser.add_argument("--image-sets", required=True, metavar="IMAGE_SET", help="name of the one image set to write")
    parser.add_argument("--from", dest="source", required=True, type=Path, help="the folder with img_emb/ and metadata/")
    parser.add_argument("--keys-dir", type=Path, help="folder to write the keys to (default: keys/ in the snapshot)")
    args = parser.parse_args(argv)
    if set(",=") & set(args.image_sets):
        raise UserError(f"--image-sets {args.image_sets}: give a single name here, and the folder with --from")
    name, _ = split_name(args.image_sets)
    if not args.source.is_dir():
        raise UserError(f"{args.source}: no such folder; give with --from the folder that clip-retrieval inference wrote")
    identity = identify(args.load)
    import_keys(identity, args.load, name, args.source, args.keys_dir or key_files.folder(identity.home))


if __name__ == "__main__":
    run_main(main)
