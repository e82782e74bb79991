"""The routes of a server."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp
from starlette.websockets import WebSocket

from speechkit.errors import SpeechkitError
from speechkit.serve import assets
from speechkit.serve.errors import ApiError, answer, api_error
from speechkit.serve.limits import Guard
from speechkit.serve.live import listen
from speechkit.serve.log import Log
from speechkit.serve.models import Net
from speechkit.serve.recordings import label, vad
from speechkit.serve.settings import Settings
from speechkit.serve.state import State
from speechkit.serve.transcriptions import transcriptions


async def models(request: Request) -> Response:
    """The models that are served."""
    state: State = request.app.state.serving
    return JSONResponse({"object": "list", "data": state.models.rows()})


async def health(request: Request) -> Response:
    """Whether requests are accepted: 503 while the server stops."""
    state: State = request.app.state.serving
    word = "stopping" if state.stopping else "ok"
    return JSONResponse({"status": word}, 503 if state.stopping else 200)


async def metrics(request: Request) -> Response:
    """The counters for Prometheus."""
    state: State = request.app.state.serving
    return state.metrics.response()


async def nowhere(socket: WebSocket) -> None:
    """A websocket with another path."""
    await socket.send_denial_response(api_error(HTTPException(404)).response)


ROUTES: list[BaseRoute] = [
    Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/vad", vad, methods=["POST"]),
    Route("/v1/classify", label, methods=["POST"]),
    WebSocketRoute("/v1/listen", listen),
    WebSocketRoute("/{path:path}", nowhere),
    Route("/healthz", health),
    Route("/metrics", metrics),
    *assets.ROUTES,
]
PATHS = frozenset(route.path for route in ROUTES if isinstance(route, Route | WebSocketRoute))


def app_of(nets: Mapping[str, Net], settings: Settings) -> tuple[ASGIApp, State]:
    """The application that serves plans or models by name, and what its requests share."""
    state = State(nets, settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            state.close()

    routes = Starlette(
        routes=ROUTES,
        lifespan=lifespan,
        exception_handlers=dict.fromkeys(
            (ApiError, SpeechkitError, HTTPException, ClientDisconnect, Exception), answer
        ),
    )
    routes.state.serving = state
    app: ASGIApp = Guard(routes, settings)
    if settings.origins:
        app = CORSMiddleware(
            app,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return Log(app, state.metrics, PATHS), state
