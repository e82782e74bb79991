"""The routes of a server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import time

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from speechkit.serve.access import Access
from speechkit.serve.errors import ApiError
from speechkit.serve.live import listen
from speechkit.serve.models import Models
from speechkit.serve.recordings import label, vad
from speechkit.serve.service import Service, service_of
from speechkit.serve.settings import Settings
from speechkit.serve.transcriptions import transcriptions

LOADED_S = int(time())
"""When the server was started, which the list of models gives."""


def make_app(settings: Settings) -> Starlette:
    """The ASGI application of a server, its models loaded."""
    service = Service(settings, Models(settings.models))
    routes: list[Route | WebSocketRoute] = [
        Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
        Route("/v1/vad", vad, methods=["POST"]),
        Route("/v1/classify", label, methods=["POST"]),
        Route("/v1/models", models),
        Route("/healthz", health),
        Route("/metrics", metrics),
        WebSocketRoute("/v1/listen", listen),
    ]
    layers = [Middleware(Access, service=service, routes=frozenset(r.path for r in routes))]
    if settings.origins:
        cors = Middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization"],
        )
        layers.insert(0, cors)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.open()
        yield
        service.close()

    app = Starlette(
        routes=routes,
        middleware=layers,
        lifespan=lifespan,
        exception_handlers={HTTPException: _as_json},
    )
    app.state.service = service
    return app


async def models(request: Request) -> Response:
    """The models, as OpenAI's API lists them, each with its verb."""
    about = {"object": "model", "created": LOADED_S, "owned_by": "speechkit"}
    rows = [
        {"id": served.name, **about, "verb": served.about.verb}
        for served in service_of(request).models
    ]
    return JSONResponse({"object": "list", "data": rows})


async def health(request: Request) -> Response:
    """Whether the server takes requests."""
    if service_of(request).stopping:
        return JSONResponse({"status": "stopping"}, 503)
    return JSONResponse({"status": "ok"})


async def metrics(request: Request) -> Response:
    """The figures in Prometheus's text format."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4")


async def _as_json(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "unknown_path", 405: "wrong_method"}.get(error.status_code, "wrong_request")
    message = f"{request.method} {request.url.path}: {error.detail}"
    response = ApiError(error.status_code, message, code).response
    response.headers.update(error.headers or {})
    return response
