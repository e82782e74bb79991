"""`speechkit listen`: a model hears a microphone, or a file as if it were one, and says what."""

import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer
from rich.live import Live
from rich.text import Text

from speechkit.cli.models import load_model
from speechkit.cli.options import Json, ModelName, complete_component
from speechkit.cli.output import console, inert
from speechkit.errors import AudioError

if TYPE_CHECKING:
    import numpy as np

    from speechkit.events import Event
    from speechkit.models import Model
    from speechkit.streaming import Stream, WindowedStream

QUIETEST_DB = -60
METER_CELLS = 24


def listen(
    model: ModelName = "vad",
    device: Annotated[
        int | None, typer.Option(metavar="N", help="Input device; `speechkit doctor` lists them.")
    ] = None,
    file: Annotated[
        Path | None, typer.Option(metavar="AUDIO", help="Hear a file instead of a microphone.")
    ] = None,
    realtime: Annotated[
        bool, typer.Option("--realtime", help="Hear the file no faster than it would sound.")
    ] = False,
    window_s: Annotated[
        float | None,
        typer.Option(metavar="S", help="Approximate: run the last S seconds again and again."),
    ] = None,
    decoder: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="How text is read from the scores: greedy, beam:beam=8.",
            autocompletion=complete_component("decoder"),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Hear live sound and say what is in it: JSON lines on a pipe, a meter on a terminal."""
    from speechkit.streaming import stream
    from speechkit.streaming.sources import FileSource, Microphone

    net = load_model(model)
    source = (
        FileSource(file, net.sample_rate, realtime) if file else Microphone(net.sample_rate, device)
    )
    session = stream(net, source.sample_rate, decoder=decoder, window_s=window_s)
    on_terminal = sys.stdout.isatty() and not as_json
    heard_samples, fault = 0, None
    with source, _meter(session) if on_terminal else _lines() as screen:
        try:
            for samples in source:
                events = session.skip(source.lost_samples) + session.feed(samples)
                heard_samples += source.lost_samples + len(samples)
                screen.show(events, samples, source.dropped_samples)
        except KeyboardInterrupt:
            # how a person ends it
            pass
        except AudioError as error:
            # the microphone is gone: what was in the sound until then is printed first
            fault = error
        screen.show(session.finish(), None, source.dropped_samples)
        screen.end(heard_samples / source.sample_rate, source.dropped_samples)
    if fault is not None:
        raise fault


class Screen(Protocol):
    """Where events go."""

    def show(self, events: "list[Event]", samples: "np.ndarray | None", dropped: int) -> None:
        """Shows events, and the samples they came with."""
        ...

    def end(self, heard_s: float, dropped: int) -> None:
        """Says that it is over."""
        ...


class Lines:
    """Events as JSON lines; the last one is `end`."""

    def show(self, events: "list[Event]", samples: "np.ndarray | None", dropped: int) -> None:
        from speechkit.events import to_row

        for event in events:
            print(json.dumps(to_row(event), ensure_ascii=False), flush=True)

    def end(self, heard_s: float, dropped: int) -> None:
        row = {"event": "end", "heard_s": round(heard_s, 6), "dropped_samples": dropped}
        print(json.dumps(row), flush=True)


class Meter:
    """A line that moves with the sound, and above it the events."""

    def __init__(self, live: Live, session: "Stream | WindowedStream") -> None:
        self.live, self.session = live, session

    def show(self, events: "list[Event]", samples: "np.ndarray | None", dropped: int) -> None:
        from speechkit.events import Partial

        for event in events:
            if not isinstance(event, Partial):
                self.live.console.print(inert(in_words(event)))
        if samples is not None and len(samples):
            said = next((e.text for e in reversed(events) if isinstance(e, Partial)), "")
            self.live.update(self._line(samples, dropped, said))

    def end(self, heard_s: float, dropped: int) -> None:
        self.live.update(Text(f"heard {heard_s:.1f} s, dropped {dropped} samples"))

    def _line(self, samples: "np.ndarray", dropped: int, said: str) -> Text:
        level = float((samples.astype("float64") ** 2).mean()) ** 0.5
        level_db = max(QUIETEST_DB, 20 * math.log10(level)) if level else QUIETEST_DB
        cells = round((1 - level_db / QUIETEST_DB) * METER_CELLS)
        bar = "█" * cells + "·" * (METER_CELLS - cells)
        late = f"{self.session.latency_s * 1000:.0f} ms late"
        if self.session.approximate:
            late += ", approximate"
        best = best_of(self.session.model, self.session.scores)
        line = f"{bar} {level_db:4.0f} dB  {best}  {late}  dropped {dropped}  {said}"
        return Text(inert(line))


@contextmanager
def _lines() -> Iterator[Screen]:
    yield Lines()


@contextmanager
def _meter(session: "Stream | WindowedStream") -> Iterator[Screen]:
    with Live(console=console(), refresh_per_second=20) as live:
        yield Meter(live, session)


def best_of(model: "Model", scores: Any) -> str:
    """What the last frame's scores `[n]` say, where they are probabilities of labels."""
    if scores is None or model.config.task == "ctc":
        return ""
    from speechkit.models import MarbleNet

    probabilities = scores.softmax(0)
    index = 1 if isinstance(model.config, MarbleNet) else int(probabilities.argmax())
    return f"{model.labels[index]} {float(probabilities[index]):.2f}"


def in_words(event: "Event") -> str:
    """An event for a person."""
    from speechkit.events import Final, Gap, Keyword, Partial, SpeechEnd, SpeechStart

    match event:
        case SpeechStart():
            said = "speech starts"
        case SpeechEnd():
            said = "speech ends"
        case Keyword():
            said = f"{event.label} ({event.score:.0%})"
        case Partial() | Final():
            said = event.text
        case Gap():
            said = f"{event.duration_s:.2f} s of sound lost"
    return f"{event.at_s:9.2f} s  {said}"
