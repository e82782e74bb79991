"""Transcriptions in each format, as the command line writes them."""

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from speechkit.infer import transcribe
from speechkit.text.timeline import Recording
from speechkit.text.transcript import FORMATS

from .conftest import CLIPS, SPOKEN, Starts, printed

PATH = "/v1/audio/transcriptions"


def post(client: TestClient, **fields: Any) -> Any:
    with SPOKEN.open("rb") as file:
        return client.post(PATH, files={"file": file}, data=fields)


def test_text_and_json_are_those_of_transcribe(client: TestClient) -> None:
    text = transcribe("an4", SPOKEN).text
    assert text == "enter five"
    assert post(client).json() == {"text": text}
    assert post(client, model="an4", response_format="json").json() == {"text": text}
    assert post(client, response_format="text").text == text + "\n"


@pytest.mark.parametrize("form", ["srt", "vtt"])
def test_subtitles_are_those_of_transcribe(client: TestClient, form: str) -> None:
    expected = FORMATS[form](transcribe("an4", SPOKEN), Recording.of(SPOKEN))
    assert post(client, response_format=form).text == expected


def test_times_of_words_are_those_of_transcribe(
    client: TestClient, capfd: pytest.CaptureFixture[str]
) -> None:
    (row,) = printed(capfd, "transcribe", SPOKEN, "--format", "json")
    asked = {"response_format": "verbose_json", "timestamp_granularities[]": ["word", "segment"]}
    found = post(client, **asked).json()
    assert found["text"] == row["text"]
    assert found["duration"] == row["duration_s"]
    words = [(w["word"], w["start"], w["end"], w["score"]) for w in found["words"]]
    assert words == [(w["text"], w["start_s"], w["end_s"], w["score"]) for w in row["words"]]
    (segment,) = found["segments"]
    assert segment["text"] == row["text"]
    assert (segment["start"], segment["end"]) == (words[0][1], words[-1][2])
    assert segment["avg_logprob"] < 0


@pytest.mark.parametrize(
    ("asked", "given"), [([], {"segments"}), (["word"], {"words"}), (["segment"], {"segments"})]
)
def test_granularities_choose_what_verbose_json_has(
    client: TestClient, asked: list[str], given: set[str]
) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": asked}
    found = post(client, **fields).json()
    assert {"words", "segments"} & set(found) == given


def test_server_sent_events_add_up_to_the_text(client: TestClient) -> None:
    response = post(client, stream="true")
    assert response.headers["content-type"].startswith("text/event-stream")
    rows = [json.loads(part[len("data: ") :]) for part in response.text.split("\n\n")[:-1]]
    *deltas, done = rows
    assert {row["type"] for row in deltas} == {"transcript.text.delta"}
    assert done == {"type": "transcript.text.done", "text": "enter five"}
    assert "".join(row["delta"] for row in deltas) == done["text"]


def test_a_prompt_is_a_list_of_hotwords(client: TestClient) -> None:
    # a boost of 5 nats for each, so what is spoken can be read as what is expected
    with (CLIPS / "an4_mmsh.opus").open("rb") as file:
        plain = client.post(PATH, files={"file": file}).json()["text"]
    expected = transcribe("an4", CLIPS / "an4_mmsh.opus", decoder="beam").text
    assert plain == "m a r k"
    with (CLIPS / "an4_mmsh.opus").open("rb") as file:
        found = client.post(PATH, files={"file": file}, data={"prompt": "n, nark"}).json()
    assert found["text"] != expected
    refused = post(client, prompt="enter, 日本")
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "prompt"


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": "whisper-1"}, 404, "model"),
        ({"model": "vad"}, 400, "model"),
        ({"response_format": "xml"}, 400, "response_format"),
        ({"timestamp_granularities[]": "letter"}, 400, "timestamp_granularities[]"),
        ({"stream": "perhaps"}, 400, "stream"),
    ],
)
def test_a_wrong_field_is_named(
    client: TestClient, fields: dict[str, str], status: int, param: str
) -> None:
    refused = post(client, **fields)
    assert refused.status_code == status
    error = refused.json()["error"]
    assert error["param"] == param
    assert error["type"] == "invalid_request_error"
    assert "\n" not in error["message"]


@pytest.mark.parametrize("stream", ["true", "false"])
def test_what_is_no_sound_is_refused(client: TestClient, stream: str) -> None:
    refused = client.post(PATH, files={"file": b"this is not sound"}, data={"stream": stream})
    assert refused.status_code == 400
    assert "cannot decode file" in refused.json()["error"]["message"]
    refused = client.post(PATH, data={"file": "text"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "missing_file")
    refused = client.post(PATH, content=b"{}", headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "missing_file")


def test_a_long_recording_is_refused(start: Starts) -> None:
    refused = post(start(max_audio_s=1.4))
    assert (refused.status_code, refused.json()["error"]["code"]) == (413, "too_long")
    assert post(start(max_audio_s=1.5)).status_code == 200
