"""What the stages wrote in a world, stage by stage, as plain values: texts, whole numbers, names and settings, but no measured floats.

What differs from run to run or from machine to machine is left out or replaced: dates, seconds, memory, versions, absolute paths, hashes
of what was computed in floats.
"""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from safetensors import safe_open

MASKED = {"date", "seconds", "seconds_per_part", "peak_memory_mb", "versions", "faiss", "index_id", "effort", "command"}
LONGEST = 120  # numbers that are listed one by one


def masked(value: Any, names: set[str] = MASKED) -> Any:
    """The same without what differs from run to run: its name stays."""
    if isinstance(value, dict):
        return {name: "..." if name in names else masked(part, names) for name, part in value.items()}
    return [masked(part, names) for part in value] if isinstance(value, list) else value


def text(path: Path) -> list[str] | dict[str, Any]:
    """Lines, or of many the number and the sha256; a file without its last newline, or with \\r, shows it."""
    data = path.read_bytes()
    lines = data.decode().split("\n")
    return lines if len(lines) <= LONGEST else {"lines": len(lines), "sha256": hashlib.sha256(data).hexdigest()}


def listed(array: np.ndarray) -> Any:
    """Numbers or texts, or of many the first ones and the sha256."""
    if array.size <= LONGEST:
        return array.tolist()
    if array.dtype.kind == "O":
        return {"first": array.ravel()[:8].tolist(), "sha256": hashlib.sha256("\n".join(array.ravel()).encode()).hexdigest()}
    return {"first": array.ravel()[:8].tolist(), "sha256": hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()}


def attributes(found: h5py.Group, keep_sha256: bool) -> dict[str, Any]:
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in found.attrs.items()}
    for name in ("settings", "index"):
        if name in plain:
            plain[name] = json.loads(plain[name])
    return masked(plain, MASKED if keep_sha256 else MASKED | {"sha256"})


def hdf5(path: Path, keep_sha256: bool = False) -> dict[str, Any]:
    """Attributes, and of each dataset type, shape and, if it holds no floats, its content."""
    datasets = {}

    def look(name: str, found: Any) -> None:
        if not isinstance(found, h5py.Dataset):
            return
        is_text = bool(h5py.check_string_dtype(found.dtype))
        datasets[name] = {"type": "text" if is_text else str(found.dtype), "shape": list(found.shape)}
        if found.chunks:
            datasets[name]["chunks"] = list(found.chunks)
        if is_text:
            datasets[name]["content"] = listed(found.asstr()[:])
        elif found.dtype.kind != "f":
            datasets[name]["content"] = listed(found[:])

    with h5py.File(path) as file:
        file.visititems(look)
        return {"attributes": attributes(file, keep_sha256), "datasets": datasets}


def tensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Type and shape of each tensor, and the header."""
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads((file.metadata() or {}).get("json", "{}"))
    return {name: [part.get_dtype(), *part.get_shape()] for name, part in sorted(slices.items())}, header


def kept(world: Path, start: str) -> dict[str, Any]:
    """Plans, names and summaries of the parts of outputs whose names start so, see chain.py."""
    found = sorted((world / "kept").glob(f"{start.replace('/', '__')}*.json"))
    return {path.stem.replace("__", "/"): masked(json.loads(path.read_text())) for path in found}


def receipts(world: Path, pattern: str, names: set[str] = MASKED) -> dict[str, Any]:
    return {str(path.relative_to(world)): masked(json.loads(path.read_text()), names) for path in sorted(world.glob(pattern))}


def nameless(world: Path, value: Any) -> Any:
    """The same without fingerprints of settings that hold a processor of transformers: those grow with its versions."""
    found = json.dumps(value)
    for path in sorted((world / "cache").glob("*-clip-*.json")):
        facts = json.loads(path.read_text())
        if "config" in facts.get("settings", {}).get("view", {}):
            found = found.replace(path.stem, path.stem.rpartition("-")[0] + "-...")
    return json.loads(found)


def tokenize(world: Path) -> dict[str, Any]:
    found = {}
    for corpus in ("corpus/lines.txt.bert", "corpus/lines.txt.clip", "corpus/long.txt.bert", "reddit/train.pkl.txt.bert"):
        path = world / corpus
        found[corpus] = {"text": text(path), "line": text(Path(f"{path}.line")), "hdf5": hdf5(Path(f"{path}.hdf5"))}
    reports = receipts(world, "corpus/*.report.json") | receipts(world, "reddit/*.report.json")
    return {**found, "reports": reports, "parts": {**kept(world, "corpus/"), **kept(world, "reddit/")}}


def prepare_reddit(world: Path) -> dict[str, Any]:
    files = {path.name: text(path) for path in sorted((world / "reddit").glob("*.*")) if path.name.endswith((".pkl.txt", ".tsv"))}
    return {"files": files, "receipts": receipts(world, "reddit/*.pkl.txt.json")}


def create_image_ids(world: Path) -> dict[str, Any]:
    return {path.name: text(path) for path in sorted((world / "ids").iterdir()) if path.is_file() and not path.name.startswith(".")}


def extract_vision_keys(world: Path) -> dict[str, Any]:
    found = {}
    for stem in (
        "snap/pins/keys/shapes_valid",
        "snap/pins/keys/mine",
        "snap/pins/keys/tars",
        "snap/token/keys/shapes_valid",
        "snap/xmatching/clip/keys/shapes_valid",
        "in_bf16/shapes_valid",
    ):
        files = {ending: text(world / f"{stem}.{ending}") for ending in ("ids", "path", "skipped.tsv")}
        found[stem] = {**files, "hdf5": hdf5(world / f"{stem}.hdf5")}
    return found


def cache(world: Path) -> dict[str, Any]:
    """What frozen towers made, for whichever stage: names hold the fingerprints of settings, receipts the settings."""
    arrays = {}
    for path in sorted((world / "cache").glob("*.npy")):
        array = np.load(path)
        arrays[path.name] = {"type": str(array.dtype), "shape": list(array.shape)}
        if array.dtype.kind != "f":
            arrays[path.name]["content"] = listed(array)
    found = {"arrays": arrays, "receipts": receipts(world, "cache/*.json"), "parts": kept(world, "cache/")}
    return {kind: dict(sorted(part.items())) for kind, part in masked(nameless(world, found), {"config"}).items()}


def training(world: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("trained", "linear", "best", "by_token", "finetuned"):
        folder = world / "snap" / name
        best = json.loads((folder / "BEST.json").read_text())
        names = {"calibration"} | ({"lang_hash"} if name == "finetuned" else set())  # fitted, and of a tower that was trained: floats
        heads, header = tensors(folder / "BEST.safetensors")
        state, state_header = tensors(folder / "LAST.training.safetensors")
        # All that the two say of model and training is one and the same, besides the trained tower's hash.
        same = masked({key: header[key] for key in ("model", "training")}, names)
        assert same == masked({key: best[key] for key in ("model", "training")}, names), folder
        records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found[name] = {
            "BEST.json": list(best), "model": masked(best["model"], names), "training": best["training"],
            "validation": shape_of(best["validation"]), "BEST.safetensors": {"header": sorted(header), "tensors": heads},
            "LAST.training.safetensors": {
                "header": sorted(state_header), "config": sorted(state_header["config"]), "records": len(state_header["records"]),
                "config.model": masked(state_header["config"]["model"], names) == masked(best["model"], names),
                "equal_scores": state_header["equal_scores"], "tensors": state,
            },
            "metrics.jsonl": [list(record) for record in records], "epochs": [record["epoch"] for record in records],
        }  # fmt: skip
    return found


def shape_of(value: Any) -> Any:
    """Names and whole numbers of a JSON value; floats are measured."""
    if isinstance(value, dict):
        return {name: shape_of(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape_of(part) for part in value]
    return "float" if isinstance(value, float) else value


def vokenize(world: Path) -> dict[str, Any]:
    """Images of lines among keys that are exact, imported ones. What an index leaves out hangs on the processor: of that, the settings."""
    found = {}
    for stem in (
        "snap/pins/vokens/lines.txt.few",
        "snap/pins/vokens/lines.txt.few_many.7",
        "snap/token/vokens/lines.txt.few",
        "snap/xmatching/clip/vokens/lines.txt.few",
        "snap/pins/vokens/long.txt.few",
    ):
        files = {"text": text(world / stem), "ids": text(world / f"{stem}.ids")}
        found[stem] = {**files, "hdf5": hdf5(world / f"{stem}.hdf5")}
    for stem in ("snap/pins/vokens/lines.txt.many", "in_bf16/lines.txt.few"):
        ids = (world / f"{stem}.ids").read_text().split("\n")
        content = hdf5(world / f"{stem}.hdf5")
        for dataset in content["datasets"].values():
            dataset.pop("content", None)
        if "index" in content["attributes"]:
            content["attributes"]["index"] = list(content["attributes"]["index"])
        found[stem] = {"ids": [ids[0], ids[-2], len(ids)], "hdf5": content}
    measured = MASKED | {"id", "recall", "most"}
    reports = receipts(world, "snap/**/vokens/*.report.json", measured)
    parts = {name: masked(part, measured) for start in ("snap/", "in_bf16/") for name, part in kept(world, start).items()}
    return {**found, "reports": reports, "parts": parts}


def index(world: Path) -> dict[str, Any]:
    """The receipt of an approximate index: the names of the measured recalls hold the fingerprints of what they hang on."""
    receipt = json.loads((world / "snap/pins/keys/many.ivf.json").read_text())
    recalls = {name: list(record) for name, record in receipt["recall"].items()}
    return {**masked(receipt), "index": "...", "recall": recalls}


def evaluate(world: Path) -> dict[str, Any]:
    """Recalls are floats, and so are the keys, whose hash is among the settings."""
    found = {path: json.loads(path.read_text()) for path in sorted(world.glob("snap/**/eval/*.json"))}
    return {str(path.relative_to(world)): masked(shape_of(record), {"keys"}) for path, record in found.items()}


def embeddings(world: Path) -> dict[str, Any]:
    """Exported files, and what is kept of imported ones."""
    from pyarrow import parquet

    found: dict[str, Any] = {"exported": {}, "imported": {}}
    for path in sorted(world.glob("snap/pins/export/*/*/*")):
        if path.suffix == ".npy":
            array = np.load(path)
            content: Any = [str(array.dtype), *array.shape]
        else:
            content = parquet.read_table(path).to_pylist()
        found["exported"][str(path.relative_to(world))] = content
    for stem in ("snap/pins/keys/few", "snap/pins/keys/many", "snap/pins/keys/again", "snap/token/keys/few"):
        files = {ending: text(world / f"{stem}.{ending}") for ending in ("ids", "path", "skipped.tsv")}
        content = hdf5(world / f"{stem}.hdf5", keep_sha256="again" not in stem)
        if stem.endswith("many"):
            files, content["datasets"]["ids"] = {"skipped.tsv": files["skipped.tsv"]}, "as the rows"
        if stem.endswith("again"):
            content["attributes"]["settings"]["imported"] = "..."
        found["imported"][stem] = {**files, "hdf5": content}
    return found


def context(world: Path) -> dict[str, Any]:
    """Groups, phrases, and the order of phrases for each view of a picture."""
    paths = sorted(path for path in (world / "outputs").glob("*/*") if not path.name.endswith(".report.json"))
    files = {str(path.relative_to(world)): hdf5(path) if path.suffix == ".hdf5" else text(path) for path in paths}
    return {**files, "reports": receipts(world, "outputs/*/*.report.json"), "parts": kept(world, "outputs/")}


def files(world: Path) -> list[str]:
    """All that stands in the world, by name; of folders that transformers writes, the folder."""
    names = {str(path.relative_to(world)) for path in world.rglob("*") if path.is_file()}
    folders = ("bert/", "models/", "kept/")
    names = {re.sub(r"(/tokenizer|_tower)/.*", r"\1/", name) for name in names if not name.startswith(folders)}
    return sorted(nameless(world, list(names)))


STAGES: dict[str, Callable[[Path], Any]] = {
    stage.__name__: stage
    for stage in (
        prepare_reddit, tokenize, create_image_ids, training, cache, extract_vision_keys, embeddings, vokenize, index, evaluate,
        context, files,
    )
}  # fmt: skip
