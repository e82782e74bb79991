"""Exported files answer as speechkit does, without it."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import speechkit_runtime as skr
from speechkit_runtime.cli import run
from speechkit_runtime.model import read_metadata

import speechkit as sk
from speechkit.component import Spec
from speechkit.config import to_dict
from speechkit.data import read_audio, read_manifest
from speechkit.export import export
from speechkit.infer import speech_probabilities
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing

CLIPS = read_manifest(Path(sk.__file__).parent / "bundled" / "clips" / "clips.jsonl")
BLOCKS = (
    sk.Block(channels=8, kernel=5, stride=2),
    sk.Block(channels=8, kernel=1, separable=False),
)
FRONTEND = "log_mel:n_mels=16,normalize=running"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model in both forms."""
    folder = tmp_path_factory.mktemp("exported")
    for streaming in (False, True):
        path = folder / ("stream.onnx" if streaming else "digits.onnx")
        export(sk.load("digits"), path, Spec("onnx", {"streaming": streaming}))
    return folder


def test_clips_get_the_same_labels(folder: Path) -> None:
    model, net = skr.load(folder / "digits.onnx"), sk.load("digits")
    for clip in CLIPS:
        want, got = sk.classify(net, clip.audio), model.classify(clip.audio)
        assert got.label == want.label
        assert got.scores == pytest.approx(want.scores, abs=1e-5)


def test_another_sample_rate_is_resampled_the_same(folder: Path, tmp_path: Path) -> None:
    import soundfile

    twice = read_audio(CLIPS[2].audio, target_rate=16000).numpy()
    soundfile.write(tmp_path / "twice.wav", twice, 16000, "FLOAT")
    got = skr.load(folder / "digits.onnx").classify(tmp_path / "twice.wav")
    want = sk.classify(sk.load("digits"), tmp_path / "twice.wav")
    assert got.scores == pytest.approx(want.scores, abs=1e-5)


@pytest.mark.parametrize("piece", [37, 4000])
def test_a_stream_returns_the_same_events_in_any_pieces(
    folder: Path, assert_heard: Any, piece: int
) -> None:
    model = skr.load(folder / "stream.onnx")
    stream, session = model.stream(), sk.stream(sk.load("digits"))
    assert stream.latency_s == pytest.approx(session.latency_s)
    # a second of silence between the words
    quiet = np.zeros(8000, np.float32)
    parts = [p for c in CLIPS[:5] for p in (read_audio(c.audio, target_rate=8000).numpy(), quiet)]
    sound = np.concatenate(parts)
    streamed = []
    for at in range(0, len(sound), piece):
        streamed += stream.feed(sound[at : at + piece])
    streamed += stream.finish()
    events = session.feed(sound) + session.finish()
    assert len(events) >= 3
    assert_heard(events, streamed)


def test_integers_are_samples_too(folder: Path) -> None:
    model = skr.load(folder / "stream.onnx")
    sound = read_audio(CLIPS[1].audio, target_rate=8000).numpy()
    sound = np.round(sound * 32768).clip(-32768, 32767)
    floats, integers = model.stream(), model.stream()
    want = floats.feed((sound / 32768).astype(np.float32)) + floats.finish()
    assert want == integers.feed(sound.astype(np.int16)) + integers.finish()
    with pytest.raises(skr.RuntimeFailure, match="finished; make a new one"):
        floats.feed(sound)


@pytest.mark.slow
@pytest.mark.parametrize("frame_level", [True, False])
def test_speech_is_found_at_the_same_times(tmp_path: Path, frame_level: bool) -> None:
    config = sk.MarbleNet(blocks=BLOCKS, frame_level=frame_level, frontend=FRONTEND)
    net, path = sk.build(config).eval(), CLIPS[6].audio
    speech = speech_probabilities(net, path)[0]
    # a threshold in the middle, so that there is something to find
    middle = float(speech.quantile(0.5))
    post = PostProcessing(onset=middle, offset=middle, min_silence_ms=0)
    sure = sk.build(replace(config, postprocess=post)).eval()
    sure.load_state_dict(net.state_dict())
    export(sure, tmp_path / "vad.onnx")
    model = skr.load(tmp_path / "vad.onnx")
    assert model.speech_probabilities(path)[0] == pytest.approx(speech.numpy(), abs=1e-5)
    want = sk.detect(sure, path)
    assert want
    assert model.vad(path) == [pytest.approx((s.start_s, s.end_s)) for s in want]


