"""`speechkit listen`: prints the events of a microphone, or of a file that is read like one."""

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Protocol

import typer
from rich.live import Live
from rich.text import Text

from speechkit.cli.models import (
    decoder_spec,
    load_net,
    postprocess,
    tell_purpose,
    with_rules,
)
from speechkit.cli.options import (
    ChannelOption,
    DecoderOption,
    Device,
    EndpointLongest,
    EndpointSilence,
    HotwordsOption,
    Json,
    Lm,
    MaxSpeech,
    MinSilence,
    MinSpeech,
    ModelOption,
    NoVad,
    Offset,
    Onset,
    Pad,
    Rate,
    Raw,
    RawChannels,
    channels_of,
    raw_format,
)
from speechkit.cli.output import complain, console, inert
from speechkit.cli.recordings import STDIN, is_model, standard_input
from speechkit.component import Spec
from speechkit.errors import AudioError, ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from speechkit.events import Event
    from speechkit.models import Model
    from speechkit.plans.plan import Plan
    from speechkit.streaming import Stream, WindowedStream

QUIETEST_DB = -60
METER_CELLS = 24


def listen(
    context: typer.Context,
    model: ModelOption = "vad",
    microphone: Annotated[
        int | None, typer.Option(metavar="N", help="Its number in speechkit doctor.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="AUDIO", help="A file, or - for standard input.")
    ] = None,
    channel: ChannelOption = "mix",
    raw: Raw = None,
    rate: Rate = None,
    raw_channels: RawChannels = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Read the file no faster than it plays.")
    ] = False,
    onset: Onset = None,
    offset: Offset = None,
    min_speech: MinSpeech = None,
    min_silence: MinSilence = None,
    pad: Pad = None,
    max_speech: MaxSpeech = None,
    endpoint_silence: EndpointSilence = None,
    endpoint_longest: EndpointLongest = None,
    decoder: DecoderOption = "greedy",
    lm: Lm = None,
    hotwords: HotwordsOption = None,
    no_vad: NoVad = False,
    window_s: Annotated[
        float | None,
        typer.Option(metavar="S", help="Approximate: runs on the last S seconds."),
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Print what is in live sound: JSON lines on a pipe, a meter on a terminal.

    Example: speechkit listen --model digits --microphone 2
    """
    from speechkit.plans.source import about_of
    from speechkit.streaming import stream
    from speechkit.streaming.gate import DETECTOR
    from speechkit.streaming.sources import FileSource, Microphone

    for argument in context.args:
        model = _as_before(argument, model)
    if (one := channels_of(channel)) == "each":
        raise ConfigError("--channel each: a stream has one channel; give mix, left, right or 1")
    option = None if window_s is None else f"--window-s {window_s:g}"
    net = with_rules(
        load_net(model, device, option),
        postprocess=postprocess(onset, offset, min_speech, min_silence, pad, max_speech),
        endpointing={"silence_after_s": endpoint_silence, "longest_s": endpoint_longest},
    )
    window_s = _window_s(net, window_s)
    sample_rate = about_of(net).sample_rate
    if file is None and (realtime or raw or rate or raw_channels or channel != "mix"):
        raise ConfigError(
            "--channel, --raw, --rate, --channels and --realtime belong to --file; add it, or "
            "leave them out for the microphone"
        )
    if file is not None and microphone is not None:
        raise ConfigError(f"--microphone {microphone} and --file: give one of them")
    reader = decoder_spec(decoder, lm, hotwords)
    source = (
        FileSource(
            standard_input() if str(file) == STDIN else file,
            sample_rate,
            realtime,
            channel=one,
            raw=raw_format(raw, rate, raw_channels),
        )
        if file
        else Microphone(sample_rate, microphone)
    )
    session = stream(
        net,
        source.sample_rate,
        decoder=None if reader == Spec("greedy") else reader,
        vad=None if no_vad else DETECTOR,
        window_s=window_s,
    )
    tell_purpose(model)
    on_terminal = sys.stdout.isatty() and not as_json
    heard_samples, fault = 0, None
    with source, _meter(session) if on_terminal else _lines() as screen:
        screen.ready(session)
        try:
            for samples in source:
                events = session.skip(source.lost_samples) + session.feed(samples)
                heard_samples += source.lost_samples + len(samples)
                screen.show(events, samples, source.dropped_samples)
        except KeyboardInterrupt:
            # the user ends it
            pass
        except AudioError as error:
            # the microphone failed; the events until then are printed first
            fault = error
        screen.show(session.finish(), None, source.dropped_samples)
        screen.end(heard_samples / source.sample_rate, source.dropped_samples)
    if fault is not None:
        raise fault


def _window_s(net: "Plan | Model", window_s: float | None) -> float | None:
    """The window of a session: the given one, or a suitable one for a model that cannot stream."""
    from speechkit.plans.plan import Plan
    from speechkit.plans.source import about_of, with_torch
    from speechkit.streaming.nets import suggested_window_s

    if window_s is not None or isinstance(net, Plan):
        return window_s
    reason = with_torch("speechkit.models.profile").why_not_streamable(net)
    if reason is None:
        return None
    found = suggested_window_s(about_of(net))
    complain("note", f"approximate, as by --window-s {found:g}: {reason}")
    return found


def _as_before(argument: str, model: str) -> str:
    """The model of the former argument without `--model`."""
    if model != "vad" or not is_model(Path(argument)):
        raise ConfigError(
            f"{argument}: listen takes options alone; type: speechkit listen --model MODEL, or "
            "--file AUDIO"
        )
    complain("note", f"type: speechkit listen --model {quote(argument)}")
    return argument


class Screen(Protocol):
    """Where events go."""

    def ready(self, session: "Stream | WindowedStream") -> None:
        """Shows that samples are read from now on."""
        ...

    def show(
        self, events: "list[Event]", samples: "NDArray[np.float32] | None", dropped: int
    ) -> None:
        """Shows events, and the samples they came with."""
        ...

    def end(self, heard_s: float, dropped: int) -> None:
        """Shows the end."""
        ...


class Lines:
    """Events as JSON lines; the first one is `ready`, the last one `end`."""

    def ready(self, session: "Stream | WindowedStream") -> None:
        row = {"event": "ready", "sample_rate": session.sample_rate}
        print(json.dumps({**row, "latency_s": round(session.latency_s, 6)}), flush=True)

    def show(
        self, events: "list[Event]", samples: "NDArray[np.float32] | None", dropped: int
    ) -> None:
        from speechkit.events import to_row

        for event in events:
            print(json.dumps(to_row(event), ensure_ascii=False), flush=True)

    def end(self, heard_s: float, dropped: int) -> None:
        row = {"event": "end", "heard_s": round(heard_s, 6), "dropped_samples": dropped}
        print(json.dumps(row), flush=True)


class Meter:
    """A line with a level meter, and the events above it."""

    def __init__(self, live: Live, session: "Stream | WindowedStream") -> None:
        self.live, self.session, self.caption = live, session, _caption_of(session.model)
        self.text = ""
        """What is read but not final."""

    def ready(self, session: "Stream | WindowedStream") -> None:
        self.live.update(Text("ready; end it with Ctrl-C"))

    def show(
        self, events: "list[Event]", samples: "NDArray[np.float32] | None", dropped: int
    ) -> None:
        from speechkit.events import Final, Partial

        for event in events:
            if not isinstance(event, Partial):
                self.live.console.print(inert(in_words(event)))
            if isinstance(event, Partial | Final):
                self.text = event.text if isinstance(event, Partial) else ""
        if samples is not None and len(samples):
            self.live.update(self._line(samples, dropped))

    def end(self, heard_s: float, dropped: int) -> None:
        self.live.update(Text(f"heard {heard_s:.1f} s, dropped {dropped} samples"))

    def _line(self, samples: "NDArray[np.float32]", dropped: int) -> Text:
        level = float((samples.astype("float64") ** 2).mean()) ** 0.5
        level_db = max(QUIETEST_DB, 20 * math.log10(level)) if level else QUIETEST_DB
        cells = round((1 - level_db / QUIETEST_DB) * METER_CELLS)
        bar = "█" * cells + "·" * (METER_CELLS - cells)
        late = f"{self.session.latency_s * 1000:.0f} ms late"
        if self.session.approximate:
            late += ", approximate"
        scores = self.session.scores
        caption = "" if scores is None else self.caption(scores)
        line = f"{bar} {level_db:4.0f} dB  {caption}  {late}  dropped {dropped}  {self.text}"
        return Text(inert(line))


def _caption_of(net: "Plan | Model") -> "Callable[[NDArray[np.float32]], str]":
    """The function that describes the scores of a frame in words for the model's task."""
    from speechkit.plans.plan import Plan
    from speechkit.plans.source import with_torch
    from speechkit.streaming.listeners import caption_for

    if isinstance(net, Plan):
        return partial(caption_for, net.about)
    caption: Callable[[NDArray[np.float32]], str] = (
        with_torch("speechkit.tasks").task_of(net).caption
    )
    return caption


@contextmanager
def _lines() -> Iterator[Screen]:
    yield Lines()


@contextmanager
def _meter(session: "Stream | WindowedStream") -> Iterator[Screen]:
    with Live(console=console(), refresh_per_second=20) as live:
        yield Meter(live, session)


def in_words(event: "Event") -> str:
    """An event as text."""
    from speechkit.events import Final, Gap, Keyword, Partial, SpeechEnd, SpeechStart

    match event:
        case SpeechStart():
            text = "speech starts"
        case SpeechEnd():
            text = "speech ends"
        case Keyword():
            text = f"{event.label} ({event.score:.0%})"
        case Partial() | Final():
            text = event.text
        case Gap():
            text = f"{event.duration_s:.2f} s of sound lost"
    return f"{event.at_s:9.2f} s  {text}"
