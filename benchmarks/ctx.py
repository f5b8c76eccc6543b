"""Time to make both files of the cross-modal context: the predecessor's way, ours, and the limit.

    python benchmarks/ctx.py ../shared/coco_sample/mscoco/images/val2014 [--photos 200]
    python benchmarks/ctx.py --small

predecessor   Xmodal-Ctx's two scripts: every picture decoded twice, 15 PIL crops through the image processor each time,
              fp32, faiss IVF with 8 sqrt(n) lists (where faiss is missing, our exact search, and the record says so), hdf5 files
              opened anew for each batch
ours          the job of ctx/build_context.py in one process per core, and its writers
limit         the image tower alone, on views in memory as tensors, one process per core
All use ViT-B/32 with random weights and 20,000 random unit vectors as phrases; starting up and loading are not counted.
The last line is JSON: seconds per picture, and the ratios.
"""

import importlib.util
import json
import math
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import h5py
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional as F

from benchmarks import worlds
from benchmarks.measure import make_parser
from ctx.context_job import ContextJob, CroppedPictures
from ctx.run import BATCH
from tests import builder
from xvoken.cli.main import run_main
from xvoken.console import say
from xvoken.errors import UserError
from xvoken.files import context as context_files
from xvoken.files import phrases as caption_db
from xvoken.machine import cores, cpu_has_bf16
from xvoken.pictures.sources import folder_ids
from xvoken.search.torch_exact import TorchIndex

PHRASES, K = 20_000, 16
FAISS = importlib.util.find_spec("faiss") is not None


def save_model(folder: Path, layers: int) -> Path:
    """Save ViT-B/32 with random weights (CLIPConfig's defaults are its sizes), and some tokenizer, as no text is encoded."""
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(0)
    config = CLIPConfig(text_config={"num_hidden_layers": layers}, vision_config={"num_hidden_layers": layers})
    for part in (CLIPModel(config), builder.minilm_tokenizer(), CLIPImageProcessor()):
        part.save_pretrained(folder)
    return folder


def random_db(path: Path, phrases: int) -> caption_db.CaptionDB:
    numbers = np.random.default_rng(0)
    keys = numbers.standard_normal((phrases, 512), np.float32)
    keys /= np.linalg.norm(keys, axis=1, keepdims=True)
    captions = np.array([f"phrase number {i}" for i in range(phrases)], object)
    caption_db.write(path, [(keys, keys, captions.tolist())], {})
    return caption_db.CaptionDB(keys, keys, captions, "random")


class PredecessorsPictures(torch.utils.data.Dataset):
    """Item i: the whole, five crops and nine crops of picture i, each through the image processor."""

    def __init__(self, paths: list[str]):
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        self.paths, self.processor = paths, CLIPImageProcessorPil()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        picture = Image.open(self.paths[i]).convert("RGB")
        w, h = picture.size
        five = F.five_crop(picture, (h * 0.6, w * 0.6))
        rows, columns = ([(0, int(0.4 * s)), (int(0.3 * s), int(0.7 * s)), (int(0.6 * s), s)] for s in (h, w))
        nine = [F.crop(picture, y0, x0, y1 - y0, x1 - x0) for y0, y1 in rows for x0, x1 in columns]
        return self.see(picture), torch.stack([self.see(c) for c in five]), torch.stack([self.see(c) for c in nine])

    def see(self, crop: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.processor(crop)["pixel_values"][0]))


def predecessor(model: Path, paths: list[str], db: caption_db.CaptionDB, work: Path) -> float:
    """Seconds that the predecessor's two scripts take together."""
    from transformers import CLIPModel

    clip = CLIPModel.from_pretrained(model).eval()
    started = time.time()
    for batch in torch.utils.data.DataLoader(PredecessorsPictures(paths), 32, num_workers=cores()):
        with torch.inference_mode():
            features = clip.vision_model(pixel_values=batch[0]).pooler_output.numpy()
        with h5py.File(work / "vis.hdf5", "a") as file:
            for row in features:
                file.create_dataset(str(len(file)), data=row)
    index = predecessors_index(db.keys) if FAISS else TorchIndex(db.keys)
    for batch in torch.utils.data.DataLoader(PredecessorsPictures(paths), 32, num_workers=cores()):
        found = [search(clip, index, views.flatten(0, -4), views.shape[:-3]) for views in batch]
        with h5py.File(work / "txt.hdf5", "a") as file:
            for i in range(len(batch[0])):
                group = file.create_group(str(len(file)))
                for name, (scores, rows) in zip(("whole", "five", "nine"), found, strict=True):
                    part = group.create_group(name)
                    part.create_dataset("features", data=db.features[rows[i]])
                    part.create_dataset("scores", data=scores[i])
                    part.create_dataset("texts", data=db.captions[rows[i]].tolist())
    return time.time() - started


