"""An exported file, its metadata, and its predictions for one recording."""

import functools
import json
import math
import operator
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from speechkit_runtime.audio import read_audio
from speechkit_runtime.errors import RuntimeFailure, answers
from speechkit_runtime.limits import HIGHEST_RATE, LOWEST_RATE, MAX_NET_GB
from speechkit_runtime.rules import Letters, Speech, softmax
from speechkit_runtime.stream import Stream

FORMAT = 1
KEY = "speechkit"
"""The property of the file that holds JSON."""
VERBS = {"ctc": "transcribe", "clip": "classify", "frame": "vad"}
WINDOWS_AT_ONCE = 64
RULES = ("postprocess", "spotting", "endpointing")
"""Properties that hold thresholds and times."""
MAX_SIZE = 2**27
"""Samples, numbers of a state, milliseconds: the largest of any of them in a file."""
MAX_FLUSHED_BLOCKS = 65_536
"""Blocks that may follow a sound's end before its last score is out."""

Audio = str | os.PathLike[str] | NDArray[np.float32]
"""A path, or samples `[N]` at the model's rate: float32 in [-1, 1]."""


@dataclass(frozen=True)
class Label:
    """The label a clip was given, its probability, and that of every label."""

    label: str
    score: float
    scores: dict[str, float]


@answers
def load(path: str | os.PathLike[str]) -> "Model":
    """The model in a file written by `speechkit export`."""
    if not os.path.isfile(path):
        raise RuntimeFailure(f"no file {path}; write one with: speechkit export MODEL --out {path}")
    _bound_memory()
    options = onnxruntime.SessionOptions()
    # its log lines about errors would come in addition to the exception
    options.log_severity_level = 4
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    # onnxruntime's own exceptions have no base but this one
    except Exception as error:
        raise RuntimeFailure(f"{path} is not an ONNX file: {error}") from error
    stored = session.get_modelmeta().custom_metadata_map.get(KEY)
    if stored is None:
        raise RuntimeFailure(f"{path} was not written by speechkit; type: speechkit export MODEL")
    metadata = read_metadata(stored, str(path))
    if metadata["format"] != FORMAT:
        raise RuntimeFailure(
            f"{path} has format {metadata['format']}; this version reads {FORMAT}: "
            "pip install -U speechkit-runtime"
        )
    if metadata["input"] != "audio":
        raise RuntimeFailure(f"{path} reads features; export it again without --no-features")
    return Model(session, metadata)


@functools.cache
def _bound_memory() -> None:
    """Gives the nets of this process one arena of bounded size, since damaged ones may need any."""
    gigabytes = float(os.environ.get("SPEECHKIT_NET_GB", MAX_NET_GB))
    arena, usual = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    onnxruntime.create_and_register_allocator(
        onnxruntime.OrtMemoryInfo("Cpu", arena, 0, usual),
        onnxruntime.OrtArenaCfg({"max_mem": int(gigabytes * 1e9)}),
    )


def read_metadata(text: str, path: str) -> dict[str, Any]:
    """The metadata of a file; raises RuntimeFailure for numbers beyond the limits."""
    try:
        metadata: dict[str, Any] = json.loads(text)
        sizes = [v for key, v in metadata.items() if type(v) in (int, float) and key != "format"]
        sizes += [math.prod(state["shape"]) for state in metadata.get("states", ())]
        # an absent bound is null
        rules = [v for key in RULES for k, v in metadata.get(key, {}).items() if k != "silent"]
        sizes += [v for v in rules if v is not None]
        silent = metadata.get("spotting", {}).get("silent", [])
        if not all(isinstance(name, str) for name in silent):
            raise TypeError("silent")
        flushed = metadata.get("flush", 0) / metadata.get("block", 1)
        fits = all(0 <= size <= MAX_SIZE for size in sizes) and flushed <= MAX_FLUSHED_BLOCKS
        fits = fits and LOWEST_RATE <= metadata["sample_rate"] <= HIGHEST_RATE
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as e:
        reason = f"{path} describes itself in a way that cannot be read: {type(e).__name__}"
        raise RuntimeFailure(f"{reason}; export the model again") from e
    if not fits:
        raise RuntimeFailure(
            f"{path} names a size or a time outside 0 to {MAX_SIZE}, or a sample rate outside "
            f"{LOWEST_RATE} to {HIGHEST_RATE}; export the model again"
        )
    return metadata


