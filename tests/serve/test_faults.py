"""Clients that are slow, wrong, too many or gone, and the end of a server."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from speechkit.errors import ConfigError
from speechkit.serve.settings import Limits, Settings, token_of

from .conftest import Running, heard, pcm, rows, running

# starlette leaves the file of a form that ends early to the garbage collector, which deletes it
pytestmark = pytest.mark.filterwarnings("ignore:.*SpooledTemporaryFile")

TOKEN = "a-token-of-the-tests"
END = json.dumps({"type": "end"})


@pytest.fixture(scope="module")
def strict() -> Iterator[Running]:
    """A server with a token and low limits."""
    limits = Limits(upload_bytes=400_000, upload_s=2, per_address=4, headers_s=0.5, stall_s=0.5)
    with running(["vad"], token=TOKEN, limits=limits, origins=("https://page.example",)) as found:
        found.http.headers["Authorization"] = f"Bearer {TOKEN}"
        yield found


def raw(server: Running, *pieces: bytes) -> bytes:
    """All that a server answers to bytes."""
    with socket.create_connection(server.address, timeout=60) as client:
        for piece in pieces:
            client.sendall(piece)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                found += data
    return found


def error_of(answer: bytes) -> tuple[int, dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


@pytest.mark.parametrize("given", ["", "Bearer wrong", f"Basic {TOKEN}", "Bearer \xe9", "Bearer"])
def test_a_wrong_token_is_refused(strict: Running, given: str) -> None:
    headers = {"Authorization": given.encode("latin-1")} if given else {}
    for path in ("/v1/models", "/metrics", "/nothing"):
        found = httpx.get(strict.url + path, headers=headers)
        assert (found.status_code, found.json()["error"]["code"]) == (401, "invalid_api_key")
    assert httpx.get(f"{strict.url}/healthz").status_code == 200
    with pytest.raises(InvalidStatus) as refused, strict.listen():
        pass
    assert refused.value.response.status_code == 401


def test_a_token_may_be_a_subprotocol(strict: Running) -> None:
    with strict.listen(subprotocols=["bearer", TOKEN]) as socket:
        assert (json.loads(socket.recv())["event"], socket.subprotocol) == ("ready", "bearer")
    with pytest.raises(InvalidStatus), strict.listen(subprotocols=["bearer", "another"]):
        pass


def test_other_pages_are_refused(strict: Running) -> None:
    for origin in ("https://other.example", "null", "http://[", strict.url + "0"):
        found = strict.http.get("/v1/models", headers={"Origin": origin})
        assert (found.status_code, found.json()["error"]["code"]) == (403, "origin_not_allowed")
    own = strict.http.get("/v1/models", headers={"Origin": strict.url})
    assert (own.status_code, own.headers.get("access-control-allow-origin")) == (200, None)
    allowed = strict.http.get("/v1/models", headers={"Origin": "https://page.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://page.example"


def test_other_names_of_this_machine_are_refused(server: Running) -> None:
    for host in ("other.example", "other.example:80", "127.0.0.1.other.example", "[", "8.8.8.8"):
        origin = {"Host": host, "Origin": f"http://{host}"}
        for headers in (origin, {"Host": host}):
            found = server.http.get("/v1/models", headers=headers)
            assert (found.status_code, found.json()["error"]["code"]) == (403, "host_not_allowed")
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:8000"):
        assert server.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_a_body_that_is_too_large_is_refused(strict: Running) -> None:
    big = {"file": ("a.wav", b"x" * 400_001)}
    assert strict.http.post("/v1/vad", files=big).json()["error"]["code"] == "too_large"
    # without a length
    head = f"POST /v1/vad HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    chunks = [b"%x\r\n%s\r\n" % (len(data), data) for data in (part, b"x" * 400_000)]
    status, error = error_of(raw(strict, head.encode(), *chunks))
    assert (status, error["code"]) == (413, "too_large")


def test_a_client_that_still_sends_sees_the_answer(strict: Running) -> None:
    head = f"POST /v1/vad HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Length: 20000000\r\n\r\n"
    pieces = [b"x" * 100_000] * 200
    for _ in range(5):
        status, error = error_of(raw(strict, head.encode(), *pieces))
        assert (status, error["code"]) == (413, "too_large")
    # one that sends no more is not waited for long
    assert error_of(raw(strict, head.encode()))[0] == 413


def test_a_recording_that_is_too_long_is_refused(strict: Running, speech: Path) -> None:
    found = strict.http.post("/v1/vad", files={"file": speech.read_bytes()})
    assert (found.status_code, found.json()["error"]["code"]) == (413, "too_long")


def test_slow_headers_and_bodies_are_refused(strict: Running) -> None:
    assert error_of(raw(strict, b""))[0] == 408
    assert error_of(raw(strict, b"GET /healthz HT"))[0] == 408
    head = f"POST /v1/vad HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99\r\n\r\n"
    status, error = error_of(raw(strict, head.encode(), b"--x"))
    assert (status, error["type"]) == (408, "invalid_request_error")


def test_a_client_that_goes_within_its_body_is_no_fault_of_the_server(strict: Running) -> None:
    head = f"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 99\r\n\r\n--x"
    with socket.create_connection(strict.address) as client:
        client.sendall(head.encode())
    counts, count = "", 'speechkit_requests_total{path="/v1/classify",status='
    while count not in counts:
        counts = strict.http.get("/metrics").text
    assert f'{count}"400"}} 1.0' in counts


def test_bytes_that_are_no_http_are_refused(strict: Running) -> None:
    status, error = error_of(raw(strict, b"\x16\x03\x01\x02 hello\r\n\r\n"))
    assert (status, error["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        (b"X: " + b"a" * 9000 + b"\r\n", 431),
        (b"X: a\r\n" * 200, 431),
        (b"Content-Length: 5\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n", 400),
    ],
)
def test_a_handshake_that_is_not_understood_is_refused(
    server: Running, more: bytes, status: int
) -> None:
    head = b"GET /v1/listen HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n" + more
    head += b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    found = raw(server, head + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
    assert error_of(found)[0] == status


def test_too_many_connections_of_an_address_are_refused(strict: Running) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(strict.listen(additional_headers=headers))
        found = strict.http.get("/v1/models")
        assert (found.status_code, found.headers["Retry-After"]) == (429, "1")
    strict.wait_until_free()
    assert strict.http.get("/v1/models").status_code == 200


def mutated(chance: random.Random, request: bytes) -> bytes:
    """A request with a few bytes changed, removed, or repeated."""
    data = bytearray(request)
    for _ in range(chance.randint(1, 6)):
        at, how = chance.randrange(len(data)), chance.randrange(3)
        end = min(len(data), at + chance.randint(1, 30))
        if how == 0:
            data[at] = chance.randrange(256)
        elif how == 1 and end - at < len(data):
            del data[at:end]
        else:
            data[at:at] = data[at:end]
    return bytes(data)


def survive(server: Running, speech: Path, count: int) -> None:
    form = (
        b'--x\r\nContent-Disposition: form-data; name="response_format"\r\n\r\njson\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        + speech.read_bytes()[:4000]
        + b"\r\n--x--\r\n"
    )
    head = "POST %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n"
    head += "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    listen = (
        b"GET /v1/listen?model=vad&rate=8000 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        b"dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x82\x84\0\0\0\0\0\1\0\1\x81\x8e\0\0\0\0{"
        b'"type":"end"}'
    )
    requests = [(head % (path, len(form))).encode() + form for path in ("/v1/vad", "/v1/classify")]
    chance = random.Random(0)
    for _ in range(count):
        request = mutated(chance, chance.choice([*requests, listen]))
        with socket.create_connection(server.address, timeout=60) as client:
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while data := client.recv(65536):
                    answer += data
        assert b"Traceback" not in answer
        first = answer.split(b"\r\n", 1)[0]
        if first[:9] == b"HTTP/1.1 " and first[9:12] >= b"400":
            assert set(error_of(answer)[1]) == {"message", "type", "param", "code"}
            assert first[9:12] != b"500", answer
    server.wait_until_free()
    assert server.http.get("/healthz").status_code == 200


def test_mutated_requests_are_answered_in_one_line(server: Running, speech: Path) -> None:
    survive(server, speech, 300)


@pytest.mark.slow
def test_ten_thousand_mutated_requests_are_answered_in_one_line(
    server: Running, speech: Path
) -> None:
    survive(server, speech, 10_000)


def test_a_token_is_needed_for_other_machines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--token FILE or SPEECHKIT_TOKEN"):
        Settings(host="0.0.0.0")
    with pytest.raises(ConfigError, match="at least 16"):
        Settings(token="short")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "empty").write_text("\n")
    assert Settings(host="0.0.0.0", token=token_of(tmp_path / "token")).token == TOKEN
    with pytest.raises(ConfigError, match="is empty"):
        token_of(tmp_path / "empty")
    with pytest.raises(ConfigError, match="stall_s=0: give seconds above 0"):
        Limits(stall_s=0)


@pytest.mark.parametrize(
    "origin", ["*", "page.example", "https://page.example/", "https://*.example"]
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ConfigError, match="give a scheme and a host"):
        Settings(origins=(origin,))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_may_be_ended_as_soon_as_it_is_ready(number: int) -> None:
    command = [sys.executable, "-m", "speechkit", "serve", "vad", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert b"warning" not in process.communicate(timeout=60)[1]
    assert process.returncode == 0


def test_a_terminated_server_answers_what_is_open(speech: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "speechkit", "serve", "vad", "an4", "--port", "0"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    with process, contextlib.ExitStack() as stack:
        stack.callback(process.kill)
        ready = json.loads(process.stdout.readline())
        assert ready["models"] == ["vad", "an4"]
        url = f"ws{ready['url'][4:]}/v1/listen?model=vad&rate=8000"
        sockets = [stack.enter_context(connect(url)) for _ in range(4)]
        for client in sockets:
            assert json.loads(client.recv())["event"] == "ready"
            client.send(pcm(speech))
            # all is taken once speech has started
            assert json.loads(client.recv())["event"] == "speech_start"
        address = ("127.0.0.1", int(ready["url"].rpartition(":")[2]))
        form = (
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
            + speech.read_bytes()
            + b"\r\n--x--\r\n"
        )
        head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost"
        head += f"\r\nContent-Length: {len(form)}"
        head += "\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
        request = stack.enter_context(socket.create_connection(address, timeout=300))
        request.sendall(head.encode() + form[:-10])
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGTERM)
        for client in sockets:
            found = heard(client)
            assert found[-1]["event"] == "end"
            assert found[-1]["heard_s"] > 0
            # what began has ended
            assert found[-2]["event"] == "speech_end"
            assert client.close_code == 1001
        request.sendall(form[-10:])
        answer = b""
        while data := request.recv(65536):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200")
        assert process.wait(60) == 0
    lines = (tmp_path / "log").read_text()
    assert "Traceback" not in lines
    statuses = [row["status"] for row in rows("\n".join(x for x in lines.split("\n") if "{" in x))]
    assert sorted(statuses) == [101, 101, 101, 101, 200]
