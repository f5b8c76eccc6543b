"""What requests ask for, as JSON, and what they become: queries of the ask room, answered together."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xvoken.ask.queries import MOST, Part, Query, query, sentence
from xvoken.ask.searcher import Searcher
from xvoken.errors import UserError
from xvoken.serve.uploads import Uploads

MOST_HITS = 500
COMMAS = 200_000  # in a body: more values than any query has, whose objects would take gigabytes, and the event loop's time
Body = TypeVar("Body", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class AskedPart(_Strict):
    """One of text, row and picture; with a weight below 0 it is subtracted."""

    text: str | None = Field(None, description="a sentence")
    row: int | None = Field(None, description="a picture of the gallery, by its row")
    picture: str | None = Field(None, description="a picture that was sent to /api/pictures, by the id that was answered", max_length=64)
    weight: float = Field(1.0, ge=-10, le=10, description="of its vector in the sum")

    def part(self, searcher: Searcher, uploads: Uploads) -> Part:
        """As a part of a query; raises UserError for a row that does not exist, Gone for a picture that is no longer kept."""
        if [self.text, self.row, self.picture].count(None) != 2:
            raise UserError("each part is one of text, row and picture")
        if self.weight == 0:
            raise UserError("a weight of 0 has no effect; leave the part out")
        if self.text is not None:
            return sentence(self.text, self.weight)
        if self.row is not None:
            searcher.row_vector(self.row)
            return Part(self.row, searcher.gallery.ids[self.row] if searcher.gallery else "", self.weight)
        upload = uploads.get(self.picture or "")
        return Part(upload.vector, upload.name, self.weight)


class AskedPhrases(_Strict):
    """A query of pictures alone, and how many phrases are to be found for it."""

    parts: list[AskedPart] = Field(description=f"summed up to one query; at most {MOST}")
    k: int = Field(8, ge=1, le=100, description="how many are to be found")

    def query(self, searcher: Searcher, uploads: Uploads) -> Query:
        """As a query; raises UserError for what can't be one."""
        if len(self.parts) > MOST:
            raise UserError(f"{len(self.parts)} parts in one query; at most {MOST} are taken")
        return query([part.part(searcher, uploads) for part in self.parts])


class AskedSearch(AskedPhrases):
    """A query of sentences and pictures, added and subtracted, and how its answer is to be."""

    k: int = Field(24, ge=1, le=MOST_HITS, description="how many pictures are to be found")
    alike: float | None = Field(
        None, gt=0, le=1, description="show one of near-duplicates: pictures whose keys have an inner product of at least this (0.95)"
    )


class AskedKnn(BaseModel):
    """What clip-retrieval's ClipClient sends; fields that are not named here are ignored, as there without the models that they are for."""

    model_config = ConfigDict(allow_inf_nan=False)

    text: str | None = None
    image: str | None = Field(None, description="a picture's file in base64")
    image_url: str | None = Field(None, description="refused: nothing is fetched")
    embedding_input: list[float] | None = Field(None, description="a vector of the model")
    modality: str = "image"
    num_images: int = Field(40, ge=1)
    num_result_ids: int | None = Field(None, ge=1, description="how many are to be found; beyond num_images only id and similarity")
    indice_name: str | None = Field(None, description="of the image sets served, joined by commas, or nothing")
    use_mclip: bool = False
    deduplicate: bool = False


def body_of(model: type[Body]) -> Callable[[Request], Awaitable[Body]]:
    """A dependency that reads a request's body as JSON, whatever type the request says it has; raises UserError for another form."""

    async def read(request: Request) -> Body:
        if (body := await request.body()).count(b",") > COMMAS:
            raise UserError(f"more than {COMMAS:,} values in a request")
        try:
            return model.model_validate_json(body or b"{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise UserError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    return read


def documented(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that `body_of` reads; the models in it stand where they are used."""
    schema = model.model_json_schema()
    inner = schema.pop("$defs", {})
    text = json.dumps(schema)
    for name, part in inner.items():
        text = text.replace(json.dumps({"$ref": f"#/$defs/{name}"}), json.dumps(part))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": json.loads(text), "example": example}}}}
