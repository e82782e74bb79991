"""A server on this machine's own address, sound to send to it, and clients of its websocket."""

import contextlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from speechkit.card import bundled_folders
from speechkit.cli.main import run as run_command
from speechkit.cli.models import load_net
from speechkit.serve.server import Server, server_of
from speechkit.serve.settings import Limits, Settings

CLIPS = next(iter(bundled_folders())).parents[1] / "clips"


@dataclass
class Running:
    """A server in a thread, its address, and an HTTP client."""

    server: Server
    url: str
    http: httpx.Client

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", int(self.url.rpartition(":")[2])

    @property
    def sessions(self) -> int:
        """The rows that are taken now."""
        return sum(map(len, self.server._serving.sessions.values()))

    def listen(self, query: str = "", **options: Any) -> ClientConnection:
        """A websocket with the query `query`."""
        return connect(f"ws{self.url[4:]}/v1/listen?{query}", **options)

    def wait_until_free(self) -> None:
        """Returns when no session is left; fails if one is leaked."""
        for _ in range(400):
            if not self.sessions:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.sessions} sessions are left")


@contextlib.contextmanager
def running(models: Sequence[str], **settings: Any) -> Iterator[Running]:
    """A server of bundled models until the end of the block."""
    server = server_of({name: load_net(name) for name in models}, Settings(port=0, **settings))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(256)
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=300) as http:
                while http.get("/healthz").status_code != 200:
                    time.sleep(0.05)
                yield Running(server, url, http)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    """A server of the bundled models, whose limits no test reaches."""
    with running(["an4", "vad", "digits"], limits=Limits(per_address=1000)) as found:
        yield found


@pytest.fixture(scope="session")
def speech(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording at 8 kHz with digits and pauses."""
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    parts: list[Any] = [np.zeros(4000)]
    for clip in sorted(CLIPS.glob("*.flac"))[:5]:
        x, rate = soundfile.read(clip)
        assert rate == 8000
        parts += [x, np.zeros(8000)]
    soundfile.write(path, np.concatenate(parts), 8000, "PCM_16")
    return path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`command(...)` is what a command of speechkit prints."""

    def call(*arguments: object) -> str:
        capfd.readouterr()
        assert run_command([str(argument) for argument in arguments]) == 0
        return capfd.readouterr().out

    return call


def pcm(path: Path, encoding: str = "s16le") -> bytes:
    """The samples of a recording without a header."""
    kind = "int16" if encoding == "s16le" else "float32"
    samples: bytes = soundfile.read(path, dtype=kind)[0].tobytes()
    return samples


def wav(samples: Any, rate: int = 8000, subtype: str = "PCM_16") -> bytes:
    """A WAV file of samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, subtype, format="WAV")
    return file.getvalue()


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def heard(socket: ClientConnection) -> list[dict[str, Any]]:
    """All that a server sends until it closes."""
    found: list[dict[str, Any]] = []
    # closing with another code than 1000 is an error of the client's library
    with contextlib.suppress(ConnectionClosedError):
        found.extend(json.loads(message) for message in socket)
    return found
