"""Opens a page of the repository in headless Chromium; what it posts back is the answer."""

import json
import queue
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[1]
PROGRAMS = "chromium", "google-chrome"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-background-networking", "--mute-audio"),
    *("--autoplay-policy=no-user-gesture-required", "--use-fake-ui-for-media-stream"),
    "--use-fake-device-for-media-stream",
)


def program() -> str | None:
    """The browser that is installed, or None."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Handler(SimpleHTTPRequestHandler):
    """Serves the repository and other folders, and takes the answer."""

    def __init__(
        self, folders: Mapping[str, Path], answers: "queue.Queue[Any]", *args: Any
    ) -> None:
        self._folders, self._answers = folders, answers
        super().__init__(*args, directory=str(ROOT))

    def translate_path(self, path: str) -> str:
        name, _, rest = path.partition("?")[0].lstrip("/").partition("/")
        if name in self._folders and ".." not in rest:
            return str(self._folders[name] / rest)
        return super().translate_path(path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self._answers.put(json.loads(body))

    def log_message(self, *args: Any) -> None:
        pass


def answer_of(
    page: str,
    given: Mapping[str, Any],
    folders: Mapping[str, Path],
    *flags: str,
    longest_s: float = 120,
) -> Any:
    """What a page posts, which reads `given` as JSON behind its #; each of `folders` has a name
    in the addresses that it may open. Raises queue.Empty after `longest_s`."""
    browser = program()
    assert browser, f"install one of {', '.join(PROGRAMS)}"
    answers: queue.Queue[Any] = queue.Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, folders, answers))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{page}#{quote(json.dumps(given))}"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        running = subprocess.Popen(
            [browser, *FLAGS, *flags, f"--user-data-dir={profile}", address],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return answers.get(timeout=longest_s)
        finally:
            running.terminate()
            running.wait(10)
            server.shutdown()
            server.server_close()
