"""Voice activity, audio to probability: sessions of `vad` compared with silero-vad and webrtcvad.

They are different nets, so each is compared with its own offline output; `make bench-vad` compares
their accuracy. A session continues from round to round, and is compared in the first one.
"""

from functools import lru_cache, partial
from importlib.util import find_spec
from math import inf, lcm
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import speechkit as sk
from benchmarks.inputs import SAMPLE_RATE, speech
from benchmarks.registry import Absent, Benchmark, Contestant, Options, Run
from speechkit.models import Model

SOUND_S = 1.92
"""A multiple of every step."""
SESSIONS = (16, 256)
PACKETS_MS = (32, 160)
"""The milliseconds of sound that each session of a pool is fed at a time."""
STEPS_MS = (10, 20, 80, 160)
MEETING = 2560
"""After so many samples all steps and blocks end together; there probabilities are compared."""


def benchmarks(options: Options) -> list[Benchmark]:
    def ours(name: str, step_ms: int, sessions: int = 1, alone: bool = False) -> Contestant:
        build = partial(pooled if alone else listening, step_ms, sessions)
        return Contestant(f"speechkit, {name}", build, 1e-3, offline, sessions)

    most = SESSIONS[-1]
    contestants = (
        Contestant("silero-vad, 32 ms", silero, 1e-3, silero_offline),
        Contestant("webrtcvad, 30 ms", webrtc, inf),
        ours("32 ms", 32),
        *(ours(f"{sessions} sessions, 32 ms", 32, sessions) for sessions in SESSIONS),
        *(ours(f"pool of {most}, {ms} ms", ms, most, alone=True) for ms in PACKETS_MS),
        *(ours(f"{step_ms} ms", step_ms) for step_ms in STEPS_MS),
    )
    work = f"{SOUND_S:g} s of one session's sound, so many ms at a time"
    return [Benchmark("detection/vad", work, contestants, SOUND_S)]


@lru_cache(maxsize=1)
def model_of() -> Model:
    return sk.load("vad")


def listening(step_ms: int, sessions: int) -> Run:
    """Sessions with the same audio; the output is that of the last one."""
    step = step_ms * SAMPLE_RATE // 1000
    parts = speech(SOUND_S).reshape(-1, step)
    every = lcm(step, MEETING) // step
    stream = sk.stream(model_of())
    batch = sk.StreamBatch(model_of(), sessions)

    def one() -> Tensor:
        scores = []
        for part in parts:
            stream.feed(part)
            scores.append(stream.scores)
        return torch.stack(_known(scores[every - 1 :: every])).softmax(1)[:, 1]

    def many() -> Tensor:
        scores = []
        for part in parts:
            batch.feed(np.tile(part, (sessions, 1)))
            scores.append(batch.scores)
        return torch.stack(_known(scores[every - 1 :: every]))[:, -1].softmax(1)[:, 1]

    return one if sessions == 1 else many


def pooled(step_ms: int, sessions: int) -> Run:
    """The same in a pool."""
    step = step_ms * SAMPLE_RATE // 1000
    parts = speech(SOUND_S).reshape(-1, step)
    every = lcm(step, MEETING) // step
    pool = sk.SessionPool(model_of(), sessions)
    numbers = [pool.join() for _ in range(sessions)]

    def run() -> Tensor:
        found = []
        for index, part in enumerate(parts, start=1):
            pool.feed_many(numbers, np.tile(part, (sessions, 1)))
            while made := pool.step():
                made.events()
                last = made
            if index % every == 0:
                found.append(last.scores()[numbers[-1]][-1])
        return torch.from_numpy(np.stack(found)).softmax(1)[:, 1]

    return run


def _known(scores: list[NDArray[np.float32] | None]) -> list[Tensor]:
    return [torch.from_numpy(each) for each in scores if each is not None]


@torch.inference_mode()
def offline() -> Tensor:
    """A session's latest probability at each of these places."""
    model = model_of()
    scores = model(torch.from_numpy(speech(SOUND_S))[None]).scores[0]
    every = round(MEETING / SAMPLE_RATE / model.frame_s)
    late = round(model.latency_s / model.frame_s)
    own: Tensor = scores[every - 1 - late :: every].softmax(1)[:, 1]
    return own


def silero() -> Run:
    folder = silero_folder()
    from benchmarks.silero import Silero

    net, x = Silero(folder / "silero_vad.onnx"), speech(SOUND_S)
    return lambda: torch.tensor(net.probabilities(x))


@torch.inference_mode()
def silero_offline() -> Tensor:
    """The probabilities of silero-vad's own TorchScript."""
    net = torch.jit.load(str(silero_folder() / "silero_vad.jit"))
    windows = torch.from_numpy(speech(SOUND_S)).split(512)
    return torch.cat([net(window[None], SAMPLE_RATE)[0] for window in windows])


def silero_folder() -> Path:
    """The folder of silero-vad's nets; its package is not imported, because it imports torchaudio.

    Raises Absent if it, or onnxruntime, is not installed.
    """
    found = find_spec("silero_vad")
    if found is None or found.origin is None:
        raise Absent("silero-vad is not installed; see `make bench`")
    if find_spec("onnxruntime") is None:
        raise Absent("onnxruntime is not installed")
    return Path(found.origin).parent / "data"


def webrtc() -> Run:
    if find_spec("webrtcvad") is None:
        raise Absent("webrtcvad is not installed; see `make bench`")
    import webrtcvad

    pcm = (speech(SOUND_S) * 32767).astype(np.int16).reshape(-1, 480)
    vad, frames = webrtcvad.Vad(2), [frame.tobytes() for frame in pcm]
    return lambda: torch.tensor([vad.is_speech(frame, SAMPLE_RATE) for frame in frames])
