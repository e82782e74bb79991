"""Who may call a server, and how much a client may take."""

import asyncio
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from speechkit.errors import ConfigError
from speechkit.serve.errors import ApiError
from speechkit.serve.limits import Body
from speechkit.serve.settings import Settings

from .conftest import LISTEN, SPOKEN, Starts, service_of

TOKEN = {"Authorization": "Bearer right"}


@pytest.mark.parametrize(
    "given", [None, "", "Bearer wrong", "Bearer right ", "right", "Bearer \xe9"]
)
def test_a_wrong_token_is_refused(start: Starts, given: str | None) -> None:
    client = start(token="right")
    headers = {} if given is None else {"Authorization": given.encode("latin-1")}
    for path in ("/v1/models", "/metrics", "/no"):
        refused = client.get(path, headers=headers)
        assert (refused.status_code, refused.json()["error"]["type"]) == (
            *(401,),
            "authentication_error",
        )
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect(LISTEN, headers=httpx2.Headers(headers, encoding="latin-1")),
    ):
        pass
    assert denied.value.status_code == 401
    assert client.get("/healthz").status_code == 200


def test_the_right_token_lets_in(start: Starts) -> None:
    client = start(token="right")
    assert client.get("/v1/models", headers=TOKEN).status_code == 200
    with client.websocket_connect(LISTEN, headers=TOKEN) as socket:
        assert socket.receive_json()["event"] == "ready"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_machines_are_let_in_only_with_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="no token"):
        Settings(host=host)
    assert Settings(host=host, token="right").host == host


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.org"},
        {"Origin": "null"},
        # a name that leads to this machine
        {"Origin": "http://evil.org", "Host": "evil.org"},
        {"Host": "evil.org:8000"},
        # no URLs
        {"Host": "[localhost"},
        {"Origin": "http://[localhost"},
    ],
)
def test_pages_of_others_may_not_call(client: TestClient, headers: dict[str, str]) -> None:
    assert client.get("/v1/models", headers=headers).status_code == 403
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect(LISTEN, headers=headers),
    ):
        pass
    assert denied.value.status_code == 403


def test_own_pages_may_call(client: TestClient) -> None:
    for origin, host in (
        ("http://localhost", "localhost"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
    ):
        headers = {"Origin": origin, "Host": host}
        response = client.get("/v1/models", headers=headers)
        assert response.status_code == 200
        assert "access-control-allow-origin" not in response.headers


def test_named_origins_may_call(start: Starts) -> None:
    client = start(origins=("https://my.org",))
    headers = {"Origin": "https://my.org"}
    response = client.get("/v1/models", headers=headers)
    assert response.headers["access-control-allow-origin"] == "https://my.org"
    assert client.get("/v1/models", headers={"Origin": "https://my.org.evil"}).status_code == 403
    with client.websocket_connect(LISTEN, headers=headers) as socket:
        assert socket.receive_json()["event"] == "ready"


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_is_refused(start: Starts, chunked: bool) -> None:
    client = start(max_upload_bytes=10_000)
    body = b"x" * 10_001
    content: Any = iter([body[:6000], body[6000:]]) if chunked else body
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    refused = client.post("/v1/vad", content=content, headers=headers)
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_large")
    assert client.post("/v1/vad", files={"file": SPOKEN.read_bytes()}).status_code == 200


def test_a_body_that_comes_slowly_is_refused() -> None:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def read() -> None:
        body = Body(receive, 1000, 0.1)
        while True:
            await body()

    with pytest.raises(ApiError) as refused:
        asyncio.run(read())
    assert refused.value.status == 408


def test_an_address_has_so_many_connections(start: Starts) -> None:
    client = start(max_connections_per_address=1)
    with client.websocket_connect(LISTEN) as socket:
        socket.receive_json()
        refused = client.get("/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")
    assert client.get("/v1/models").status_code == 200
    assert not service_of(client).addresses.counts


@pytest.mark.parametrize(
    "wrong",
    [
        {"port": -1},
        {"port": 70_000},
        {"max_sessions": 0},
        {"workers": 0},
        {"max_upload_bytes": 0},
        {"token": "caf\xe9"},
        {"models": ()},
    ],
)
def test_impossible_settings_are_refused(start: Starts, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        start(**wrong)
