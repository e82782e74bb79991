"""`speechkit align`: the times of each word of a known text."""

import os
from functools import partial
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from speechkit.cli.infer import Format, Formatted
from speechkit.cli.models import load_net, tell_purpose
from speechkit.cli.options import (
    AudioFiles,
    ChannelOption,
    Device,
    Json,
    ModelOption,
    OutFolder,
    Rate,
    Raw,
    RawChannels,
    channels_of,
    raw_format,
)
from speechkit.cli.output import complain
from speechkit.cli.recordings import Recordings, in_order
from speechkit.cli.transcript_files import Output
from speechkit.errors import ConfigError

USAGE = 'speechkit align AUDIO --text "the words", or --text-file FILE'


def align(
    audio: AudioFiles,
    text: Annotated[str | None, typer.Option(metavar="WORDS", help="The words.")] = None,
    text_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A text file that holds them.")
    ] = None,
    model: ModelOption = "an4",
    channel: ChannelOption = "mix",
    raw: Raw = None,
    rate: Rate = None,
    raw_channels: RawChannels = None,
    form: Formatted = Format.text,
    out: OutFolder = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Find when each word of a text is spoken: start and end in seconds, word, score.

    Example: speechkit align clip.wav --text "enter five" --format textgrid
    """
    from speechkit.infer import align_text
    from speechkit.plans.source import about_of
    from speechkit.text import normalized
    from speechkit.text.transcript import FORMATS

    rest = ""
    if text is None and text_file is None and len(audio) == 3:
        # the former arguments MODEL AUDIO TEXT
        *audio, last = audio
        text, text_file = (None, last) if os.path.isfile(last) else (str(last), None)
        rest = f" --text{'-file' if text_file else ''} {quote(str(last))}"
    audio, model = in_order("align", audio, model, "an4", rest)
    if len(audio) != 1 or (text is None) == (text_file is None):
        raise ConfigError(f"give one recording and its text: {USAGE}")
    # a text may be too long for a file name
    if text is not None and os.path.isfile(text):
        complain("note", f"--text takes the words; for what is in {text} type --text-file")
    form = Format.json if as_json else form
    output = Output(
        form,
        out,
        recordings := Recordings(audio, channels_of(channel), raw_format(raw, rate, raw_channels)),
    )
    net = load_net(model, device)
    about = about_of(net)
    about.require("transcribe")
    words = (
        " ".join(str(text).split())
        if text_file is None
        else normalized(text_file, about.normalization, about.labels)
    )
    tell_purpose(model)
    for recording, found in recordings.each(partial(align_text, net, text=words)):
        lines = (f"{w.start_s:9.3f} {w.end_s:9.3f}  {w.text}  {w.score:.2f}" for w in found.words)
        output.write(recording, FORMATS[form](found, recording), "\n".join(lines))