def predecessors_index(keys: np.ndarray) -> Any:
    import faiss

    lists = round(8 * math.sqrt(len(keys)))
    index = faiss.index_factory(512, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(keys)
    index.add(keys)
    index.nprobe = max(1, lists // 10)
    return index


@torch.inference_mode()
def search(clip: Any, index: Any, pixels: torch.Tensor, shape: torch.Size) -> tuple[np.ndarray, np.ndarray]:
    query = clip.visual_projection(clip.vision_model(pixel_values=pixels).pooler_output)
    scores, rows = index.search((query / query.norm(dim=-1, keepdim=True)).numpy(), K)
    return scores.reshape(*shape, K), rows.reshape(*shape, K)


def worker(job: ContextJob, alone: bool, start: int, stop: int, part: Path, gate: Any, seconds: Any) -> None:
    """One process: load, wait for the others, then the job on its pictures, or the tower alone on their views."""
    torch.set_num_threads(1)
    job.setup("cpu")
    pictures = CroppedPictures(job.paths, job.encoder.image.view, 15)
    views = torch.cat([pictures[i] for i in range(start, stop)]) if alone else None
    gate.wait()
    started = time.time()
    if alone:
        for batch in views.split(job.batch_size):
            job.encoder.image.features(batch)
    else:
        job.run(start, stop, part)
    gate.wait()
    seconds.put(time.time() - started)


def in_processes(job: ContextJob, alone: bool, work: Path, count: int, number: int) -> tuple[float, list[Path]]:
    """Seconds until all of `number` processes have done their share of `count` pictures."""
    context = multiprocessing.get_context("spawn")
    gate, seconds = context.Barrier(number), context.Queue()
    cuts = [round(count * i / number) for i in range(number + 1)]
    parts = [work / f"part{i}" for i in range(number)]
    processes = [context.Process(target=worker, args=(job, alone, cuts[i], cuts[i + 1], parts[i], gate, seconds)) for i in range(number)]
    for process in processes:
        process.start()
    times = [seconds.get() for _ in processes]
    for process in processes:
        process.join()
    return max(times), parts


def ours(job: ContextJob, db: caption_db.CaptionDB, work: Path, count: int, number: int) -> float:
    """Seconds that our pass over the pictures and the writing of both files take."""
    seconds, parts = in_processes(job, False, work, count, number)
    started = time.time()
    arrays = [np.load(part.with_suffix(".npz")) for part in parts]
    pooled, best, scores = (np.concatenate([a[name] for a in arrays]) for name in ("pooled", "best", "scores"))
    context_files.write_visual(work / "vis_ctx.hdf5", ((str(i), row) for i, row in enumerate(pooled)), 768, [], {})
    rows = ((str(i), best[i], scores[i]) for i in range(len(best)))
    context_files.write_textual(work / "txt_ctx.hdf5", rows, db, [], {})
    return seconds + time.time() - started


def main(argv: list[str] | None = None) -> None:
    parser = make_parser(__doc__.split("\n")[0])
    parser.add_argument("images", type=Path, nargs="?", help="a folder of photos, searched with its subfolders (--small makes its own)")
    parser.add_argument("--photos", type=int, default=200, help="number of photos to use")
    parser.add_argument(
        "--fp32-photos", type=int, default=40, help="photos for the two slow rows, in fp32; with 200 they take 10 minutes on 2 cores"
    )  # fmt: skip
    args = parser.parse_args(argv)
    if not (args.images or args.small):
        parser.error("a folder of photos is needed, or --small")
    number = 1 if args.small else cores()
    fast = "bf16" if cpu_has_bf16() else "fp32"
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.small:
            args.images, args.photos, args.fp32_photos = work / "photos", 2, 1
            worlds.photos(args.images, args.photos)
        paths = [str(args.images / name) for name in folder_ids(args.images)[0]][: args.photos]
        if len(paths) < number:
            raise UserError(f"{args.images}: {len(paths)} photos are too few for {number} processes; give a folder with more")
        phrases = 200 if args.small else PHRASES
        model, db = save_model(work / "model", 1 if args.small else 12), random_db(work / "db.hdf5", phrases)
        np.save(work / "keys.npy", db.keys)
        say(f"{len(paths)} photos, 15 views each, {phrases:,} phrases, {number} processes")
        job = ContextJob(str(model), paths, fast, BATCH["cpu"], 0, str(work / "keys.npy"), K)
        exact = ContextJob(str(model), paths, "fp32", BATCH["cpu"], 0, str(work / "keys.npy"), K)
        few = min(args.fp32_photos, len(paths))
        # The limit is the faster of two runs, before and after ours, so that other work on the machine does not slow it down.
        limits = [in_processes(job, True, work, len(paths), number)[0]]
        passed = ours(job, db, work, len(paths), number)
        limits.append(in_processes(job, True, work, len(paths), number)[0])
        rates = {
            f"limit_{fast}": min(limits) / len(paths),
            f"ours_{fast}": passed / len(paths),
            "ours_fp32": ours(exact, db, work, few, number) / few,
            "predecessor_fp32": predecessor(model, paths[:few], db, work) / few,
        }
    old = rates["predecessor_fp32"]
    print(f"{'way':<20}{'s/picture':>12}{'pictures/s':>12}{'times the predecessor':>24}")
    for name, seconds in rates.items():
        print(f"{name:<20}{seconds:12.4f}{1 / seconds:12.2f}{old / seconds:24.2f}")
    record = {name: round(seconds, 5) for name, seconds in rates.items()}
    ratios = {
        "vs_straightforward": round(old / rates[f"ours_{fast}"], 3),
        "of_limit": round(rates[f"limit_{fast}"] / rates[f"ours_{fast}"], 3),
    }
    made_with = {"processes": number, "plain_search": "faiss IVF" if FAISS else "torch exact"}
    print(json.dumps({"stage": "ctx", "photos": len(paths), "fp32_photos": few, **made_with, "seconds_per_picture": record, **ratios}))


if __name__ == "__main__":
    run_main(main)
