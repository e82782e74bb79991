"""Listening to files, and to a microphone that is none."""

import io
import json
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from rich.console import Console
from rich.live import Live

import speechkit as sk
from speechkit.cli import listen as module
from speechkit.data import read_audio
from speechkit.events import Final, Partial, to_row
from speechkit.rules.vad import PostProcessing

from .conftest import BLOCKS, Cli, tone


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes everything for speech."""
    folder = tmp_path_factory.mktemp("eager") / "eager"
    config = sk.MarbleNet(blocks=BLOCKS, frame_level=True)
    sk.save(sk.build(replace(config, postprocess=PostProcessing(onset=0, offset=0))), folder)
    return folder


def rows(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_a_file_gives_the_events_of_a_session(cli: Cli, eager: Path, sounds: Path) -> None:
    ended = cli("listen", "--model", eager, "--file", sounds / "low.wav")
    assert (ended.code, ended.err) == (0, "")
    stream = sk.stream(sk.load(eager))
    expected = stream.feed(read_audio(sounds / "low.wav")) + stream.finish()
    assert rows(ended.out) == [
        {"event": "ready", "sample_rate": 16000, "latency_s": round(stream.latency_s, 6)},
        *map(to_row, expected),
        {"event": "end", "heard_s": 0.5, "dropped_samples": 0},
    ]
    assert [row["event"] for row in rows(ended.out)] == [
        "ready",
        "speech_start",
        "speech_end",
        "end",
    ]


def test_a_decoder_reads_the_text(cli: Cli, models: Path, sounds: Path) -> None:
    # a tone is no speech for the vad
    asked = "listen", "--model", models / "letters", "--file", sounds / "low.wav", "--no-vad"
    ended = cli(*asked, "--decoder", "beam:beam=4")
    assert (ended.code, ended.err) == (0, "")
    stream = sk.stream(sk.load(models / "letters"), decoder="beam:beam=4", vad=None)
    expected = stream.feed(read_audio(sounds / "low.wav")) + stream.finish()
    assert rows(ended.out)[1:-1] == [*map(to_row, expected)]
    assert expected != []
    refused = cli(
        "listen", "--model", models / "speech", "--file", sounds / "low.wav", "--decoder", "beam"
    )
    assert refused.code == 1
    assert "a decoder is for recognition; leave it out for a marblenet" in refused.err


def test_the_old_form_is_understood_with_a_note(cli: Cli, eager: Path, sounds: Path) -> None:
    expected = cli("listen", "--model", eager, "--file", sounds / "low.wav")
    ended = cli("listen", eager, "--file", sounds / "low.wav")
    assert ended.out == expected.out
    assert ended.err == f"note: type: speechkit listen --model {eager}\n"
    ended = cli("listen", sounds / "low.wav")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "--file AUDIO" in ended.err
    ended = cli("listen", "--device", "2")
    assert "an input device is --microphone 2" in ended.err


def test_it_says_what_the_model_is_for(cli: Cli, sounds: Path) -> None:
    ended = cli("listen", "--file", sounds / "low.wav")
    assert ended.err == f"note: vad {sk.bundled_models()['vad'].purpose}\n"


def test_one_channel_of_a_file_is_listened_to(cli: Cli, eager: Path, tmp_path: Path) -> None:
    both = np.stack([tone(200), np.zeros(8000)], axis=1)
    soundfile.write(tmp_path / "call.wav", both, 16000)
    soundfile.write(tmp_path / "left.wav", both[:, 0], 16000)
    asked = "listen", "--model", eager, "--file", tmp_path / "call.wav", "--channel"
    alone = cli("listen", "--model", eager, "--file", tmp_path / "left.wav")
    assert cli(*asked, "left") == alone
    assert "a stream has one channel" in cli(*asked, "each").err


@pytest.mark.parametrize("form", ["wav", "s16le"])
def test_standard_input_is_listened_to(
    cli: Cli, eager: Path, sounds: Path, pipe: Callable[[bytes], None], form: str
) -> None:
    expected = cli("listen", "--model", eager, "--file", sounds / "low.wav")
    samples, _ = soundfile.read(sounds / "low.wav", dtype="int16")
    pipe((sounds / "low.wav").read_bytes() if form == "wav" else samples.tobytes())
    flags = () if form == "wav" else ("--raw", "s16le")
    assert cli("listen", "--model", eager, "--file", "-", *flags) == expected


def test_a_file_that_cannot_be_read_is_refused_before_it_is_ready(
    cli: Cli, eager: Path, sounds: Path
) -> None:
    ended = cli("listen", "--model", eager, "--file", sounds / "text.wav")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)


def test_rules_are_options(cli: Cli, models: Path, sounds: Path) -> None:
    asked = "listen", "--file", sounds / "low.wav", "--model"
    ended = cli(*asked, models / "speech", "--onset", "0", "--offset", "0")
    assert "speech_start" in ended.out
    ended = cli(*asked, models / "letters", "--onset", "0")
    assert "for models that detect speech, and this is a quartznet; leave them out" in ended.err
    ended = cli(*asked, models / "letters", "--no-vad", "--endpoint-longest", "0.1")
    plain = cli(*asked, models / "letters", "--no-vad")
    assert ended.out.count('"final"') > plain.out.count('"final"')
    assert (
        "for models that transcribe" in cli(*asked, models / "speech", "--endpoint-silence", 1).err
    )


def test_noise_gives_no_text_with_or_without_the_gate(cli: Cli, tmp_path: Path) -> None:
    noise = 0.03 * np.random.default_rng(0).standard_normal(160000)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)
    asked = "listen", "--model", "an4", "--file", tmp_path / "noise.wav"
    for options in ([], ["--no-vad"]):
        assert [row["event"] for row in rows(cli(*asked, *options).out)] == ["ready", "end"]


def test_real_time_takes_its_time(
    cli: Cli, eager: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    clock = types.SimpleNamespace(monotonic=lambda: sum(slept), sleep=slept.append)
    monkeypatch.setattr("speechkit.streaming.sources.time", clock)
    cli("listen", "--model", eager, "--file", sounds / "low.wav", "--realtime")
    assert sum(slept) == pytest.approx(0.5)


def test_a_file_and_a_microphone_are_two_sources(cli: Cli, eager: Path, sounds: Path) -> None:
    ended = cli("listen", "--model", eager, "--file", sounds / "low.wav", "--microphone", "0")
    assert (ended.code, ended.out) == (1, "")
    assert "--microphone 0 and --file: give one of them" in ended.err


def test_options_of_a_file_need_one(cli: Cli, eager: Path) -> None:
    ended = cli("listen", "--model", eager, "--raw", "s16le")
    assert ended.code == 1
    assert "belong to --file; add it, or leave them out for the microphone" in ended.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_the_last_events(eager: Path, tmp_path: Path, number: int) -> None:
    soundfile.write(tmp_path / "long.wav", np.tile(tone(200), 100), 16000)
    # a shell has what it starts in the background ignore the signal of Ctrl-C
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from speechkit.cli.main import main; main()"
    )
    asked = "listen", "--model", eager, "--file", tmp_path / "long.wav", "--realtime"
    command = [sys.executable, "-c", code, *asked]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = [json.loads(process.stdout.readline()) for _ in range(2)]
    process.send_signal(number)
    rest = rows(process.communicate(timeout=30)[0])
    assert process.returncode == 0
    assert [row["event"] for row in (*first, *rest)] == [
        "ready",
        "speech_start",
        "speech_end",
        "end",
    ]
    assert 0 < rest[0]["at_s"] <= rest[1]["heard_s"] < 50


def test_a_terminal_shows_a_meter(
    cli: Cli, eager: Path, models: Path, sounds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    ended = cli("listen", "--model", eager, "--file", sounds / "low.wav")
    assert "0.00 s  speech starts" in ended.out
    assert "heard 0.5 s, dropped 0 samples" in ended.out
    with pytest.raises(json.JSONDecodeError):
        rows(ended.out)


def test_the_meter_line_says_level_score_latency_and_drops(eager: Path) -> None:
    session = sk.stream(sk.load(eager))
    session.feed(tone(200).astype(np.float32))
    line = str(module.Meter(Live(), session)._line(np.full(320, 0.1, np.float32), 7))
    assert "-20 dB" in line
    assert "speech 0." in line
    assert "ms late" in line
    assert line.endswith("dropped 7  ")


def test_the_meter_keeps_text_until_it_is_final(eager: Path) -> None:
    live = Live(console=Console(file=io.StringIO()))
    meter, samples = module.Meter(live, sk.stream(sk.load(eager))), np.zeros(320, np.float32)
    meter.show([Partial("ent", "ent", at_s=0.1, decided_s=0.2)], samples, 0)
    meter.show([], samples, 0)
    assert str(live.renderable).endswith("dropped 0  ent")
    meter.show([Final("enter", (), at_s=0.2, decided_s=0.4)], samples, 0)
    assert str(live.renderable).endswith("dropped 0  ")


def test_an_approximate_stream_of_a_model_with_a_plan_runs_in_torch(cli: Cli, sounds: Path) -> None:
    ended = cli("listen", "--file", sounds / "low.wav", "--window-s", "0.5")
    assert ended.code == 0
    assert [row["event"] for row in rows(ended.out)][:: len(rows(ended.out)) - 1] == [
        "ready",
        "end",
    ]


def test_a_model_that_cannot_stream_runs_on_windows(cli: Cli, tmp_path: Path, sounds: Path) -> None:
    whole = tmp_path / "whole"
    sk.save(sk.build(sk.QuartzNet(blocks=BLOCKS)), whole)
    ended = cli("listen", "--model", whole, "--file", sounds / "low.wav")
    assert ended.code == 0
    assert ended.err.startswith("note: approximate, as by --window-s 8: PerFeature reads the whole")
    assert ended.err.count("\n") == 1
    asked = cli("listen", "--model", whole, "--file", sounds / "low.wav", "--window-s", "8")
    assert asked == (0, ended.out, "")
    assert rows(ended.out)[-1]["event"] == "end"


class PortAudioError(Exception):
    """What sounddevice raises."""


@pytest.fixture
def microphone(monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.SimpleNamespace]:
    """`microphone(rate, blocks)` is a device at `rate` that gives `blocks` and is unplugged."""

    def plug(
        rate: int, blocks: list[np.ndarray], overflow: bool = False, begins_s: float = 0.0
    ) -> types.SimpleNamespace:
        class InputStream:
            active = False

            def __init__(self, *, callback: Callable[..., None], **settings: Any) -> None:
                self.callback, self.settings = callback, settings
                assert settings["samplerate"] == rate

            def start(self) -> None:
                status = types.SimpleNamespace(input_overflow=overflow)
                at = types.SimpleNamespace(inputBufferAdcTime=begins_s)
                for block in blocks:
                    self.callback(block[:, None], len(block), at, status)

            def stop(self) -> None:
                pass

            def close(self) -> None:
                pass

        def check(samplerate: int, **_: Any) -> None:
            if samplerate != rate:
                raise PortAudioError("Invalid sample rate")

        fake = types.SimpleNamespace(
            InputStream=InputStream,
            PortAudioError=PortAudioError,
            check_input_settings=check,
            query_devices=lambda *_: {"default_samplerate": float(rate)},
        )
        monkeypatch.setitem(sys.modules, "sounddevice", fake)
        return fake

    return plug


def blocks_of(rate: int, seconds: float = 0.5) -> Iterator[np.ndarray]:
    at_s = np.arange(round(seconds * rate)) / rate
    sound = (0.3 * np.sin(2 * np.pi * 200 * at_s)).astype(np.float32)
    return iter(np.split(sound, range(rate // 50, len(sound), rate // 50)))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_microphone_is_read_at_its_own_rate(
    cli: Cli, eager: Path, microphone: Callable[..., Any], rate: int
) -> None:
    microphone(rate, list(blocks_of(rate)))
    ended = cli("listen", "--model", eager, "--microphone", "1")
    assert ended.code == 1
    assert ended.err == (
        "error: input device 1 stopped after 0.5 s; check that it is plugged in, and start again\n"
    )
    _, *events, end = rows(ended.out)
    assert end == {"event": "end", "heard_s": 0.5, "dropped_samples": 0}
    assert [row["event"] for row in events] == ["speech_start", "speech_end"]


def test_what_the_driver_drops_is_counted(
    cli: Cli, eager: Path, microphone: Callable[..., Any]
) -> None:
    microphone(16000, list(blocks_of(16000, seconds=0.04)), overflow=True)
    _, *events, end = rows(cli("listen", "--model", eager).out)
    assert end == {"event": "end", "heard_s": 0.08, "dropped_samples": 640}
    gaps = [row for row in events if row["event"] == "gap"]
    assert gaps == [
        {"event": "gap", "duration_s": 0.02, "at_s": at_s, "decided_s": at_s}
        for at_s in (0.0, 0.04)
    ]


def test_what_nobody_takes_is_dropped_and_counted(
    cli: Cli, eager: Path, microphone: Callable[..., Any]
) -> None:
    microphone(16000, list(blocks_of(16000, seconds=6)))
    _, *events, end = rows(cli("listen", "--model", eager).out)
    assert end == {"event": "end", "heard_s": 6.0, "dropped_samples": 16000}
    assert {"event": "gap", "duration_s": 1.0, "at_s": 5.0, "decided_s": 5.0} in events


def test_a_busy_microphone_is_one_line(
    cli: Cli, eager: Path, microphone: Callable[..., Any]
) -> None:
    fake = microphone(16000, [])

    def busy(*_: Any, **__: Any) -> None:
        raise PortAudioError("Error opening InputStream: Device unavailable [PaErrorCode -9985]")

    expected = (
        "error: the default input device: Error opening InputStream: Device unavailable "
        "[PaErrorCode -9985]; close what else uses it, see the devices with: speechkit doctor, or "
        "give --file\n"
    )
    fake.InputStream.start = busy
    assert cli("listen", "--model", eager)[::2] == (1, expected)
    fake.InputStream = busy
    assert cli("listen", "--model", eager)[::2] == (1, expected)


def test_no_microphone_is_one_line(
    cli: Cli, eager: Path, microphone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = microphone(0, [])

    def absent(*_: Any) -> None:
        raise PortAudioError("Error querying device -1")

    fake.query_devices = absent
    ended = cli("listen", "--model", eager)
    assert ended.code == 1
    assert ended.err == (
        "error: the default input device: Error querying device -1; close what else uses it, see "
        "the devices with: speechkit doctor, or give --file\n"
    )
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    ended = cli("listen", "--model", eager)
    assert ended.err == (
        "error: this needs sounddevice, which is not installed; type: pip install "
        "'speechkit-core[mic]'\n"
    )
