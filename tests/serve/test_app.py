"""The other routes, the log and the figures."""

from typing import Any

import pytest
from starlette.testclient import TestClient

from .conftest import DIGIT, LISTEN, SPOKEN, Lines, Starts, printed, service_of


def test_models_are_listed_with_their_verbs(client: TestClient) -> None:
    found = client.get("/v1/models").json()
    assert found["object"] == "list"
    verbs = {row["id"]: row["verb"] for row in found["data"]}
    assert verbs == {"an4": "transcribe", "vad": "detect", "digits": "classify"}
    assert {row["object"] for row in found["data"]} == {"model"}


def test_segments_are_those_of_vad(client: TestClient, capfd: pytest.CaptureFixture[str]) -> None:
    (row,) = printed(capfd, "vad", SPOKEN, "--format", "json")
    found = client.post("/v1/vad", files={"file": SPOKEN.read_bytes()}).json()
    assert found == {"model": "vad", "duration_s": 1.5, "segments": row["segments"]}
    assert found["segments"]


def test_the_label_is_that_of_classify(
    client: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    (row,) = printed(capfd, "classify", DIGIT, "--json")
    found = client.post("/v1/classify", files={"file": DIGIT.read_bytes()}).json()
    assert found == {"model": "digits", **{k: row[k] for k in ("label", "score", "scores")}}
    assert found["label"] == "seven"


def test_unknown_paths_and_methods_are_errors_in_one_line(client: TestClient) -> None:
    for response, status in ((client.get("/no"), 404), (client.get("/v1/vad"), 405)):
        assert response.status_code == status
        assert response.text.count("\n") == 0
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def test_each_request_is_one_line_without_its_content(client: TestClient, lines: Lines) -> None:
    files = {"file": ("secret.opus", SPOKEN.read_bytes())}
    client.post("/v1/audio/transcriptions?key=secret", files=files, data={"prompt": "secret"})
    with client.websocket_connect(LISTEN) as socket:
        socket.send_json({"type": "end"})
        socket.receive_json(), socket.receive_json()
    first, second = lines.rows
    assert set(first) == {*("time", "method", "path", "status"), "seconds", "body_bytes", "address"}
    assert (first["method"], first["path"], first["status"]) == (
        *("POST", "/v1/audio/transcriptions"),
        200,
    )
    assert first["body_bytes"] > SPOKEN.stat().st_size
    assert (second["method"], second["path"], second["status"]) == ("WS", "/v1/listen", 1000)
    assert "secret" not in str(lines.rows)


def test_figures_count_requests_and_sessions(client: TestClient) -> None:
    client.get("/v1/models"), client.get("/no"), client.get("/nor")
    with client.websocket_connect(f"{LISTEN}?model=vad") as socket:
        socket.receive_json()
        text = client.get("/metrics").text
        assert 'speechkit_live_sessions{model="vad"} 1.0' in text
        socket.send_bytes(bytes(32000))
        socket.send_json({"type": "end"})
        assert socket.receive_json()["event"] == "end"
    text = client.get("/metrics").text
    assert 'speechkit_requests_total{route="/v1/models",status="200"} 1.0' in text
    assert 'speechkit_requests_total{route="other",status="404"} 2.0' in text
    assert 'speechkit_live_sessions{model="vad"} 0.0' in text
    assert 'speechkit_live_audio_seconds_total{model="vad"} 1.0' in text


def test_an_error_of_the_server_shows_nothing_of_itself(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*args: Any, **kw: Any) -> None:
        raise RuntimeError("an inner secret")

    monkeypatch.setattr("speechkit.serve.recordings.speech_probabilities", fails)
    refused = client.post("/v1/vad", files={"file": SPOKEN.read_bytes()})
    assert refused.status_code == 500
    assert "secret" not in refused.text
    assert refused.json()["error"]["type"] == "server_error"
    assert "RuntimeError: an inner secret" in caplog.text


def test_a_stopping_server_takes_nothing_new(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    service_of(client).stop_listening()
    assert client.get("/healthz").status_code == 503
    refused = client.get("/v1/models")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")


def test_too_many_uploads_are_told_to_wait(start: Starts) -> None:
    client = start(workers=1, queue=0)
    jobs = service_of(client).jobs
    jobs.accepted += 1
    refused = client.post("/v1/vad", files={"file": SPOKEN.read_bytes()})
    jobs.accepted -= 1
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert client.post("/v1/vad", files={"file": SPOKEN.read_bytes()}).status_code == 200


def test_an_accepted_stream_is_not_cut_off_by_others(start: Starts) -> None:
    client = start(workers=1, queue=0)
    files = {"file": SPOKEN.read_bytes()}
    asked = {"files": files, "data": {"stream": "true"}}
    with client.stream("POST", "/v1/audio/transcriptions", **asked) as response:
        assert response.status_code == 200
    assert service_of(client).jobs.accepted == 0
    service_of(client).jobs.accepted += 1
    assert client.post("/v1/audio/transcriptions", **asked).status_code == 429
    service_of(client).jobs.accepted -= 1
