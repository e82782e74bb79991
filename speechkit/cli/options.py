"""Arguments of several commands, and their completion in shells."""

import glob
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from speechkit.errors import ConfigError

if TYPE_CHECKING:
    from speechkit.data import RawFormat

Channels = Literal["mix", "each"] | int
"""The mean of all channels, each channel separately, or one by its number from 1 on."""


def complete_model(incomplete: str) -> list[str]:
    """The models on this machine with this beginning; imports no torch, to be fast."""
    from speechkit.card import bundled_folders
    from speechkit.published import published

    here = [folder.name for folder in bundled_folders()]
    here += [name for name, row in published().items() if row.is_pulled]
    names = [name for name in here if name.startswith(incomplete)]
    return names + sorted(glob.glob(f"{glob.escape(incomplete)}*/"))


def complete_published(incomplete: str) -> list[str]:
    """The published models with this beginning."""
    from speechkit.published import published

    return [name for name in published() if name.startswith(incomplete)]


def complete_component(*kinds: str) -> Callable[[str], list[str]]:
    """Completes the components of these kinds, or of all."""

    def complete(incomplete: str) -> list[str]:
        from speechkit.hookspecs import KINDS
        from speechkit.plugins import components

        entries = [entry for kind in kinds or KINDS for entry in components(kind)]
        names = {name for e in entries for name in (e.component.name, e.qualified_name)}
        return sorted(name for name in names if name.startswith(incomplete))

    return complete


def complete_kind(incomplete: str) -> list[str]:
    """Completes the kinds of components."""
    from speechkit.hookspecs import KINDS

    return sorted(kind for kind in KINDS if kind.startswith(incomplete))


def channels_of(text: str) -> Channels:
    """The channels of `--channel`; raises a usage error for other text."""
    if text in ("mix", "each"):
        return text  # type: ignore[return-value]
    text = {"left": "1", "right": "2"}.get(text, text)
    if not text.isdecimal() or len(text) > 3 or int(text) < 1:
        raise typer.BadParameter(f"{text!r}: give mix, left, right, each or a number from 1 up")
    return int(text)


def _checked_channels(text: str) -> str:
    channels_of(text)
    return text


class Encoding(StrEnum):
    """The encodings of `RawFormat`."""

    s16le = "s16le"
    f32le = "f32le"


def raw_format(raw: Encoding | None, rate: int | None, channels: int | None) -> "RawFormat | None":
    """The format of `--raw`, `--rate` and `--channels`."""
    from speechkit.data import RawFormat

    if raw is not None:
        return RawFormat(
            raw.value, 16000 if rate is None else rate, 1 if channels is None else channels
        )
    if rate is not None or channels is not None:
        raise ConfigError("--rate and --channels describe raw samples; give --raw s16le or f32le")
    return None


Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]
ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, or a bundled model such as digits.",
        autocompletion=complete_model,
    ),
]
ModelOrPlan = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model folder, a plan, or a bundled model such as digits.",
        autocompletion=complete_model,
    ),
]
NoVad = Annotated[bool, typer.Option("--no-vad", help="Transcribe everything; use no vad.")]
ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="A model folder, a plan or a bundled one.",
        autocompletion=complete_model,
    ),
]
AudioFiles = Annotated[
    list[Path],
    typer.Argument(metavar="AUDIO", help="Files, folders of them, or - for standard input."),
]
ChannelOption = Annotated[
    str,
    typer.Option(
        metavar="C",
        help="mix (default), left, right, each, 1, 2, ...",
        show_default=False,
        callback=_checked_channels,
        autocompletion=lambda: ["mix", "left", "right", "each"],
    ),
]
Raw = Annotated[
    Encoding | None, typer.Option(metavar="F", help="Sound without a header: s16le or f32le.")
]
Rate = Annotated[int | None, typer.Option(metavar="HZ", help="Sample rate of --raw, else 16000.")]
RawChannels = Annotated[
    int | None, typer.Option("--channels", metavar="N", help="Channels of --raw, else 1.")
]
Device = Annotated[
    str,
    typer.Option(
        metavar="D",
        help="Where it computes: cpu (default), cuda, cuda:1, mps.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(metavar="N", min=0, max=2**32 - 1, help="Of random choices.")]
DecoderOption = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="greedy (default), beam:beam=8, ...",
        show_default=False,
        autocompletion=complete_component("decoder"),
    ),
]
Lm = Annotated[
    Path | None, typer.Option(metavar="ARPA", help="A language model, for a beam search.")
]
HotwordsOption = Annotated[
    Path | None, typer.Option("--hotwords", metavar="FILE", help="Phrases to expect, one a line.")
]
Onset = Annotated[
    float | None, typer.Option(metavar="P", help="Probability at which speech starts.")
]
Offset = Annotated[
    float | None, typer.Option(metavar="P", help="Probability below which speech ends.")
]
MinSpeech = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds of the shortest speech.")
]
MinSilence = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds of silence that end speech.")
]
Pad = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds added on both sides of speech.")
]
MaxSpeech = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds after which speech is split.")
]
EndpointSilence = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds of silence that end a segment.")
]
EndpointLongest = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds after which a segment ends.")
]
OutFolder = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="A new file for each recording, in here."),
]
