"""A server within the test's process, and recordings to send to it."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

import speechkit as sk
from speechkit.cli.main import run
from speechkit.serve.app import make_app
from speechkit.serve.service import Service
from speechkit.serve.settings import Settings

CLIPS = Path(sk.__file__).parent / "bundled" / "clips"
SPOKEN, DIGIT = CLIPS / "an4_ffmm.opus", CLIPS / "7_lucas_2.flac"
OURS, LISTEN = "http://localhost", "ws://localhost/v1/listen"
"""Where requests of clients go; Starlette's own default is a foreign host."""

Starts = Callable[..., TestClient]


class Lines(logging.Handler):
    """Keeps the lines of the log of requests."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.rows.append(json.loads(record.getMessage()))


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The log of requests."""
    handler = Lines()
    log = logging.getLogger("speechkit.serve.requests")
    before, log.handlers = log.handlers, [handler]
    yield handler
    log.handlers = before


@pytest.fixture
def start(lines: Lines) -> Iterator[Starts]:
    """`start(max_sessions=1)` starts a server with these settings; no session may be left over."""
    clients: list[TestClient] = []

    def started(**settings: Any) -> TestClient:
        small = {"max_sessions": 4, **settings}
        client = TestClient(make_app(Settings(**small)), OURS, raise_server_exceptions=True)
        clients.append(client)
        return client.__enter__()

    yield started
    for client in clients:
        service = service_of(client)
        client.__exit__(None, None, None)
        assert not service.live
        assert service.jobs.accepted == 0
        assert not service.addresses.counts
        for sessions in service.sessions.values():
            assert len(sessions) == 0
            assert sorted(sessions.pool._free) == list(range(sessions.pool.capacity))


@pytest.fixture
def client(start: Starts) -> TestClient:
    """A server with the bundled models."""
    return start()


def service_of(client: TestClient) -> Service:
    service: Service = client.app.state.service
    return service


def printed(capfd: pytest.CaptureFixture[str], *command: object) -> list[dict[str, Any]]:
    """The rows that a command prints."""
    capfd.readouterr()
    assert run([str(argument) for argument in command]) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]
