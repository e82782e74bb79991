"""`speechkit-runtime`: the verbs of `speechkit`, for exported files."""

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechkit_runtime.audio import read_audio
from speechkit_runtime.errors import RuntimeFailure
from speechkit_runtime.model import Model, load

BLOCK_S = 0.02
"""The duration of the blocks that `listen` reads."""

Answer = tuple[dict[str, Any], str]
"""An answer as JSON and in words."""


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits: 0, 1 after an error, 2 after a wrong command."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Runs one command; returns its exit code. Errors that the user can fix take one line."""
    asked = parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: complain(message, "warning")
            code: int = asked.run(asked)
        return code
    # such as a pipe whose reader has ended
    except (RuntimeFailure, OSError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The commands and their arguments."""
    top = argparse.ArgumentParser(prog="speechkit-runtime", description=__doc__)
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, help: str, do: Callable[[argparse.Namespace], int]) -> Any:
        command = verbs.add_parser(name, help=help, description=help)
        command.set_defaults(run=do)
        command.add_argument("--json", action="store_true", help="JSON, one object per line")
        return command

    detect = verb("vad", "Find the stretches of speech in each file, in seconds.", _each(_vad))
    classify = verb("classify", "Tell which label each file has.", _each(_classify))
    transcribe = verb("transcribe", "Write down what is spoken in each file.", _each(_transcribe))
    for command in (detect, classify, transcribe):
        command.add_argument("audio", nargs="+", help="sound files, - for standard input")
        command.add_argument("--model", help="an exported model")
    listen = verb("listen", "Print what is in live sound as JSON lines.", _listen)
    # the former position of the model
    listen.add_argument("audio", nargs="*", help=argparse.SUPPRESS)
    listen.add_argument("--model", help="a file of `speechkit export --streaming`")
    listen.add_argument("--file", type=Path, help="a file instead of a microphone")
    listen.add_argument("--microphone", type=int, help="the number of an input device")
    return top


def _model(asked: argparse.Namespace) -> Model:
    """The model of `--model`, or of the former first argument, with a note."""
    if asked.model is None and asked.audio and asked.audio[0].endswith(".onnx"):
        asked.model = asked.audio.pop(0)
        print(f"note: recordings come first now; type: --model {asked.model}", file=sys.stderr)
    if asked.model is None:
        raise RuntimeFailure("give a model that was exported: --model FILE.onnx")
    return load(Path(asked.model))


def _each(
    answer: Callable[[Model, Path], Answer],
) -> Callable[[argparse.Namespace], int]:
    """A command that prints a result for each readable file."""

    def command(asked: argparse.Namespace) -> int:
        model, code = _model(asked), 0
        if not asked.audio:
            raise RuntimeFailure("give recordings: AUDIO... --model FILE.onnx")
        for path in map(Path, asked.audio):
            try:
                row, text = answer(model, path)
            except RuntimeFailure as error:
                complain(error)
                code = 1
            else:
                row = {"audio_filepath": str(path), "channel": "mix", **row}
                lines = [f"{path}: {line}" for line in text.split("\n")]
                print(json.dumps(row, ensure_ascii=False) if asked.json else "\n".join(lines))
        return code

    return command


def _vad(model: Model, path: Path) -> Answer:
    found = model.vad(path)
    text = "\n".join(f"{start_s:.2f}-{end_s:.2f} s" for start_s, end_s in found)
    return {"segments": _rounded(found)}, text or "no speech"


def _classify(model: Model, path: Path) -> Answer:
    found = model.classify(path)
    row = {"label": found.label, "score": found.score, "scores": found.scores}
    return row, f"{found.label} ({found.score:.1%})"


def _transcribe(model: Model, path: Path) -> Answer:
    text = model.transcribe(path)
    return {"text": text}, text


def _listen(asked: argparse.Namespace) -> int:
    stream = _model(asked).stream()
    if asked.audio:
        raise RuntimeFailure(f"{asked.audio[0]}: a file to listen to is --file AUDIO")
    heard_samples = 0
    source = _file if asked.file else _microphone
    try:
        for samples in source(asked, stream.sample_rate):
            heard_samples += len(samples)
            _say(stream.feed(samples))
    except KeyboardInterrupt:
        # the user ends it
        pass
    _say(stream.finish())
    _say([{"event": "end", "heard_s": heard_samples / stream.sample_rate}])
    return 0


def _file(asked: argparse.Namespace, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    samples = read_audio(asked.file, sample_rate)
    block = round(BLOCK_S * sample_rate)
    for at in range(0, len(samples), block):
        yield samples[at : at + block]


def _microphone(asked: argparse.Namespace, sample_rate: int) -> Iterator[NDArray[np.float32]]:
    try:
        import sounddevice
    except (ImportError, OSError) as error:
        raise RuntimeFailure(
            f"a microphone needs sounddevice and PortAudio ({error}); type: pip install "
            "'speechkit-runtime[mic]', or give --file"
        ) from error
    try:
        with sounddevice.InputStream(sample_rate, device=asked.microphone, channels=1) as source:
            while True:
                yield source.read(round(BLOCK_S * sample_rate))[0][:, 0]
    except (ValueError, sounddevice.PortAudioError) as error:
        raise RuntimeFailure(
            f"no input device at {sample_rate} Hz: {error}; give --microphone or --file"
        ) from error


def _say(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        print(json.dumps(_rounded(row), ensure_ascii=False), flush=True)


def _rounded(value: Any) -> Any:
    """Numbers to a millionth, which is far below a sample."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value


def complain(reason: object, kind: str = "error") -> None:
    """Prints `error: ...` on stderr, in one printable line whatever `reason` holds."""
    print(f"{kind}: {RuntimeFailure(str(reason))}", file=sys.stderr)