class Model:
    """A loaded file with its `metadata`. Threads may share it."""

    def __init__(self, session: onnxruntime.InferenceSession, metadata: dict[str, Any]) -> None:
        self.session, self.metadata = session, metadata
        self.labels: list[str] = metadata["labels"]
        self.sample_rate = operator.index(metadata["sample_rate"])

    @answers
    def vad(self, audio: Audio) -> list[tuple[float, float]]:
        """The (start_s, end_s) of speech, by the model's `postprocess`."""
        speech, frame_s, duration_s = self.speech_probabilities(audio)
        rule = Speech(self.metadata, frame_s)
        events = rule.advance(speech, duration_s) + rule.finish(duration_s)
        at_s = [event["at_s"] for event in events]
        return list(zip(at_s[::2], at_s[1::2], strict=True))

    @answers
    def speech_probabilities(self, audio: Audio) -> tuple[NDArray[np.float32], float, float]:
        """The probability of speech of each frame `[T]`, a frame's duration and the sound's in
        seconds.

        A clip-level MarbleNet runs on windows that overlap by 7/8.
        """
        if "postprocess" not in self.metadata:
            self._require("frame")
        samples = self._samples(audio)
        duration_s = len(samples) / self.sample_rate
        if self.metadata["task"] == "clip":
            return *self._windows(samples), duration_s
        return softmax(self._scores(samples))[:, 1], self.metadata["frame_s"], duration_s

    @answers
    def classify(self, audio: Audio) -> Label:
        """The label of a clip."""
        self._require("clip")
        scores = softmax(self._scores(self._samples(audio)))
        best = int(scores.argmax())
        named = dict(zip(self.labels, scores.tolist(), strict=True))
        return Label(self.labels[best], float(scores[best]), named)

    @answers
    def transcribe(self, audio: Audio) -> str:
        """The transcript of the audio."""
        self._require("ctc")
        letters = Letters(self.labels)
        for row in self._scores(self._samples(audio)):
            letters.read(row)
        return letters.text

    @answers
    def stream(self) -> Stream:
        """A streaming session; the file must be from `speechkit export --streaming`."""
        if not self.metadata["streaming"]:
            raise RuntimeFailure("this file reads whole recordings; export with --streaming")
        return Stream(self.session, self.metadata)

    def _require(self, task: str) -> None:
        own = self.metadata["task"]
        if own != task:
            # the task of a plugin has no verb here
            hint = f"use {VERBS[own]}" if own in VERBS else f"its task {own} is not known here"
            raise RuntimeFailure(f"this {self.metadata['kind']} cannot {VERBS[task]}; {hint}")

    def _samples(self, audio: Audio) -> NDArray[np.float32]:
        if self.metadata["streaming"]:
            raise RuntimeFailure("this file is for a stream; use listen, or export without it")
        if isinstance(audio, np.ndarray):
            return np.clip(audio, -1, 1).astype(np.float32)
        return read_audio(audio, self.sample_rate)

    def _scores(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores of one recording, `[T, n]`, or of a clip `[n]`."""
        if len(samples) < self.metadata["shortest"]:
            raise RuntimeFailure(
                f"{len(samples)} samples at {self.sample_rate} Hz are less than one frame; "
                f"give at least {self.metadata['shortest']}"
            )
        scores, lengths = self._run(samples[None])
        return scores[0] if scores.ndim == 2 else scores[0, : lengths[0]]

    def _run(self, rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        lengths = np.full(len(rows), rows.shape[1], np.int64)
        found: list[NDArray[np.float32]] = self.session.run(
            None, {"audio": rows, "lengths": lengths}
        )
        return found

    def _windows(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        """The median of the windows over each eighth of a window, half a window of silence put
        before and after."""
        step = round(self.metadata["window_s"] / 8 * self.sample_rate)
        around = np.pad(samples, 4 * step)
        windows = np.lib.stride_tricks.sliding_window_view(around, 8 * step)[::step]
        parts = range(0, len(windows), WINDOWS_AT_ONCE)
        scores = [self._run(windows[at : at + WINDOWS_AT_ONCE].copy())[0] for at in parts]
        speech = softmax(np.concatenate(scores))[:, 1]
        over = np.lib.stride_tricks.sliding_window_view(
            np.pad(speech, 7, constant_values=np.nan), 8
        )
        return np.nanmedian(over, axis=1)[4:-4], step / self.sample_rate
