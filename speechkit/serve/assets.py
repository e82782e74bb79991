"""The page at `/`: the files of the folder `page`, which load nothing from elsewhere."""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

FOLDER = Path(__file__).with_name("page")
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # a newer version of the package is seen at once
    "Cache-Control": "no-cache",
}


def _route(file: Path) -> Route:
    async def send(request: Request) -> Response:
        return FileResponse(file, media_type=TYPES[file.suffix], headers=HEADERS)

    return Route("/" if file.name == "index.html" else f"/page/{file.name}", send)


ROUTES = [_route(file) for file in sorted(FOLDER.iterdir()) if file.suffix in TYPES]
PATHS = frozenset(route.path for route in ROUTES)
"""What a browser may load without a token, so that the page can ask for it."""
