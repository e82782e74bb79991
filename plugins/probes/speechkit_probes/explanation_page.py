"""The page of an explanation: pictures over time and frequency, and the parts to listen to."""

import base64
import io

import numpy as np
import soundfile
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from speechkit.report.page import line, page, shades, table
from speechkit_probes.explanation import Explanation, Part

COLUMNS = 100
"""The most columns of a picture."""


def explanation_page(
    title: str, found: Explanation, samples: NDArray[np.float32], rate: int
) -> str:
    """The page, with the whole recording and each part as sound."""
    time = f"{found.attribution.shape[1] * found.frame_s:.2f} s from left to right"
    sections = [
        ("Listen", _sound(samples, rate)),
        ("The parts that decided", _parts(found.parts, samples, rate)),
        (
            "Attribution of each frame",
            line(time, found.attribution.sum(0).tolist(), found.attribution.shape[1]),
        ),
        (
            "What spoke for it, feature 0 at the bottom",
            _picture(time, found.attribution.clamp(min=0)),
        ),
        ("Features, feature 0 at the bottom", _picture(time, found.features)),
        (
            "How to read it",
            "<p>The attribution of a feature is the gradient of the score of what was predicted, "
            "with &sigma;(z / T) for the derivative of each activation of input z, times the "
            "distance of the feature from its mean over the recording (excitation pullbacks, "
            "arXiv:2507.22832). It says, to first order, what the score would lose if the feature "
            "took its mean. It is no proof of what the net knows.</p>",
        ),
    ]
    return page(title, {"predicted": found.text or "nothing"}, sections)


def _picture(name: str, values: Tensor) -> str:
    """A matrix `[F, T]` with its first row at the bottom."""
    size = values.shape[0], min(COLUMNS, values.shape[1])
    shrunk = F.adaptive_avg_pool2d(values.double()[None], size)[0].flip(0)
    return shades(name, shrunk.tolist(), tuple(values.shape))


def _parts(parts: tuple[Part, ...], samples: NDArray[np.float32], rate: int) -> str:
    rows = [
        (f"{part.start_s:.2f} to {part.end_s:.2f} s", f"{100 * part.share:.0f} %") for part in parts
    ]
    sounds = [
        _sound(samples[round(part.start_s * rate) : round(part.end_s * rate)], rate)
        for part in parts
    ]
    return table(("", "share"), rows) + "".join(sounds)


def _sound(samples: NDArray[np.float32], rate: int) -> str:
    """An audio element that holds the samples."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<audio controls="" src="data:audio/wav;base64,{data}"></audio>'
