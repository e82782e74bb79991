"""`speechkit classify`, `transcribe` and the verbs of plugins: a prediction for each recording."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from speechkit.cli.models import decoder_spec, load_model, load_net, tell_english, tell_purpose
from speechkit.cli.options import (
    AudioFiles,
    ChannelOption,
    DecoderOption,
    Device,
    HotwordsOption,
    Json,
    Lm,
    ModelOption,
    NoVad,
    OutFolder,
    Rate,
    Raw,
    RawChannels,
    channels_of,
    raw_format,
)
from speechkit.cli.output import show
from speechkit.cli.recordings import Recordings, in_order
from speechkit.cli.transcript_files import Output


class Format(StrEnum):
    """The names of `speechkit.text.transcript.FORMATS`."""

    text = "text"
    json = "json"
    srt = "srt"
    vtt = "vtt"
    ctm = "ctm"
    textgrid = "textgrid"
    audacity = "audacity"


Formatted = Annotated[Format, typer.Option("--format", metavar="F", help=f"{', '.join(Format)}.")]


def classify(
    audio: AudioFiles,
    model: ModelOption = "digits",
    channel: ChannelOption = "mix",
    raw: Raw = None,
    rate: Rate = None,
    raw_channels: RawChannels = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Print the label of each recording.

    Example: speechkit classify clip.wav clips/ --json
    """
    from speechkit.infer import classify as answer
    from speechkit.plans.source import about_of

    audio, model = in_order("classify", audio, model, "digits")
    recordings = Recordings(audio, channels_of(channel), raw_format(raw, rate, raw_channels))
    net = load_net(model, device)
    about_of(net).require("classify")
    tell_purpose(model)
    for recording, found in recordings.each(partial(answer, net)):
        row = {
            "audio_filepath": str(recording.path),
            "channel": recording.channel,
            "label": found.label,
            "score": found.score,
            "scores": found.scores,
        }
        show(row, f"{recordings.label(recording)}: {found.label} ({found.score:.1%})", as_json)


def predict_command(verb: str) -> Callable[..., None]:
    """The command for the verb of a plugin's task."""

    def predict(
        audio: AudioFiles,
        model: ModelOption,
        channel: ChannelOption = "mix",
        raw: Raw = None,
        rate: Rate = None,
        raw_channels: RawChannels = None,
        device: Device = "cpu",
        as_json: Json = False,
    ) -> None:
        from speechkit.config import to_dict
        from speechkit.plans.source import with_torch
        from speechkit.plugins import calling

        recordings = Recordings(audio, channels_of(channel), raw_format(raw, rate, raw_channels))
        net = load_model(model, device)
        task = with_torch("speechkit.tasks").require(net, verb)
        tell_purpose(model)

        def answer(*args: Any, **kw: Any) -> Any:
            with calling(task.component, "predict"):
                return task.predict(net, *args, **kw)

        for recording, found in recordings.each(answer):
            row = {"audio_filepath": str(recording.path), "channel": recording.channel}
            shown = f"{recordings.label(recording)}: {found}"
            show({**row, verb: to_dict(found)}, shown, as_json)

    predict.__doc__ = f"Print what a model with the verb {verb} predicts for each recording."
    return predict


def transcribe(
    audio: AudioFiles,
    model: ModelOption = "an4",
    channel: ChannelOption = "mix",
    raw: Raw = None,
    rate: Rate = None,
    raw_channels: RawChannels = None,
    decoder: DecoderOption = "greedy",
    lm: Lm = None,
    hotwords: HotwordsOption = None,
    no_vad: NoVad = False,
    form: Formatted = Format.text,
    out: OutFolder = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Write down what is spoken in each recording; --json is --format json.

    Example: speechkit transcribe talks/ --model runs/mine/best --format srt --out subtitles
    """
    from speechkit.infer import reader_of
    from speechkit.infer import transcribe as answer
    from speechkit.streaming.gate import DETECTOR
    from speechkit.text.transcript import FORMATS

    audio, model = in_order("transcribe", audio, model, "an4")
    form = Format.json if as_json else form
    output = Output(
        form,
        out,
        recordings := Recordings(audio, channels_of(channel), raw_format(raw, rate, raw_channels)),
    )
    spec = decoder_spec(decoder, lm, hotwords)
    net = load_net(model, device)
    reader = reader_of(net, spec)
    tell_purpose(model)
    if model == "an4":
        tell_english()
    vad = None if no_vad else DETECTOR
    for recording, found in recordings.each(partial(answer, net, decoder=reader, vad=vad)):
        shown = f"{recordings.label(recording)}: {found.text}"
        output.write(recording, FORMATS[form](found, recording), shown)
