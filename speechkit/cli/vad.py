"""`speechkit vad`: finds segments of speech, in the formats that other tools read."""

import io
import json
import warnings
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from speechkit.cli.models import load_net, postprocess, tell_purpose, with_rules
from speechkit.cli.options import (
    AudioFiles,
    ChannelOption,
    Device,
    Json,
    MaxSpeech,
    MinSilence,
    MinSpeech,
    ModelOption,
    Offset,
    Onset,
    OutFolder,
    Pad,
    Rate,
    Raw,
    RawChannels,
    channels_of,
    raw_format,
)
from speechkit.cli.recordings import Recordings, in_order
from speechkit.cli.transcript_files import Output, new_file
from speechkit.io.files import atomic_file
from speechkit.text.timeline import Recording, Stretch, audacity, srt, textgrid, vtt

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from speechkit.data import Channel, RawFormat

CUT_BLOCK_S = 10.0
"""The duration that is read at a time to cut segments."""
CSV_HEADER = "audio_filepath,start_s,end_s,channel\n"


class Format(StrEnum):
    """The output formats of `speechkit vad`."""

    text = "text"
    json = "json"
    rttm = "rttm"
    csv = "csv"
    srt = "srt"
    vtt = "vtt"
    textgrid = "textgrid"
    audacity = "audacity"


def vad(
    audio: AudioFiles,
    model: ModelOption = "vad",
    channel: ChannelOption = "mix",
    raw: Raw = None,
    rate: Rate = None,
    raw_channels: RawChannels = None,
    onset: Onset = None,
    offset: Offset = None,
    min_speech: MinSpeech = None,
    min_silence: MinSilence = None,
    pad: Pad = None,
    max_speech: MaxSpeech = None,
    form: Annotated[
        Format, typer.Option("--format", metavar="F", help=f"{', '.join(Format)}.")
    ] = Format.text,
    out: OutFolder = None,
    cut: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the stretches as WAV, in here.")
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames", help="JSON of each frame's probability instead.")
    ] = False,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Find the stretches of speech in each recording, in seconds.

    Example: speechkit vad call.wav --channel each --format rttm --out timelines
    """
    from speechkit.infer import require_detector, speech_probabilities
    from speechkit.plans.source import about_of
    from speechkit.predictions import segments_of

    audio, model = in_order("vad", audio, model, "vad")
    form = Format.json if as_json else form
    recordings = Recordings(
        audio, channels_of(channel), raw_format(raw, rate, raw_channels), again=cut is not None
    )
    output = Output("jsonl" if frames else form, out, recordings)
    net = load_net(model, device)
    require_detector(about_of(net))
    rules = postprocess(onset, offset, min_speech, min_silence, pad, max_speech)
    net = with_rules(net, postprocess=rules)
    about = about_of(net)
    tell_purpose(model)
    header = CSV_HEADER if form is Format.csv and not frames else ""
    if out is None:
        print(header, end="")
    for recording, scored in recordings.each(partial(speech_probabilities, net)):
        speech, frame_s, duration_s = scored
        found = segments_of(about, speech, frame_s, duration_s)
        stretches = [(s.start_s, s.end_s, "speech") for s in found]
        if cut is not None:
            files = [
                new_file(cut, f"{recordings.file_name(recording)}_{n:04}_{a:.2f}-{b:.2f}.wav")
                for n, (a, b, _) in enumerate(stretches, start=1)
            ]
            recordings.read(recording, partial(_cut, stretches=stretches, files=files))
        if frames:
            output.write(recording, _frames(recording, speech, frame_s), "")
            continue
        label, content = (
            recordings.label(recording),
            WRITERS[form](stretches, recording, duration_s),
        )
        shown = "".join(f"{label}: {line}\n" for line in content.splitlines() or ["no speech"])
        output.write(recording, (header if out else "") + content, shown.rstrip())


def _cut(
    source: "Path | BinaryIO",
    channel: "Channel",
    raw: "RawFormat | None",
    stretches: Sequence[Stretch],
    files: Sequence[Path],
) -> None:
    """Writes each segment to a 16-bit WAV file at the recording's own rate."""
    import numpy as np
    import soundfile

    from speechkit.data import AudioWarning, read_sample_blocks, sample_rate_of

    rate = sample_rate_of(source, raw)
    blocks = read_sample_blocks(
        source, target_rate=rate, block_s=CUT_BLOCK_S, channel=channel, raw=raw
    )
    held, at = np.empty(0, np.float32), 0
    with warnings.catch_warnings():
        # all of it was read before
        warnings.simplefilter("ignore", AudioWarning)
        for file, (start_s, end_s, _) in zip(files, stretches, strict=True):
            start, end = round(start_s * rate), round(end_s * rate)
            while at + len(held) < end and (block := next(blocks, None)) is not None:
                held = np.concatenate([held, block])
                past = min(start - at, len(held))
                held, at = held[past:], at + past
            samples = (held[start - at : end - at] * 32768).round().clip(-32768, 32767)
            sound = io.BytesIO()
            soundfile.write(sound, samples.astype(np.int16), rate, "PCM_16", format="WAV")
            # libsndfile's errors do not tell that the disk is full
            with atomic_file(file) as part:
                part.write_bytes(sound.getbuffer())


def _frames(recording: Recording, speech: "NDArray[np.float64]", frame_s: float) -> str:
    """One JSON object for each frame."""
    row = {"audio_filepath": str(recording.path), "channel": recording.channel}
    return "".join(
        json.dumps({**row, "time_s": round(index * frame_s, 6), "speech": probability}) + "\n"
        for index, probability in enumerate(speech.tolist())
    )


def _text(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    return "".join(f"{start_s:.2f}-{end_s:.2f} s\n" for start_s, end_s, _ in stretches)


def _json(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    row = {
        "audio_filepath": str(recording.path),
        "channel": recording.channel,
        "segments": [[round(start_s, 6), round(end_s, 6)] for start_s, end_s, _ in stretches],
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def _rttm(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    """NIST Rich Transcription Time Marked: one SPEAKER line per stretch."""
    return "".join(
        f"SPEAKER {recording.word} {recording.number} {start_s:.3f} {end_s - start_s:.3f} "
        f"<NA> <NA> {text} <NA> <NA>\n"
        for start_s, end_s, text in stretches
    )


def _csv(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    quoted = '"' + str(recording.path).replace('"', '""') + '"'
    return "".join(
        f"{quoted},{start_s:.3f},{end_s:.3f},{recording.channel}\n"
        for start_s, end_s, _ in stretches
    )


def _srt(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    return srt(stretches)


def _vtt(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    return vtt(stretches)


def _audacity(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    return audacity(stretches)


def _textgrid(stretches: Sequence[Stretch], recording: Recording, duration_s: float) -> str:
    return textgrid(stretches, "speech", duration_s)


WRITERS: dict[Format, Callable[[Sequence[Stretch], Recording, float], str]] = {
    Format.text: _text,
    Format.json: _json,
    Format.rttm: _rttm,
    Format.csv: _csv,
    Format.srt: _srt,
    Format.vtt: _vtt,
    Format.textgrid: _textgrid,
    Format.audacity: _audacity,
}
"""Each format: `f(segments, recording, its duration in seconds)` → the content of a file."""
