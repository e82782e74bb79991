"""Opens a page in headless Chromium, whose script leaves its answer in `window.found`."""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
PROGRAMS = "chromium", "google-chrome"
FLAGS = (
    *("--no-sandbox", "--autoplay-policy=no-user-gesture-required"),
    *("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"),
)


def program() -> str | None:
    """The browser that is installed, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Handler(SimpleHTTPRequestHandler):
    """Serves the repository and other folders."""

    def __init__(self, folders: Mapping[str, Path], *args: Any) -> None:
        self._folders = folders
        super().__init__(*args, directory=str(ROOT))

    def translate_path(self, path: str) -> str:
        name, _, rest = path.lstrip("/").partition("/")
        return (
            str(self._folders[name] / rest)
            if name in self._folders
            else super().translate_path(path)
        )

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def served(folders: Mapping[str, Path]) -> Iterator[str]:
    """The address of the repository, and of each of `folders` by its name, in the block."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folders)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def answer_of(
    page: str,
    given: Mapping[str, Any],
    folders: Mapping[str, Path],
    *flags: str,
    longest_s: float = 120,
) -> Any:
    """`found` of a page, whose script gets `given`; each of `folders` has a name in its addresses.

    Raises playwright's TimeoutError after `longest_s`.
    """
    browser = program()
    assert browser, f"install one of {', '.join(PROGRAMS)}"
    with served(folders) as address, sync_playwright() as player:
        running = player.chromium.launch(executable_path=browser, args=[*FLAGS, *flags])
        opened = running.new_page()
        opened.add_init_script(f"window.given = {json.dumps(given)}")
        opened.goto(f"{address}/{page}")
        opened.wait_for_function("window.found", timeout=1000 * longest_s)
        found = opened.evaluate("window.found")
        running.close()
    return found
