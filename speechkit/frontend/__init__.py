"""From audio to features. A layer that cannot stream raises an error that names an alternative."""

import speechkit.torch_required

from speechkit.frontend.base import Offline
from speechkit.frontend.mel import MFCC, LogMel
from speechkit.frontend.nemo1 import NemoPowerSpectrum, PadTo
from speechkit.frontend.normalize import (
    PCEN,
    Fixed,
    PCENAndLevel,
    PerFeature,
    Running,
    fit_statistics,
)
from speechkit.frontend.resample import Resample
from speechkit.frontend.stft import PowerSpectrum, PreEmphasis

__all__ = [
    "MFCC",
    "PCEN",
    "Fixed",
    "LogMel",
    "NemoPowerSpectrum",
    "Offline",
    "PCENAndLevel",
    "PadTo",
    "PerFeature",
    "PowerSpectrum",
    "PreEmphasis",
    "Resample",
    "Running",
    "fit_statistics",
]
