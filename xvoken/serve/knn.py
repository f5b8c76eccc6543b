"""The route that clip-retrieval's ClipClient asks: the same request, the same answer."""

import base64
import binascii
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response

from xvoken.ask.queries import ALIKE, Part, query, sentence
from xvoken.errors import UserError
from xvoken.files.image_sets import sets_of
from xvoken.serve.asked import MOST_HITS, AskedKnn, body_of, documented
from xvoken.serve.guard import Access, as_json
from xvoken.serve.service import Service
from xvoken.serve.uploads import held


def add_knn_service(app: FastAPI, service: Service, access: Access) -> None:
    """Add POST /knn-service."""
    gallery = service.searcher.gallery
    sets = sets_of(gallery.ids) if gallery else []

    @app.post(
        "/knn-service", openapi_extra=documented(AskedKnn, {"text": "a dog", "num_images": 10}),
        summary="As the service of clip-retrieval, for its ClipClient",
    )  # fmt: skip
    async def knn(request: Request, asked: Annotated[AskedKnn, Depends(body_of(AskedKnn))]) -> Response:
        _refuse_what_is_not_here(asked, ",".join(sets))
        part = await _part(service, asked)
        k = min(asked.num_result_ids or asked.num_images, MOST_HITS)
        answer = await service.search(query([part]), k, ALIKE if asked.deduplicate else None)
        base, key = f"{request.url.scheme}://{request.headers['host']}", f"?key={access.key}" if access.token else ""
        found: list[dict[str, Any]] = []
        for hit in answer.hits:
            about = {"url": f"{base}/pictures/{hit.row}{key}", "caption": hit.id, "image_path": hit.path}
            found.append({**(about if hit.rank <= asked.num_images else {}), "id": hit.row, "similarity": hit.score})
        return as_json(found)


def _refuse_what_is_not_here(asked: AskedKnn, sets: str) -> None:
    if asked.image_url:
        raise UserError("image_url: this server fetches nothing; send the picture itself as image, in base64")
    if asked.modality != "image":
        raise UserError(f"modality {asked.modality!r}: pictures alone are found here (image); for phrases see /api/phrases")
    if asked.use_mclip:
        raise UserError("use_mclip: there is one text tower, the model's own; leave it out")
    if asked.indice_name not in (None, "", sets):
        raise UserError(f"indice_name {asked.indice_name[:100]!r}: this server has {sets!r}")


async def _part(service: Service, asked: AskedKnn) -> Part:
    """The one thing that is asked for."""
    if [bool(asked.text), bool(asked.image), bool(asked.embedding_input)].count(True) != 1:
        raise UserError("one of text, image and embedding_input is needed")
    if asked.text:
        return sentence(asked.text)
    if asked.image:
        try:
            data = base64.b64decode(asked.image, validate=True)
        except (binascii.Error, ValueError):
            raise UserError("image: not in base64") from None
        return Part(await service.vector(held("image", data)), "image")
    vector = np.array(asked.embedding_input, np.float64)
    if len(vector) != (dim := service.searcher.identity.dim):
        raise UserError(f"embedding_input: {len(vector)} numbers; the model's vectors have {dim}")
    with np.errstate(over="ignore"):
        length = np.linalg.norm(vector)
    if not length or not np.isfinite(length):
        raise UserError("embedding_input: has no direction")
    return Part((vector / length).astype(np.float32), "embedding")
