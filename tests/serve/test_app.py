"""Each route and format, compared with what the command line prints."""

import io
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from speechkit.serve import recordings

from .conftest import Running, rows, wav

URL = "/v1/audio/transcriptions"
Command = Callable[..., str]


def send(server: Running, path: str, sound: Path, **fields: Any) -> httpx.Response:
    with sound.open("rb") as file:
        return server.http.post(path, files={"file": (sound.name, file)}, data=fields)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(RuntimeError, 500, "internal_error"), (MemoryError, 503, "server_busy")],
)
def test_a_fault_of_the_server_is_answered_in_one_line(
    server: Running,
    speech: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[Exception],
    status: int,
    code: str,
) -> None:
    def fail(*_: Any) -> None:
        raise fault("secret")

    monkeypatch.setattr(recordings, "detect", fail)
    found = send(server, "/v1/vad", speech)
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)
    assert "secret" not in found.text


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("Multipart/Form-Data; boundary=x", 200),
        ("multipart/form-data; charset=UTF-8; boundary=x", 200),
        ("multipart/form-data; charset=undefined; boundary=x", 415),
        ("multipart/form-data; Charset=punycode; boundary=x", 415),
        ("multipart/form-datas; boundary=x", 415),
        ("multipart/mixed; boundary=x", 415),
    ],
)
def test_a_body_is_a_form_in_utf_8(server: Running, speech: Path, kind: str, status: int) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    form = part % (b"file", b'; filename="a"', speech.read_bytes()) + part % (b"other", b"", b"a-b")
    found = server.http.post("/v1/vad", content=form + b"--x--\r\n", headers={"Content-Type": kind})
    assert (found.status_code, "error" in found.json()) == (status, status != 200)


@pytest.mark.parametrize("sound", [b"", b"no sound", wav([]), wav([0.5])[:30]])
def test_an_error_of_a_recording_names_it_as_the_client_does(server: Running, sound: bytes) -> None:
    for path in (URL, "/v1/vad", "/v1/classify"):
        found = server.http.post(path, files={"file": ("a.wav", sound)})
        error = found.json()["error"]
        assert (found.status_code, error["param"]) == (400, "file")
        assert "the recording" in error["message"]
        assert "File" not in error["message"]


def test_models_are_listed(server: Running) -> None:
    found = server.http.get("/v1/models").json()
    assert [(row["id"], row["verb"]) for row in found["data"]] == [
        ("an4", "transcribe"),
        ("vad", "detect"),
        ("digits", "classify"),
    ]
    assert found["data"][1]["rules"]["postprocess"]["onset"] == 0.7


@pytest.mark.parametrize("form", ["text", "srt", "vtt"])
def test_a_format_is_that_of_transcribe(
    server: Running, speech: Path, command: Command, form: str
) -> None:
    found = send(server, URL, speech, model="an4", response_format=form)
    expected = command("transcribe", speech, "--format", form)
    if form == "text":
        expected = expected.partition(": ")[2]
    assert (found.status_code, found.text) == (200, expected)
    assert len(found.text) > 5


def test_words_are_those_of_transcribe(server: Running, speech: Path, command: Command) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    found = send(server, URL, speech, model="an4", **fields).json()
    (expected,) = rows(command("transcribe", speech, "--format", "json"))
    assert found["text"] == expected["text"]
    assert found["duration"] == expected["duration_s"]
    assert [(w["word"], w["start"], w["end"], w["score"]) for w in found["words"]] == [
        (w["text"], w["start_s"], w["end_s"], w["score"]) for w in expected["words"]
    ]
    assert len(found["words"]) > 2
    assert " ".join(row["text"] for row in found["segments"]) == expected["text"]
    assert send(server, URL, speech, model="an4").json() == {"text": expected["text"]}


def test_hotwords_are_those_of_transcribe(
    server: Running, speech: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "words").write_text("seven\nzulu\n")
    expected = command("transcribe", speech, "--hotwords", tmp_path / "words", "--format", "json")
    found = send(server, URL, speech, prompt="seven, zulu").json()
    assert found["text"] == rows(expected)[0]["text"]


def test_streamed_text_is_the_whole_text(server: Running, speech: Path) -> None:
    whole = send(server, URL, speech).json()["text"]
    found = send(server, URL, speech, stream="true")
    assert found.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(part.removeprefix("data: ")) for part in found.text.split("\n\n")[:-1]]
    assert events[-1] == {"type": "transcript.text.done", "text": whole}
    assert {event["type"] for event in events[:-1]} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in events[:-1]) == whole
    assert len(events) > 2


def test_segments_are_those_of_vad(server: Running, speech: Path, command: Command) -> None:
    (expected,) = rows(command("vad", speech, "--json"))
    found = send(server, "/v1/vad", speech).json()
    assert (found["model"], found["segments"]) == ("vad", expected["segments"])
    assert found["segments"]


def test_labels_are_those_of_classify(server: Running, speech: Path, command: Command) -> None:
    (expected,) = rows(command("classify", speech, "--json"))
    found = send(server, "/v1/classify", speech, model="digits").json()
    assert found["label"] == expected["label"]
    assert found["scores"] == expected["scores"]


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        (URL, {"model": "whisper-1"}, 404, "model"),
        (URL, {"model": "vad"}, 404, "model"),
        ("/v1/vad", {"model": "digits"}, 404, "model"),
        (URL, {"response_format": "xml"}, 400, "response_format"),
        (URL, {"timestamp_granularities[]": "word"}, 400, "timestamp_granularities"),
        (URL, {"stream": "true", "response_format": "srt"}, 400, "stream"),
        (URL, {"stream": "maybe"}, 400, "stream"),
    ],
)
def test_a_wrong_field_is_named(
    server: Running, speech: Path, path: str, fields: dict[str, str], status: int, param: str
) -> None:
    found = send(server, path, speech, **fields)
    assert found.status_code == status
    error = found.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert "\n" not in found.text


def test_a_file_that_is_no_sound_is_refused(server: Running) -> None:
    found = server.http.post("/v1/vad", files={"file": ("a.wav", b"no sound" * 99)})
    assert (found.status_code, list(found.json())) == (400, ["error"])
    assert server.http.post("/v1/vad", data={"model": "vad"}).status_code == 415
    assert server.http.get("/nothing").status_code == 404
    assert server.http.get("/v1/vad").status_code == 405


def test_a_connection_outlives_the_file_of_the_log(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = io.StringIO()
    gone.close()
    monkeypatch.setattr("sys.stderr", gone)
    with socket.create_connection(server.address, timeout=60) as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")


def test_requests_are_counted(server: Running) -> None:
    server.http.get("/healthz")
    text = server.http.get("/metrics").text
    assert 'speechkit_requests_total{path="/healthz",status="200"}' in text
    assert "speechkit_sessions 0.0" in text


def test_the_client_of_openai_gets_text(server: Running, speech: Path) -> None:
    openai = pytest.importorskip("openai", reason="openai is not installed")
    with openai.OpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        whole = client.audio.transcriptions.create(model="an4", file=speech)
        verbose = client.audio.transcriptions.create(
            model="an4",
            file=speech,
            response_format="verbose_json",
            timestamp_granularities=["word"],
        )
        events = list(client.audio.transcriptions.create(model="an4", file=speech, stream=True))
        assert "an4" in [model.id for model in client.models.list()]
        with pytest.raises(openai.NotFoundError, match="give one of an4"):
            client.audio.transcriptions.create(model="none", file=speech)
    assert " ".join(word.word for word in verbose.words) == whole.text == verbose.text
    assert (events[-1].type, events[-1].text) == ("transcript.text.done", whole.text)
