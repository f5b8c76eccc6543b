"""clip-retrieval's `clip inference` on the CPU: pictures or lines, then a model folder and the inputs.

Batches of 32: with its own 256 it warms up on 512 pictures and 512 texts first. Lines are cut into OpenAI's tokens whatever the model
folder holds, 77 a line, so what is found for them is not what the others find. It writes float16.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from clip_retrieval.clip_inference import clip_inference


def vectors(model: str, folder: str, kind: str) -> np.ndarray:
    with tempfile.TemporaryDirectory() as out:
        only = {"enable_image": kind == "img", "enable_text": kind == "text"}
        clip_inference(folder, out, clip_model=f"hf_clip:{model}", batch_size=32, num_prepro_workers=2, **only)
        return np.load(f"{out}/{kind}_emb/{kind}_emb_0.npy").astype(np.float32)


def main() -> None:
    work, model, *inputs = sys.argv[1:]
    if work == "pictures":
        np.savez(inputs[1], vectors=vectors(model, inputs[0], "img"))
        return
    lines = Path(inputs[0]).read_text().splitlines()
    with tempfile.TemporaryDirectory() as folder:
        for number, line in enumerate(lines):
            Path(folder, f"{number:07d}.txt").write_text(line)
        scores = vectors(model, folder, "text") @ np.load(inputs[1]).T
    rows = np.argsort(-scores, axis=1)[:, :5]
    np.savez(inputs[2], rows=rows, scores=np.take_along_axis(scores, rows, 1))


if __name__ == "__main__":
    main()