@pytest.mark.slow
def test_text_is_read_the_same(tmp_path: Path, assert_heard: Any) -> None:
    config = sk.QuartzNet(blocks=BLOCKS, labels=tuple(" ab"), frontend=FRONTEND)
    net = sk.build(config).eval()
    for streaming in (False, True):
        path = tmp_path / ("stream.onnx" if streaming else "text.onnx")
        export(net, path, Spec("onnx", {"streaming": streaming}))
    model = skr.load(tmp_path / "text.onnx")
    stream, session = skr.load(tmp_path / "stream.onnx").stream(), sk.stream(net, vad=None)
    for clip in CLIPS[:3]:
        text = model.transcribe(clip.audio)
        assert text == sk.transcribe(net, clip.audio, vad=None).text
        assert text
    sound = read_audio(CLIPS[0].audio, target_rate=16000).numpy()
    assert_heard(session.feed(sound) + session.finish(), stream.feed(sound) + stream.finish())


def test_the_command_line_gives_the_same_rows(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from speechkit.cli.main import run as core

    path = str(CLIPS[7].audio)
    asked = ["classify", path, "--model", str(folder / "digits.onnx")]
    assert run(asked) == 0
    assert core(["classify", path, "--model", "digits"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert run(["classify", str(folder / "digits.onnx"), path]) == 0
    before = capsys.readouterr()
    assert before.out == first + "\n"
    assert before.err.startswith("note: recordings come first now; type: --model ")
    assert run([*asked, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["audio_filepath"], row["label"]) == (path, "seven")
    assert run(["listen", "--model", str(folder / "stream.onnx"), "--file", path]) == 0
    streamed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["event"] for row in streamed] == ["keyword", "end"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["classify", "a.wav", "--model", "none.onnx"], "no file none.onnx; write one with"),
        (["classify", "a.wav", "--model", __file__], "is not an ONNX file"),
        (["classify", "none.wav", "--model", "digits.onnx"], "cannot read none.wav"),
        (["vad", "a.wav", "--model", "digits.onnx"], "cannot vad; use classify"),
        (["listen", "--model", "digits.onnx", "--file", "a.wav"], "export with --streaming"),
        (["classify", "a.wav", "--model", "stream.onnx"], "is for a stream"),
        (["classify", "a.wav"], "give a model that was exported: --model FILE.onnx"),
        (["listen", "a.wav", "--model", "stream.onnx"], "a file to listen to is --file AUDIO"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(folder)
    assert run(arguments) == 1
    ended = capsys.readouterr()
    assert ended.err.startswith("error: ")
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert ended.out == ""


def test_it_loads_neither_torch_nor_speechkit() -> None:
    code = "import sys, speechkit_runtime.cli; print({'torch', 'speechkit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "change",
    [
        {"flush": 10**30},
        {"flush": 10**8, "block": 1},
        {"block": 0},
        {"block": -1},
        {"sample_rate": 10**400},
        {"latency_s": float("nan")},
        {"states": [{"name": "a", "shape": [10**6, 10**6], "bool": False}]},
        {"states": 3},
        {"postprocess": {"min_speech_ms": 1e300}},
    ],
    ids=str,
)
def test_a_file_that_asks_for_endless_work_is_refused(change: dict[str, Any]) -> None:
    good = {"format": 1, "sample_rate": 16000, "flush": 160, "block": 160, "latency_s": 0.1}
    assert read_metadata(json.dumps(good), "a.onnx") == good
    with pytest.raises(skr.RuntimeFailure, match=r"a.onnx .*; export the model again"):
        read_metadata(json.dumps({**good, **change}), "a.onnx")


def test_the_rules_that_a_model_stores_are_read() -> None:
    # among them bounds that are not there, which are null
    rules = {"postprocess": to_dict(PostProcessing()), "spotting": to_dict(Spotting())}
    stored = {"format": 1, "sample_rate": 16000, **rules}
    assert read_metadata(json.dumps(stored), "a.onnx") == stored


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "[]", "1" * 5000])
def test_a_description_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(skr.RuntimeFailure, match="cannot be read"):
        read_metadata(text, "a.onnx")


def test_what_a_damaged_file_runs_into_is_one_line(folder: Path, tmp_path: Path) -> None:
    import onnx

    net = onnx.load(folder / "stream.onnx")
    (about,) = (one for one in net.metadata_props if one.key == "speechkit")
    stored = json.loads(about.value)
    for change in ({"states": stored["states"][1:]}, {"labels": 3}, {"spotting": "\x1b[31m"}):
        about.value = json.dumps({**stored, **change})
        onnx.save(net, tmp_path / "given.onnx")
        with pytest.raises(skr.RuntimeFailure) as raised:
            skr.load(tmp_path / "given.onnx").stream().feed(np.full(32000, 0.1, np.float32))
        assert str(raised.value).isprintable()
        assert len(str(raised.value)) <= 450
