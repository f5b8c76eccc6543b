"""The routes: the page, the gallery's pictures, the JSON API."""

import hashlib
from collections.abc import Callable
from importlib import resources
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

import xvoken
from xvoken.ask.searcher import Hit
from xvoken.errors import UserError
from xvoken.pictures.thumbnails import MIME
from xvoken.serve.asked import AskedPhrases, AskedSearch, body_of, documented
from xvoken.serve.guard import UPLOAD, Access, App, Guard, Refused, as_error, as_json
from xvoken.serve.knn import add_knn_service
from xvoken.serve.service import Service
from xvoken.serve.thumbs import LARGE, SIDES, NoPicture
from xvoken.serve.together import Busy
from xvoken.serve.uploads import Gone

ASSETS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
ERRORS: dict[int | str, dict[str, Any]] = {status: {"description": "`error` says in one line what is wrong"} for status in (400, 401, 429)}
DESCRIPTION = """Search in a gallery of pictures by sentences and pictures, added and subtracted. Errors are `{"error": "one line"}`."""


def make_app(service: Service, access: Access) -> App:
    """The whole server as an ASGI application; access: who may ask."""
    app = FastAPI(title="xvoken", version=xvoken.__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    _add_errors(app)
    _add_page(app)
    _add_pictures(app, service)
    _add_api(app, service, access)
    add_knn_service(app, service, access)
    return Guard(app, access)


def _add_errors(app: FastAPI) -> None:
    """Each error in one line; what no handler knows is the server's own, and Guard tells the log."""

    def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return as_error(f"{first['loc'][-1]}: {first['msg']}", 400)

    handlers: dict[type[Exception], Callable[[Request, Any], Response]] = {
        UserError: lambda _, error: as_error(error, 400),
        Gone: lambda _, error: as_error(error, 410),
        NoPicture: lambda _, error: as_error(error, 404),
        Busy: lambda _, error: as_error(error, 503, 2),
        Refused: lambda _, error: error.answer(),
        HTTPException: lambda _, error: as_error(error.detail, error.status_code),
        RequestValidationError: invalid,
        Exception: lambda _, error: as_error("the server failed; its log says why", 500),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _add_page(app: FastAPI) -> None:
    folder = resources.files("xvoken.serve") / "assets"
    files = {file.name: file.read_bytes() for file in folder.iterdir() if "." + file.name.rpartition(".")[2] in ASSETS}
    files["theme.css"] = (resources.files("xvoken.pages") / "assets" / "theme.css").read_bytes()  # all pages have one look

    def add(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def asset(request: Request) -> Response:
            return _cached(request, files[name], ASSETS["." + name.rpartition(".")[2]], "no-cache")

    for name in files:
        add("/" if name == "index.html" else f"/assets/{name}", name)


def _add_pictures(app: FastAPI, service: Service) -> None:
    webp: dict[int | str, dict[str, Any]] = {200: {"content": {MIME: {}}, "description": "WebP, without metadata"}, **ERRORS}
    kept = "private, max-age=3600"  # the page's addresses have a key that is another one after each start

    @app.get("/thumbs/{row}", response_class=Response, responses=webp, summary="A small copy of a picture of the gallery")
    async def thumb(
        request: Request, row: int, side: Annotated[int, Query(json_schema_extra={"enum": list(SIDES)})] = SIDES[0]
    ) -> Response:
        if side not in SIDES:
            raise UserError(f"side: one of {', '.join(map(str, SIDES))} is needed")
        made = service.thumbs.known(row, side) or await service.draw(service.thumbs.make, row, side)
        return _cached(request, made, MIME, kept)

    @app.get("/pictures/{row}", response_class=Response, responses=webp, summary=f"A picture of the gallery, at most {LARGE} pixels long")
    async def picture(request: Request, row: int) -> Response:
        return _cached(request, await service.draw(service.thumbs.make, row, LARGE), MIME, kept)

    @app.get("/uploads/{picture}", response_class=Response, responses=webp, summary="A small copy of a picture that was sent")
    async def upload(request: Request, picture: str) -> Response:
        return _cached(request, service.uploads.get(picture).small, MIME, kept)


def _cached(request: Request, content: bytes, kind: str, how: str) -> Response:
    """An answer with an ETag; without content where the browser has it already."""
    headers = {"etag": f'"{hashlib.sha256(content).hexdigest()[:20]}"', "cache-control": how}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=kind)


def _add_api(app: FastAPI, service: Service, access: Access) -> None:
    searcher = service.searcher
    pictures = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}, "required": True}
    example = {"parts": [{"text": "a dog"}, {"text": "people", "weight": -1}]}

    @app.get("/api/status", responses=ERRORS, summary="What is served; `key` opens the pictures' addresses: /thumbs/0?key=KEY")
    async def status() -> Response:
        phrases = len(searcher.phrase_db.captions) if searcher.phrase_db else 0
        said = {"pictures": len(searcher), "model": searcher.identity.name, "dim": searcher.identity.dim, "phrases": phrases}
        return as_json({**said, "key": access.key, "upload": UPLOAD})

    @app.post("/api/search", responses=ERRORS, openapi_extra=documented(AskedSearch, example), summary="The best pictures, best first")
    async def search(asked: Annotated[AskedSearch, Depends(body_of(AskedSearch))]) -> Response:
        wanted = asked.query(searcher, service.uploads)
        answer = await service.search(wanted, asked.k, asked.alike)
        return as_json(
            {
                "query": answer.query,
                "parts": [part.name for part in wanted.parts],
                "probability": answer.probability,
                "results": [_shown(hit) for hit in answer.hits],
            }  # fmt: skip
        )

    @app.post(
        "/api/phrases", responses=ERRORS, openapi_extra=documented(AskedPhrases, {"parts": [{"row": 0}]}),
        summary="The best phrases for pictures",
    )  # fmt: skip
    async def phrases(asked: Annotated[AskedPhrases, Depends(body_of(AskedPhrases))]) -> Response:
        found = await service.phrases(asked.query(searcher, service.uploads), asked.k)
        return as_json({"phrases": [{"phrase": phrase, "score": round(score, 6)} for phrase, score in found]})

    @app.post(
        "/api/pictures", status_code=201, responses={**ERRORS, 413: {"description": f"more than {UPLOAD >> 20} MB"}},
        openapi_extra={"requestBody": pictures}, summary="Send a picture's file as it is; the id that is answered can be searched with",
    )  # fmt: skip
    async def send(request: Request, name: Annotated[str, Query(max_length=200)] = "a picture") -> Response:
        shown = "".join(letter if letter.isprintable() else " " for letter in name).strip() or "a picture"
        return as_json({"picture": await service.keep(shown, await request.body()), "name": shown}, 201)


def _shown(hit: Hit) -> dict[str, Any]:
    return {"rank": hit.rank, "score": round(hit.score, 6), "row": hit.row, "id": hit.id, "path": hit.path, "copies": hit.copies}
