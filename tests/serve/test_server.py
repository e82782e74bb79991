"""A server as a process: real clients, faults of the network, and its end."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from speechkit.infer import transcribe

from .conftest import DIGIT, SPOKEN
from .test_live import pcm

ROUTE = "/v1/audio/transcriptions"


class Running:
    """A server on a free port of this machine."""

    def __init__(self, *arguments: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "speechkit", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.url: str = self.ready["url"]
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.address = host, int(port)
        # a full pipe would stop the server
        self.err = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.err += line

    def end(self) -> int:
        """Sends SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        assert "Traceback" not in self.err
        return code


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    running = Running()
    yield running
    assert running.end() == 0


def live_sessions(running: Running) -> int:
    text = httpx.get(f"{running.url}/metrics").text
    rows = [line for line in text.splitlines() if line.startswith("speechkit_live_sessions{")]
    return round(sum(float(row.split()[-1]) for row in rows))


def test_ready_names_the_address_and_the_models(server: Running) -> None:
    assert server.ready["event"] == "ready"
    assert server.ready["models"] == ["an4", "vad", "digits"]
    assert server.address[0] == "127.0.0.1"


def test_openai_client_transcribes(server: Running) -> None:
    openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert {model.id for model in client.models.list()} == {"an4", "vad", "digits"}
        create = client.audio.transcriptions.create
        expected = transcribe("an4", SPOKEN)
        assert create(file=SPOKEN, model="an4").text == expected.text
        assert create(file=SPOKEN, model="an4", response_format="text") == expected.text + "\n"
        for form in ("srt", "vtt"):
            assert expected.text in create(file=SPOKEN, model="an4", response_format=form)
        found = create(
            file=SPOKEN,
            model="an4",
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        words = [(word.word, word.start, word.end) for word in found.words]
        assert words == [
            (word.text, round(word.start_s, 6), round(word.end_s, 6)) for word in expected.words
        ]
        *deltas, done = create(file=SPOKEN, model="an4", stream=True)
        assert "".join(event.delta for event in deltas) == done.text == expected.text
        with pytest.raises(openai.NotFoundError, match="there is no model 'whisper-1'"):
            create(file=SPOKEN, model="whisper-1")


async def connection(running: Running, query: str = "model=an4") -> Any:
    from websockets.asyncio.client import connect

    return await connect(f"{running.url.replace('http', 'ws')}/v1/listen?{query}", proxy=None)


async def everything(socket: Any) -> list[dict[str, Any]]:
    return [json.loads(message) async for message in socket]


def test_clients_that_vanish_leave_nothing(server: Running) -> None:
    async def vanish() -> None:
        sockets = [await connection(server) for _ in range(5)]
        for each in sockets:
            await each.send(pcm(SPOKEN, 16000)[:20000])
            each.transport.abort()

    asyncio.run(vanish())
    # its row is free as soon as the server has noticed
    while live_sessions(server):
        pass


def test_vanished_uploads_leave_nothing(server: Running) -> None:
    for _ in range(5):
        with socket.create_connection(server.address) as raw:
            raw.sendall(
                f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n"
                "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n".encode()
            )
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def exchange(running: Running, data: bytes, patience_s: float = 0.1) -> bytes:
    """What a server answers to raw bytes, until it closes the connection or waits for more."""
    answer = b""
    with socket.create_connection(running.address, timeout=patience_s) as raw:
        try:
            raw.sendall(data)
            while piece := raw.recv(65536):
                answer += piece
        except (ConnectionError, TimeoutError):
            pass
    return answer


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def request(length: int | None = None) -> bytes:
    """A good request."""
    head, tail = (
        b'--b\r\nContent-Disposition: form-data; name="response_format"\r\n\r\nsrt\r\n'
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n',
        b"\r\n--b--\r\n",
    )
    body = head + DIGIT.read_bytes() + tail
    return (
        f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {length or len(body)}\r\n\r\n"
    ).encode() + body


def mutated(chance: random.Random) -> bytes:
    data = bytearray(request())
    for _ in range(chance.randint(1, 8)):
        # the first 500 bytes are headers and fields
        at = chance.randrange(min(len(data), chance.choice([500, 5000])))
        match chance.randrange(4):
            case 0:
                data[at] = chance.randrange(256)
            case 1:
                del data[at : at + chance.randint(1, 50)]
            case 2:
                data[at:at] = chance.randbytes(chance.randint(1, 50))
            case _:
                data[at:at] = data[at : at + chance.randint(1, 200)]
    return bytes(data)


def attack(running: Running, count: int, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(count):
        data = mutated(chance)
        answer = exchange(running, data)
        assert b"Traceback" not in answer, data
        status = answer[9:12]
        assert not status.startswith(b"5"), (data, answer)
        if status.startswith(b"4") and b"\r\n\r\n" in answer:
            assert b"\n" not in body_of(answer), data
            assert json.loads(body_of(answer))["error"]["message"], data
    assert httpx.get(f"{running.url}/healthz").status_code == 200
    assert live_sessions(running) == 0


def test_mutated_requests_are_answered_in_one_line(server: Running) -> None:
    assert exchange(server, request(), 30).startswith(b"HTTP/1.1 200")
    attack(server, 300, seed=0)


@pytest.mark.slow
def test_ten_thousand_mutated_requests(server: Running) -> None:
    attack(server, 10_000, seed=1)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """`running(*options)` starts a server of one's own."""
    started: list[Running] = []

    def start(*arguments: str, **env: str) -> Running:
        started.append(Running(*arguments, env=env))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end()


def test_a_token_comes_from_a_file_or_the_environment(
    running: Callable[..., Running], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("of a file\n")
    for server, token in (
        (running("vad", "--token", str(tmp_path / "token")), "of a file"),
        (running("vad", SPEECHKIT_TOKEN="of the environment"), "of the environment"),
    ):
        url = f"{server.url}/v1/models"
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_a_taken_port_is_told_in_one_line(server: Running) -> None:
    command = [sys.executable, "-m", "speechkit", "serve", "vad", "--port", str(server.address[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "address already in use" in done.stderr


def test_an_empty_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\n")
    command = [sys.executable, "-m", "speechkit", "serve", "--token", str(tmp_path / "token")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "token is empty" in done.stderr


def test_term_under_load_answers_what_was_accepted(running: Callable[..., Running]) -> None:
    server = running("an4", "vad")
    data = pcm(SPOKEN, 16000)[:44800]

    async def load() -> tuple[list[Any], list[Any], list[Any]]:
        async with httpx.AsyncClient(timeout=60) as client:

            async def upload() -> httpx.Response:
                files = {"file": SPOKEN.read_bytes()}
                return await client.post(server.url + ROUTE, files=files)

            whole = await connection(server)
            await whole.send(data)
            await whole.send('{"type": "end"}')
            expected = await everything(whole)
            sockets = [await connection(server) for _ in range(5)]
            uploads = [asyncio.create_task(upload()) for _ in range(5)]
            rows: list[list[Any]] = [[] for _ in sockets]
            for socket, own in zip(sockets, rows, strict=True):
                await socket.send(data)
                while not own or own[-1]["event"] != "partial":
                    own.append(json.loads(await socket.recv()))
            # all uploads were accepted by now, or are refused in one line
            server.process.send_signal(signal.SIGTERM)
            for socket, own in zip(sockets, rows, strict=True):
                own += await everything(socket)
            answers = await asyncio.gather(*uploads)
        return expected, rows, answers

    expected, rows, answers = asyncio.run(load())
    assert server.wait() == 0
    assert expected[-2]["event"] == "final"
    assert rows == [expected] * 5
    for answer in answers:
        if answer.status_code == 200:
            assert answer.json() == {"text": "enter five"}
        else:
            assert answer.json()["error"]["code"] == "stopping"


def test_slow_headers_are_cut_off() -> None:
    from speechkit.serve.server import protocol_of

    closed = []

    async def dribble(sent: bytes) -> None:
        from uvicorn import Config
        from uvicorn.server import ServerState

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        config = Config(app, lifespan="off", log_config=None)
        config.load()
        protocol = protocol_of(0.05)
        loop = asyncio.get_running_loop()
        state = ServerState()
        server = await loop.create_server(lambda: protocol(config, state, {}), "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(sent)
            # ends when the server closes the connection
            closed.append(await asyncio.wait_for(reader.read(), 10))
            writer.close()

    for sent in (b"", b"GET / HTTP/1.1\r\nHost: ", b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / "):
        asyncio.run(dribble(sent))
    assert closed[:2] == [b"", b""]
    assert closed[2].startswith(b"HTTP/1.1 204")
