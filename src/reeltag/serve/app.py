"""The routes: tagging, what the model knows, the state of the service, and the page."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import reeltag
from reeltag.serve.answers import Health, Labels, Refusal, Tagged, Unreadable
from reeltag.serve.refusal import Refused, ending
from reeltag.serve.service import AnyTagger, Service, ServiceLimits
from reeltag.serve.upload import FILE_FIELD, MAX_FILES, Body, Disconnected, Form

_ABOUT = (
    "Tags of videos by a trained model. `POST /tag` takes files in a multipart form; one gives an object, several give "
    "a list. No authentication and no TLS: put it behind a proxy."
)
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FILE_FIELD],
                    "additionalProperties": False,
                    "properties": {
                        FILE_FIELD: {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "minItems": 1,
                            "maxItems": MAX_FILES,
                            "description": "a video, or several",
                        },
                        "top": {"type": "integer", "minimum": 1, "description": "as in the query, which wins"},
                    },
                }
            }
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "another form than is described, or no file"},
    403: {"model": Refusal, "description": "sent by a page of another site"},
    408: {"model": Refusal, "description": "nothing came for too long"},
    413: {"model": Refusal, "description": "too large, or too many files"},
    415: {"model": Refusal, "description": "no multipart form"},
    422: {"model": Unreadable, "description": "the one file that was sent cannot be read"},
    500: {"model": Unreadable | Refusal, "description": "an error of the service, described in its log"},
    503: {"model": Refusal, "description": "all places are taken, or the service ends; see Retry-After"},
    507: {"model": Refusal, "description": "the disk of the service is full"},
}


def create_app(tagger: AnyTagger, *, name: str = "model", limits: ServiceLimits | None = None) -> FastAPI:
    """Return the application, for uvicorn or any other ASGI server with one process.

    Args:
        tagger: of a run, a bundle or an ensemble.
        name: of the model, as `/health` and the page show it.
        limits: what is taken at once; None for the defaults.

    Returns:
        An app whose `state.service` is the `Service`.
    """
    service = Service(tagger, name, limits or ServiceLimits())

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            service.close()

    # FastAPI's pages of documentation load their scripts from elsewhere: the description alone is given.
    app = FastAPI(title="reeltag", version=reeltag.__version__, description=_ABOUT, docs_url=None, redoc_url=None,
                  lifespan=lifespan)  # fmt: skip
    app.state.service = service
    _add_errors(app)
    _add_routes(app, service)
    _add_page(app)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    @app.post("/tag", response_model=Tagged | list[Tagged | Unreadable], responses=_REFUSALS, openapi_extra=_UPLOAD)
    async def tag(
        request: Request, top: Annotated[int | None, Query(ge=1, description="keep the best labels alone")] = None
    ) -> Response:
        """Return the tags of one file as an object, of several as a list with tags or error of each."""
        body = Body(request, service.limits.idle_s, lambda: service.stopping)
        try:
            if unknown := set(request.query_params) - {"top"}:
                raise Refused(400, "bad_request", f"there is no parameter {min(unknown)[:80]!r}; allowed: top")
            if service.stopping:
                raise ending()
            with service.seats.take() as seat, service.new_folder() as folder:
                form = Form(Path(folder), service.max_bytes)
                await form.read(body)
                if not form.files:
                    raise Refused(400, "bad_request", f"no file came; send one or more in the field {FILE_FIELD!r}")
                best = top if top is not None else _whole_number(form.fields.get("top"))
                lines = await service.tag(form.files, best, seat, lambda: _gone(request))
        except Refused as refused:
            return refused.answer(unread=not body.ended)
        except Disconnected:
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(lines[0] if len(lines) == 1 else lines, _status(lines))

    @app.get("/labels")
    async def labels() -> Labels:
        """Return the labels that the model knows; their thresholds come with the tags."""
        return Labels(labels=service.tagger.label_names)

    @app.get("/health", responses={503: {"model": Health, "description": "not ready"}})
    async def health(response: Response) -> Health:
        """Return the state of the service; 503 until it is ready, and when it ends."""
        response.status_code = 200 if service.ready else 503
        return Health(
            ready=service.ready,
            model=service.name,
            labels=len(service.tagger.label_names),
            modalities=list(service.tagger.takes),
            device=service.device,
            version=reeltag.__version__,
            workers=service.workers,
            queue=service.limits.queue,
            requests=service.seats.taken,
            max_mib=service.limits.max_mib,
            max_files=MAX_FILES,
        )


def _whole_number(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"0*[1-9]\d{0,8}", text.strip()):
        raise Refused(400, "bad_request", f"top is {text[:80]!r}; give a whole number from 1 on, or leave it out")
    return int(text)


def _status(lines: list[dict[str, Any]]) -> int:
    """Return 200, or what one unreadable file alone is answered with."""
    if len(lines) > 1 or "error" not in lines[0]:
        return 200
    return 500 if lines[0]["error"]["reason"] in ("internal", "failed") else 422


async def _gone(request: Request) -> None:
    """Return when the client has gone away; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# ---------------------------------------------------------------------- errors, headers, page


def _add_errors(app: FastAPI) -> None:
    """Give all errors one form."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()[0]
        message = f"{found['loc'][-1]} is {str(found['input'])[:80]!r}; give a whole number from 1 on, or leave it out"
        return Refused(400, "bad_request", message).answer(unread=True)

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        known = "POST /tag, GET /labels, /health, /openapi.json, / (the page)"
        message = f"{request.method} {request.url.path[:80]}: {error.detail}; allowed: {known}"
        unread = request.method not in ("GET", "HEAD")
        return Refused(error.status_code, "bad_request", message, error.headers).answer(unread=unread)

    @app.exception_handler(Exception)
    async def failed(_: Request, __: Exception) -> Response:
        return Refused(500, "internal", "an error of the service, described in its log").answer()


class _Guard:
    """Adds headers to every answer, and refuses what pages of other sites send through a visitor's browser."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self.app, self.headers = app, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self.headers)
            await send(message)

        if scope["method"] == "POST" and (b"sec-fetch-site", b"cross-site") in scope["headers"]:
            refused = Refused(403, "cross_site", "a page of another site sent this; use the page of the service itself")
            await refused.answer(unread=True)(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)


def _add_page(app: FastAPI) -> None:
    page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    own = {kind: _hash_of(page, kind) for kind in ("script", "style")}
    policy = (
        f"default-src 'none'; script-src {own['script']}; style-src {own['style']}; connect-src 'self'; "
        "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    app.add_middleware(
        _Guard,
        headers={
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        },
    )

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def show() -> HTMLResponse:
        """Return the page."""
        return HTMLResponse(page)


def _hash_of(page: str, element: str) -> str:
    """Return the Content-Security-Policy source of the page's one script or style."""
    (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
