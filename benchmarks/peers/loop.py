"""The loop that people write with transformers alone: pictures, lines, ask or context, then a model folder and the inputs."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPModel

work, model_folder, *inputs = sys.argv[1:]
model, processor = CLIPModel.from_pretrained(model_folder).eval(), AutoProcessor.from_pretrained(model_folder)


def vectors(items, kind):
    found = []
    for start in range(0, len(items), 32):
        batch = items[start : start + 32]
        given = {"images": batch} if kind == "image" else {"text": batch, "padding": True, "truncation": True}
        with torch.no_grad():
            out = getattr(model, f"get_{kind}_features")(**processor(return_tensors="pt", **given)).pooler_output
        found.append(out / out.norm(dim=-1, keepdim=True))
    return torch.cat(found).numpy()


def best(queries, keys, k):
    scores = queries @ keys.T
    rows = np.argsort(-scores, axis=1)[:, :k]
    return {"rows": rows, "scores": np.take_along_axis(scores, rows, 1)}


def crops(picture):
    """The whole picture, its corners and centre of 60%, and a 3 x 3 grid of 40%: the 15 views of Xmodal-Ctx."""
    w, h = picture.size
    wide, high = round(w * 0.6), round(h * 0.6)
    five = [(x, y, x + wide, y + high) for x, y in ((0, 0), (w - wide, 0), (0, h - high), (w - wide, h - high))]
    five.append((round((w - wide) / 2), round((h - high) / 2), round((w - wide) / 2) + wide, round((h - high) / 2) + high))
    rows, columns = ([(0, int(0.4 * s)), (int(0.3 * s), int(0.7 * s)), (int(0.6 * s), s)] for s in (h, w))
    return [picture, *map(picture.crop, five), *(picture.crop((x0, y0, x1, y1)) for y0, y1 in rows for x0, x1 in columns)]


def opened(folder):
    return [Image.open(path).convert("RGB") for path in sorted(Path(folder).iterdir())]


if work == "pictures":
    np.savez(inputs[1], vectors=vectors(opened(inputs[0]), "image"))
elif work == "lines":
    np.savez(inputs[2], **best(vectors(Path(inputs[0]).read_text().splitlines(), "text"), np.load(inputs[1]), 5))
elif work == "ask":
    print(best(vectors([inputs[1]], "text"), np.load(inputs[0]), 10)["rows"][0, 0])
else:
    phrases = vectors(Path(inputs[1]).read_text().splitlines(), "text")
    views = [crop for picture in opened(inputs[0]) for crop in crops(picture)]
    np.savez(inputs[2], **best(vectors(views, "image"), phrases, 16))
