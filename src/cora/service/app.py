"""The HTTP application: paths, status codes, OpenAPI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from cora import __version__
from cora.errors import ImageError, ModelError, VocabularyError
from cora.regions import EVERYDAY_NAMES, class_prompts, other_prompts, written_classes
from cora.retrieval import Hit
from cora.service import bodies
from cora.service.page import read_page
from cora.service.refusal import RefusedError
from cora.service.schemas import (
    ClassColour,
    DetectOptions,
    DetectRequest,
    DetectResponse,
    Found,
    FoundInImage,
    Health,
    LimitsInfo,
    Problem,
    Region,
    SearchOptions,
    SearchRequest,
    SearchResponse,
    request_body,
)
from cora.service.security import HEADERS, Observe, authorize, refuse_foreign_page
from cora.service.service import Service, before
from cora.service.worker import Query
from cora.structures import Detections

_T = TypeVar("_T")

_BEARER = HTTPBearer(auto_error=False, description="The token that the service was started with, if there is one.")
_FILE = {"type": "string", "format": "binary", "description": "an image file"}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The form is broken."},
    401: {"model": Problem, "description": "The bearer token is missing or wrong."},
    403: {"model": Problem, "description": "A browser sent it for a page of another site."},
    408: {"model": Problem, "description": "The request came too slowly."},
    413: {"model": Problem, "description": "The body, an image, a list or a name is too large."},
    415: {"model": Problem, "description": "Neither JSON nor a multipart form."},
    422: {"model": Problem, "description": "A value, a name or an image cannot be used."},
    429: {"model": Problem, "description": "Too many images are waiting; see Retry-After."},
    503: {"model": Problem, "description": "The service is stopping, or its queue too slow; see Retry-After."},
    504: {"model": Problem, "description": "The model took too long."},
}


def create_app(
    service: Service, *, model_name: str, token: str | None = None, hosts: Sequence[str] = ("*",)
) -> FastAPI:
    """Make the ASGI application of a service.

    Args:
        service: starts and closes with the application.
        model_name: name that `/health` reports.
        token: bearer token that requests must send; None lets everybody in.
        hosts: host names, without ports, under which the service answers; "*" allows all. A list protects against DNS
            rebinding: a foreign page whose name is made to point at this machine still sends its own host name.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        # Blocks the event loop, which has nothing left to do: all responses are sent.
        service.close()

    page = read_page()
    app = FastAPI(
        title="cora",
        version=__version__,
        description="Open-vocabulary detection: name the objects, get the boxes.",
        lifespan=lifespan,
        docs_url=None,  # both load scripts from other hosts, which the Content-Security-Policy forbids
        redoc_url=None,
        middleware=[
            Middleware(
                Observe,
                metrics=service.metrics,
                paths=("/detect", "/search", "/health", "/metrics", "/openapi.json", *page),
            ),
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False),
        ],
        exception_handlers={
            RefusedError: _refused,
            ImageError: _bad_content,
            VocabularyError: _bad_content,
            ModelError: _fixed_in_export,
            HTTPException: _http_error,
            Exception: _failed,
        },
    )
    _add_page(app, page)
    _add_state(app, service, model_name=model_name, token=token)
    _add_detect(app, service, token)
    _add_search(app, service, token)
    return app


def _from_own_page(request: Request) -> None:
    refuse_foreign_page(request.headers.get("sec-fetch-site"))


_FROM_OWN_PAGE = Depends(_from_own_page)


def _needs_token(token: str | None) -> Any:
    def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]) -> None:
        authorize(None if given is None else given.credentials, token)

    return Depends(check)


def _add_page(app: FastAPI, page: dict[str, Any]) -> None:
    def add(path: str) -> None:
        @app.get(path, include_in_schema=False)
        @app.head(path, include_in_schema=False)
        async def file() -> Response:
            return Response(page[path].content, media_type=page[path].media_type, headers={"Cache-Control": "no-cache"})

    for path in page:
        add(path)


