"""Events of live sound are those of a file, however it is cut."""

import contextlib
import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import SHUT_RDWR
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from speechkit.cli.models import load_net
from speechkit.serve.settings import Limits, Settings
from speechkit.serve.state import State

from .conftest import Running, heard, pcm, rows, running

Command = Callable[..., str]
END = json.dumps({"type": "end"})


def events(server: Running, query: str, data: bytes, size: int) -> list[dict[str, Any]]:
    with server.listen(query) as socket:
        for start in range(0, len(data), size):
            socket.send(data[start : start + size])
        socket.send(END)
        found = heard(socket)
        assert socket.close_code == 1000
    server.wait_until_free()
    return found


@pytest.mark.parametrize("model", ["an4", "vad", "digits"])
@pytest.mark.parametrize(("encoding", "size"), [("s16le", 320), ("s16le", 9999), ("f32le", 1001)])
def test_events_are_those_of_the_file(
    server: Running, speech: Path, command: Command, model: str, encoding: str, size: int
) -> None:
    expected = rows(command("listen", "--model", model, "--file", speech, "--json"))
    query = f"model={model}&encoding={encoding}&rate=8000"
    assert events(server, query, pcm(speech, encoding), size) == expected
    assert len(expected) > 3


def test_a_session_may_have_thresholds_of_its_own(
    server: Running, speech: Path, command: Command
) -> None:
    found = []
    for options, query in (
        ([], ""),
        (["--onset", 0.99], "&onset=0.99"),
        (["--onset", 0.99, "--offset", 0.01], "&onset=0.99&offset=0.01"),
    ):
        expected = rows(command("listen", "--file", speech, "--json", *options))
        assert events(server, f"model=vad&rate=8000{query}", pcm(speech), 999) == expected
        found.append(str(expected))
    assert len(set(found)) == 3


def test_frames_of_one_byte_change_nothing(
    server: Running, speech: Path, command: Command, tmp_path: Path
) -> None:
    short = tmp_path / "short.wav"
    soundfile.write(short, soundfile.read(speech)[0][:12000], 8000, "PCM_16")
    expected = rows(command("listen", "--file", short, "--json"))
    assert events(server, "model=vad&rate=8000", pcm(short), 1) == expected


@pytest.mark.parametrize("size", [100, 4096, 1 << 20])
def test_webm_gives_the_events_of_the_file(
    server: Running, speech: Path, command: Command, tmp_path: Path, size: int
) -> None:
    path = tmp_path / "speech.webm"
    path.write_bytes(webm(soundfile.read(speech)[0]))
    expected = rows(command("listen", "--model", "vad", "--file", path, "--json"))
    assert events(server, "model=vad&encoding=webm", path.read_bytes(), size) == expected
    assert len(expected) > 3


def webm(samples: Any) -> bytes:
    """Opus in WebM that was written to a stream without seeking, as MediaRecorder does."""
    import av

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    file = Pipe()
    x = soxr.resample(samples, 8000, 48000).astype(np.float32)
    with av.open(file, "w", format="webm") as container:
        track = container.add_stream("libopus", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(x[None], format="flt", layout="mono")
        frame.sample_rate = 48000
        for packet in [*track.encode(frame), *track.encode(None)]:
            container.mux(packet)
    return file.getvalue()


def test_many_at_once_get_their_own_events(server: Running, speech: Path, command: Command) -> None:
    expected = rows(command("listen", "--file", speech, "--json"))
    data = pcm(speech)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(server.listen("model=vad&rate=8000")) for _ in range(8)]
        for start in range(0, len(data), 3200):
            for socket in sockets:
                socket.send(data[start : start + 3200])
        for socket in sockets:
            socket.send(END)
        for socket in sockets:
            assert heard(socket) == expected
    server.wait_until_free()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("model=none", 404),
        ("encoding=mp3", 400),
        ("rate=7", 400),
        ("rate=x", 400),
        ("model=vad&onset=high", 400),
        ("model=vad&onset=nan", 400),
        ("model=vad&onset=1.5", 400),
        ("model=vad&onset=0.2&offset=0.3", 400),
        ("model=vad&offset=1e999", 400),
        ("model=an4&onset=0.5", 400),
    ],
)
def test_a_wrong_query_is_refused_before_sound(server: Running, query: str, status: int) -> None:
    with pytest.raises(InvalidStatus) as refused, server.listen(query):
        pass
    assert refused.value.response.status_code == status
    assert "error" in json.loads(refused.value.response.body or b"")
    assert not server.sessions


@pytest.mark.parametrize(
    ("query", "data"),
    [
        ("encoding=f32le", np.full(100, np.nan, np.float32).tobytes()),
        ("encoding=f32le", np.full(100, 1e30, np.float32).tobytes()),
        ("", "stop"),
        ("", "[" * 100_000),
        ("encoding=webm", b"\x00garbage" * 5000),
    ],
)
def test_garbage_is_refused_in_one_line(server: Running, query: str, data: bytes | str) -> None:
    with server.listen(f"model=vad&{query}") as socket:
        socket.send(data)
        if query == "encoding=webm":
            socket.send(END)
        found = heard(socket)
    assert [*found[-1]] == ["error"]
    assert "\n" not in found[-1]["error"]["message"]
    assert socket.close_code == 1008
    server.wait_until_free()


def test_another_path_is_not_found(server: Running) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"ws{server.url[4:]}/healthz"):
        pass
    assert refused.value.response.status_code == 404
    assert "no such path" in json.loads(refused.value.response.body or b"")["error"]["message"]


def test_clients_that_are_the_first_at_once_share_the_sessions() -> None:
    state = State({"vad": load_net("vad")}, Settings())
    together = Barrier(8)

    def first(_: int) -> object:
        together.wait()
        return state.sessions_of("vad", state.models.nets["vad"])

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(first, range(8))) == {state.sessions["vad"]}
    state.close()


def test_a_full_server_says_so(speech: Path) -> None:
    with running(["vad"], limits=Limits(sessions=1)) as server:
        with server.listen() as first:
            json.loads(first.recv())
            with pytest.raises(InvalidStatus) as refused, server.listen():
                pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"]
        server.wait_until_free()
        with server.listen() as again:
            assert json.loads(again.recv())["event"] == "ready"


def test_a_client_that_vanishes_leaves_no_session(server: Running, speech: Path) -> None:
    for wait in (True, False):
        with server.listen("model=an4&rate=8000") as socket:
            if wait:
                socket.recv()
                socket.send(pcm(speech)[:8000])
            socket.socket.shutdown(SHUT_RDWR)
    server.wait_until_free()


def test_a_client_that_stalls_is_told(speech: Path) -> None:
    with running(["vad"], limits=Limits(stall_s=0.3)) as server:
        with server.listen() as socket:
            found = heard(socket)
        assert "nothing came for 0.3 s" in found[-1]["error"]["message"]
        server.wait_until_free()
