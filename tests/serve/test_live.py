"""Live connections give what `listen --file --json` prints."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from speechkit.data import read_samples

from .conftest import DIGIT, LISTEN, SPOKEN, Starts, printed, service_of

END = {"type": "end"}


def heard(client: TestClient, query: str, data: bytes, size: int) -> list[dict[str, Any]]:
    """The rows of a connection that sends data in messages of some size."""
    with client.websocket_connect(f"{LISTEN}?{query}") as socket:
        for at in range(0, len(data), size):
            socket.send_bytes(data[at : at + size])
        socket.send_json(END)
        rows = []
        while not rows or rows[-1]["event"] != "end":
            rows.append(socket.receive_json())
            assert "error" not in rows[-1], rows[-1]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
        assert closed.value.code == 1000
    return [row for row in rows if row["event"] != "backlog"]


def pcm(path: Path, rate: int, encoding: str = "s16le") -> bytes:
    samples = np.pad(read_samples(path, target_rate=rate), rate // 2).clip(-1, 1)
    if encoding == "f32le":
        return samples.astype("<f4").tobytes()
    return (samples * 32767).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("model", "path", "kinds"),
    [
        ("vad", SPOKEN, {"speech_start", "speech_end"}),
        ("an4", SPOKEN, {"partial", "final"}),
        ("digits", DIGIT, {"keyword"}),
    ],
)
@pytest.mark.parametrize(
    ("encoding", "rate"), [("s16le", 16000), ("f32le", 8000), ("s16le", 44100)]
)
def test_events_are_those_of_listen(
    client: TestClient,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    model: str,
    path: Path,
    kinds: set[str],
    encoding: str,
    rate: int,
) -> None:
    data = pcm(path, rate, encoding)
    (tmp_path / "sound.raw").write_bytes(data)
    asked = "--model", model, "--file", tmp_path / "sound.raw", "--raw", encoding, "--rate", rate
    expected = printed(capfd, "listen", *asked, "--json")
    assert kinds <= {row["event"] for row in expected}
    query = f"model={model}&encoding={encoding}&rate={rate}"
    for size in (997, 8000, len(data)):
        assert heard(client, query, data, size) == expected


def test_one_byte_messages_give_the_same(client: TestClient) -> None:
    data = pcm(SPOKEN, 8000)[:20000]
    query = "model=vad&rate=8000"
    assert heard(client, query, data, 1) == heard(client, query, data, len(data))


@pytest.mark.parametrize("size", [1000, 10**9])
def test_webm_gives_what_its_file_gives(
    client: TestClient, capfd: pytest.CaptureFixture[str], tmp_path: Path, size: int
) -> None:
    (tmp_path / "sound.webm").write_bytes(data := webm(SPOKEN))
    expected = printed(
        capfd, "listen", "--model", "an4", "--file", tmp_path / "sound.webm", "--json"
    )
    assert "final" in {row["event"] for row in expected}
    assert heard(client, "model=an4&encoding=webm", data, size) == expected


def webm(path: Path) -> bytes:
    """Opus in WebM, whose length is unknown, as `MediaRecorder` writes it."""
    av = pytest.importorskip("av")
    samples = np.pad(read_samples(path, target_rate=48000), (0, 24000))
    file = io.BytesIO()
    with av.open(file, "w", format="webm", options={"live": "1"}) as container:
        track = container.add_stream("libopus", rate=48000, layout="mono")
        for at in range(0, len(samples), 960):
            part = np.ascontiguousarray(samples[None, at : at + 960])
            frame = av.AudioFrame.from_ndarray(part, "flt", "mono")
            frame.sample_rate, frame.pts = 48000, at
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return file.getvalue()


def test_connections_at_once_do_not_change_each_other(client: TestClient) -> None:
    data = pcm(SPOKEN, 16000)
    expected = heard(client, "model=an4", data, 3200)
    with (
        client.websocket_connect(f"{LISTEN}?model=an4") as one,
        client.websocket_connect(f"{LISTEN}?model=an4") as other,
    ):
        found: tuple[list[Any], list[Any]] = ([], [])
        for at in range(0, len(data), 3200):
            one.send_bytes(data[at : at + 3200])
            other.send_bytes(data[at : at + 3200])
        for socket, rows in zip((one, other), found, strict=True):
            socket.send_json(END)
            while not rows or rows[-1]["event"] != "end":
                rows.append(socket.receive_json())
    assert found == (expected, expected)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("model=none", 404),
        ("encoding=mp3", 400),
        ("rate=fast", 400),
        ("rate=1", 400),
        ("rate=9999999999", 400),
    ],
)
def test_a_wrong_query_is_refused(client: TestClient, query: str, status: int) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(f"{LISTEN}?{query}"),
    ):
        pass
    assert refused.value.status_code == status
    assert "\n" not in refused.value.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "data"),
    [
        ("encoding=f32le", np.full(99, np.nan, "<f4").tobytes()),
        ("encoding=f32le", np.full(99, 1e9, "<f4").tobytes()),
        ("encoding=webm", b"this is no webm" * 999),
        ("encoding=s16le", b"odd"),
    ],
)
def test_garbage_ends_a_connection_in_one_line(client: TestClient, query: str, data: bytes) -> None:
    with client.websocket_connect(f"{LISTEN}?{query}") as socket:
        socket.send_bytes(data)
        socket.send_json(END)
        rows = [socket.receive_json(), socket.receive_json()]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert rows[0]["event"] == "ready"
    assert "\n" not in rows[1]["error"]["message"]
    assert closed.value.code == 1008


@pytest.mark.parametrize("text", ["", "end", "[]", '{"type": "start"}', "[" * 100_000])
def test_unknown_messages_are_refused(client: TestClient, text: str) -> None:
    with client.websocket_connect(LISTEN) as socket:
        socket.send_text(text)
        assert socket.receive_json()["event"] == "ready"
        assert socket.receive_json()["error"]["code"] == "wrong_message"


def test_a_client_that_vanishes_leaves_its_row(start: Starts) -> None:
    client = start(max_sessions=1)
    for _ in range(3):
        with client.websocket_connect(LISTEN) as socket:
            socket.send_bytes(bytes(1000))
            assert socket.receive_json()["event"] == "ready"


def test_all_rows_taken_is_told_to_the_client(start: Starts) -> None:
    client = start(max_sessions=1)
    with client.websocket_connect(LISTEN) as socket:
        socket.receive_json()
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect(LISTEN),
        ):
            pass
    assert (refused.value.status_code, refused.value.headers["retry-after"]) == (429, "1")


def test_a_client_that_stalls_is_let_go(start: Starts) -> None:
    client = start(idle_s=0.05)
    with client.websocket_connect(LISTEN) as socket:
        assert socket.receive_json()["event"] == "ready"
        assert socket.receive_json()["error"]["code"] == "timeout"


def test_a_stopping_server_finishes_what_is_spoken(client: TestClient) -> None:
    data = pcm(SPOKEN, 16000)[:44800]
    expected = heard(client, "model=an4", data, 6400)
    assert expected[-2]["event"] == "final"
    with client.websocket_connect(f"{LISTEN}?model=an4") as socket:
        rows = [socket.receive_json()]
        socket.send_bytes(data)
        while rows[-1]["event"] != "partial":
            rows.append(socket.receive_json())
        client.portal.call(service_of(client).stop_listening)
        while rows[-1]["event"] != "end":
            rows.append(socket.receive_json())
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert rows == expected
    assert closed.value.code == 1001


def test_sound_that_waits_long_is_told(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechkit.serve.live.BACKLOG_TOLD_S", 0.0)
    pool = service_of(client).sessions["vad"].pool
    data = bytes(2 * 16000 * 6)
    with client.websocket_connect(f"{LISTEN}?model=vad") as socket:
        assert socket.receive_json()["event"] == "ready"
        with pool._alone():
            # no step can be made now
            socket.send_bytes(data)
            assert socket.receive_json() == {"event": "backlog"}
        socket.send_json(END)
        assert socket.receive_json() == {"event": "end", "heard_s": 6.0, "dropped_samples": 0}


def test_a_session_that_breaks_says_so(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*args: Any) -> None:
        raise RuntimeError("inner")

    sessions = service_of(client).sessions["an4"]
    monkeypatch.setattr(sessions.pool._scheduler.listeners.listener, "step", breaks)
    with client.websocket_connect(f"{LISTEN}?model=an4") as socket:
        socket.send_bytes(pcm(SPOKEN, 16000))
        assert socket.receive_json()["event"] == "ready"
        error = socket.receive_json()["error"]
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert error["code"] == "broken"
    assert closed.value.code == 1011