def _add_state(app: FastAPI, service: Service, *, model_name: str, token: str | None) -> None:
    limits = LimitsInfo.model_validate(service.limits, from_attributes=True)

    @app.get("/health", responses={503: {"model": Health, "description": "The model has stopped."}})
    async def health(response: Response) -> Health:
        """Whether the service answers, and what it offers."""
        alive = service.worker.alive
        response.status_code = 200 if alive else 503
        return Health(
            status="ok" if alive else "stopped",
            model=model_name,
            version=__version__,
            score=service.score(None, ()),
            distractors=service.distractors((), None),
            classes=len(service.usual_names),
            built_in=service.is_built_in(None),
            waiting=service.admission.taken,
            search=service.index is not None,
            token=token is not None,
            limits=limits,
        )

    @app.get(
        "/metrics",
        dependencies=[_needs_token(token)],
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, 401: _PROBLEMS[401]},
    )
    async def metrics() -> Response:
        """Numbers for Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)


def _add_detect(app: FastAPI, service: Service, token: str | None) -> None:
    files = {"images": {"type": "array", "items": _FILE, "minItems": 1}}

    @app.post(
        "/detect",
        dependencies=[_FROM_OWN_PAGE, _needs_token(token)],
        responses=_PROBLEMS,
        openapi_extra=request_body(DetectRequest, DetectOptions, files, required=["images"]),
    )
    async def detect(request: Request) -> DetectResponse:
        """Find named objects in images, sent as files of a form or as base64 in JSON."""
        with service.admission.request() as place:
            deadline = service.deadline()
            reading = bodies.read_detect(bodies.limited(request, service.limits), service.limits)
            options, images = await _read(reading, deadline)
            place.grow(len(images))
            classes = None if options.classes is None else class_prompts(options.classes)
            query = Query(
                classes=None if classes is None else written_classes(classes),
                score=service.score(options.score, options.classes),
                distractors=_distractors(options.distractors),
                nms_iou=options.nms_iou,
                max_detections=options.max_detections,
                class_agnostic=options.class_agnostic,
            )
            found = await _unless_gone(request, service.detect(images, query, deadline))
            names = service.usual_names if classes is None else tuple(classes)
            coloured = classes or dict.fromkeys(name for detections in found for name in detections.names)
            return DetectResponse(
                images=[_described(detections) for detections in found],
                colours=ClassColour.of(coloured),
                score=query.score,
                usual_score=service.score(None, query.classes),
                classes=len(names),
                built_in=service.is_built_in(query.classes),
                distractors=service.distractors((*names, *other_prompts(classes or {})), query.distractors),
            )


def _add_search(app: FastAPI, service: Service, token: str | None) -> None:
    missing: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "The service has no index."}}

    @app.post(
        "/search",
        dependencies=[_FROM_OWN_PAGE, _needs_token(token)],
        responses=_PROBLEMS | missing,
        openapi_extra=request_body(SearchRequest, SearchOptions, {"image": _FILE}),
    )
    async def search(request: Request) -> SearchResponse:
        """Search the index for regions like a text, an image, or a box in an image."""
        index = service.index
        if index is None:
            raise RefusedError(404, "expected a service with an index, got none; start it with --db")
        with service.admission.request():
            deadline = service.deadline()
            reading = bodies.read_search(bodies.limited(request, service.limits), service.limits)
            options, image = await _read(reading, deadline)
            hits = await _unless_gone(request, service.search(index, options, image, deadline))
            small = await service.thumbnails(index, hits, deadline) if options.thumbnails else [None] * len(hits)
            return SearchResponse(regions=[_region(hit, thumbnail) for hit, thumbnail in zip(hits, small, strict=True)])


def _distractors(asked: Sequence[str] | None) -> tuple[str, ...] | None:
    """The distractors of a request, which may be a word for a list of ours; None for the model's own choice."""
    if isinstance(asked, str):
        return EVERYDAY_NAMES if asked == "everyday" else ()
    return None if asked is None else tuple(name.strip() for name in asked)


def _described(detections: Detections) -> FoundInImage:
    height, width = detections.image_size
    return FoundInImage(
        width=width,
        height=height,
        detections=[
            Found(name=name, score=round(score, 5), box=[round(corner, 2) for corner in box])
            for name, score, box in detections
        ],
    )


def _region(hit: Hit, thumbnail: str | None) -> Region:
    return Region(
        file=hit.file,
        box=[round(corner, 2) for corner in hit.box_xyxy_px],
        similarity=round(hit.similarity, 5),
        score=round(hit.score, 5),
        name=hit.label,
        thumbnail=thumbnail,
    )


async def _read(reading: Awaitable[_T], deadline: float) -> _T:
    """The content of a request.

    Raises:
        RefusedError: 408, it did not come in time; 499, the client went away while it was sending.
    """
    slow = RefusedError(408, "expected the whole request in time, got a part of it; send less at once")
    try:
        return await before(deadline, reading, lambda: slow)
    except ClientDisconnect:
        raise _client_gone() from None


async def _unless_gone(request: Request, answering: Awaitable[_T]) -> _T:
    """The answer, given up if the client goes away first; the request must have been read to its end.

    Raises:
        RefusedError: 499, the client has gone.
    """
    task = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _client_gone()
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _client_gone() -> RefusedError:
    """The error for a client that nobody can answer any more; only the metrics show its status."""
    return RefusedError(499, "expected a client that waits for the answer, got one that has gone")


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    headers = error.headers | ({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})
    return JSONResponse({"detail": str(error)}, status_code=error.status, headers=headers)


async def _bad_content(request: Request, error: Exception) -> Response:
    return JSONResponse({"detail": str(error)}, status_code=422)


async def _fixed_in_export(request: Request, error: Exception) -> Response:
    # Not the error's own text, which contains the path of the model on this machine.
    detail = (
        "expected options that the exported model was made with, got others; leave out nms_iou, max_detections, score"
    )
    return JSONResponse({"detail": detail}, status_code=422)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": str(error.detail)}, status_code=error.status_code, headers=error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    # The server logs the traceback; the client gets none of it.
    detail = "something went wrong inside the service; its log tells what"
    return JSONResponse({"detail": detail}, status_code=500, headers=HEADERS)
