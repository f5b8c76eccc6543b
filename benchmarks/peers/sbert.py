"""sentence-transformers: pictures, lines or ask, then a model folder and the inputs."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sentence_transformers import SentenceTransformer, util

work, model_folder, *inputs = sys.argv[1:]
model = SentenceTransformer(model_folder, device="cpu")


def best(texts, keys, k):
    found = util.semantic_search(model.encode(texts, normalize_embeddings=True), np.load(keys), top_k=k)
    return {"rows": [[hit["corpus_id"] for hit in hits] for hits in found], "scores": [[hit["score"] for hit in hits] for hits in found]}


if work == "pictures":
    pictures = [Image.open(path) for path in sorted(Path(inputs[0]).iterdir())]
    np.savez(inputs[1], vectors=model.encode(pictures, normalize_embeddings=True))
elif work == "lines":
    np.savez(inputs[2], **best(Path(inputs[0]).read_text().splitlines(), inputs[1], 5))
else:
    print(best([inputs[1]], inputs[0], 10)["rows"][0][0])
