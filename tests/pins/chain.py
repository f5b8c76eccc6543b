"""Runs the stages of a checkout at small size, one command after another, in one process: `python chain.py ROOT`, in the world's folder.

What they keep of their parts is gone when a stage is done, so that it is copied just before: kept/{OUTPUT}.json holds the plan, the
parts' files with their arrays, and their summaries.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np

CPU = ["--device", "cpu", "--num-workers", "1", "--precision", "fp32"]
ROOTS = ["--lxmert-root", "lxmert", "--image-root", "images", "--coco-root", "coco"]
IDS = ["--ids-root", "ids"]
CACHE = ["--cache", "cache"]
TOWERS = ["--lang", "./bert", "--lang-layers", "2,1", "--visn", "resnet18", "--visn-weights", "resnet18.safetensors", "--max-len", "12"]
SIZE = ["--hidden", "16", "--dim", "8", "--batch-size", "4", "--epochs", "1", "--precision", "fp32", "--num-workers", "1", "--seed", "7"]
TRAIN = ["xmatching/main.py", "--train-imgs", "shapes_train", "--valid-imgs", "shapes_valid", *ROOTS, *TOWERS, *SIZE, *CACHE]
LINEAR = [
    "--head", "linear", "--text-pool", "mean", "--visn-pool", "maps", "--loss", "infonce", "--optim", "adamw", "--schedule", "cosine",
    "--weight-decay", "0.1", "--dropout", "0.5",
]  # fmt: skip
# What would be chosen by measured recalls, which are floats.
GIVEN = ["--ridge", "1", "--power", "1", "--part-weights", "1,0.5", "--hubness", "0.5"]
KEYS = ["vokenization/extract_vision_keys.py", *IDS, *ROOTS, *CACHE, *CPU]
IMPORT = "vokenization/import_embeddings.py"
VOKENIZE = ["vokenization/vokenize_corpus_mp.py", *CPU, "--load", "snap/pins", "--corpus"]
LONG = [*VOKENIZE, "corpus/long.txt", "--image-sets", "few", "--topk", "1", "--parts", "2", "--part"]
CTX = ["--model", "models/clip", "--device", "cpu", "--num_workers", "1"]
GENOME = ["--caption_db", "outputs/genome/caption_db.hdf5"]

COMMANDS = [
    ["tokenization/prepare_reddit.py", "raw", "reddit", "--limit", "3"],
    ["tokenization/tokenize_dataset.py", "corpus", "lines.txt", "./bert"],
    ["tokenization/tokenize_dataset.py", "corpus", "lines.txt", "models/clip"],
    ["tokenization/tokenize_dataset.py", "corpus", "long.txt", "./bert"],
    ["tokenization/tokenize_dataset.py", "reddit", "train.pkl.txt", "./bert", "--limit", "2"],
    ["vokenization/create_image_ids.py", "--image-sets", "shapes_valid,mine=mine", *IDS, *ROOTS],
    ["vokenization/create_image_ids.py", "--image-sets", "tars=tars/{00000..00001}.tar", *IDS, *ROOTS],
    ["vokenization/create_image_ids.py", "--image-sets", "sample=images", "--num-images", "4", *IDS, *ROOTS],
    [*TRAIN, "--output", "snap/trained"],
    [*TRAIN, *LINEAR, "--views", "2", "--output", "snap/linear"],
    [*TRAIN, "--recipe", "best", *GIVEN, "--output", "snap/best"],
    [*TRAIN, "--level", "token", "--optim", "sgd", "--output", "snap/by_token"],
    [*TRAIN, "--lang-finetune", "--loss", "sigmoid", "--head", "glu", "--output", "snap/finetuned"],
    [*KEYS, "--load-dir", "snap/pins", "--image-sets", "shapes_valid,mine,tars"],
    [*KEYS, "--load-dir", "snap/token", "--image-sets", "shapes_valid"],
    [*KEYS, "--load-dir", "models/clip", "--image-sets", "shapes_valid"],
    [*KEYS, "--load-dir", "snap/pins", "--image-sets", "shapes_valid", "--precision", "bf16", "--output", "in_bf16"],
    [IMPORT, "--load", "snap/pins", "--image-sets", "few", "--from", "embeddings/few"],
    [IMPORT, "--load", "snap/pins", "--image-sets", "many", "--from", "embeddings/many"],
    [IMPORT, "--load", "snap/token", "--image-sets", "few", "--from", "embeddings/few"],
    [IMPORT, "--load", "models/clip", "--image-sets", "few", "--from", "embeddings/few"],
    [*VOKENIZE, "corpus/lines.txt", "--image-sets", "few", "--topk", "5"],
    [*VOKENIZE, "corpus/lines.txt", "--image-sets", "many,few", "--topk", "7", "--max-img-num", "7", "--limit", "7", "--batch-size", "2"],
    [*VOKENIZE, "corpus/lines.txt", "--image-sets", "many", "--topk", "3", "--index", "ivf"],
    [*VOKENIZE, "corpus/lines.txt", "--image-sets", "few", "--precision", "bf16", "--output", "in_bf16"],
    [*VOKENIZE, "corpus/lines.txt", "--image-sets", "few", "--topk", "5", "--load", "snap/token"],
    [*VOKENIZE, "corpus/lines.txt", "--image-sets", "few", "--topk", "5", "--load", "models/clip"],
    [*LONG, "2"],
    [*LONG, "1"],
    ["vokenization/evaluate_retrieval.py", "--load", "snap/pins", "--image-sets", "shapes_valid", *ROOTS, *CPU],
    ["vokenization/evaluate_retrieval.py", "--load", "snap/token", "--image-sets", "shapes_valid", *ROOTS, *CPU],
    ["vokenization/evaluate_retrieval.py", "--load", "models/clip", "--image-sets", "shapes_valid", *ROOTS, *CPU],
    ["vokenization/export_embeddings.py", "--load", "snap/pins", "--image-sets", "shapes_valid,mine", "--rows-per-file", "2", *ROOTS],
    [IMPORT, "--load", "snap/pins", "--image-sets", "again", "--from", "snap/pins/export/shapes_valid"],
    ["ctx/encode_captions.py", *CTX, "--captions", "corpus/phrases.txt"],
    ["ctx/encode_captions.py", *CTX, "--ann_dir", "genome", "--exp_name", "genome"],
    ["ctx/build_context.py", *CTX, "--images", "mine", "--k", "7"],
    ["ctx/encode_captions.py", *CTX, "--captions", "corpus/many.txt", "--exp_name", "many"],
    ["ctx/encode_images.py", *CTX, "--images", "images", "--exp_name", "alone"],
    ["ctx/encode_images.py", *CTX, "--images", "images", "--precision", "bf16", "--exp_name", "in_bf16"],
    ["ctx/encode_images.py", *CTX, "--images", "images", "--model", "snap/pins", "--exp_name", "by_matcher"],
    ["ctx/retrieve_captions.py", *CTX, "--dataset_root", "coco", *GENOME, "--k", "4", "--exp_name", "coco"],
]  # fmt: skip


def part_content(path: Path) -> object:
    """Types and shapes of the arrays of a part, by name where they have names; the size of another file."""
    if path.suffix == ".npy":
        array = np.load(path)
        return [str(array.dtype), *array.shape]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}
    return path.stat().st_size


def keep_parts(event: str, details: tuple) -> None:
    """An audit hook: copy what a folder of parts holds when it is moved out of the way, or removed."""
    if event not in ("os.rename", "shutil.rmtree") or not str(details[0]).endswith(".parts"):
        return
    folder = Path(details[0])
    if not (folder / "plan.json").is_file():
        return
    parts = sorted(path for path in folder.iterdir() if path.name[:6].isdigit())
    kept = {
        "plan": json.loads((folder / "plan.json").read_text()),
        "files": {path.name: part_content(path) for path in parts if path.suffix != ".json"},
        "summaries": {path.name: json.loads(path.read_text()) for path in parts if path.suffix == ".json"},
    }
    name = os.path.relpath(folder).removesuffix(".parts").replace("/", "__")
    Path("kept", f"{name}.json").write_text(json.dumps(kept, ensure_ascii=False))


def run_all(root: Path) -> None:
    Path("kept").mkdir()
    sys.addaudithook(keep_parts)
    for script, *flags in COMMANDS:
        sys.argv = [str(root / script), *flags]
        print("$", script, *flags, flush=True)
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            if end.code:
                sys.exit(f"{script} {' '.join(flags)}: ended with {end.code}")
        except BaseException:
            traceback.print_exc()
            sys.exit(f"{script} {' '.join(flags)}: failed")


def start(root: Path, world: Path) -> None:
    """Run the stages of a checkout in a world, in a process of their own, on the CPU; raises RuntimeError with what the last one said."""
    env = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), str(root)]
    done = subprocess.run(command, cwd=world, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        before, _, last = done.stdout.rpartition("\n$ ")
        raise RuntimeError(f"the stages of {root} do not run: {last or before}")


if __name__ == "__main__":
    # Our folder is not a place to import from: the stages have modules of the same names.
    sys.path[0] = sys.argv[1]
    run_all(Path(sys.argv[1]))
