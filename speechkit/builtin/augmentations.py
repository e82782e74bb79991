"""The augmentations of the core."""

from speechkit.component import Component
from speechkit.hookspecs import hookimpl

_NEEDS_RECORDINGS = {"check_generator_decides": "its example names a folder of recordings"}


@hookimpl
def speechkit_augmentations() -> list[Component]:
    return [
        Component(
            name="gain",
            factory="speechkit.data.augment:Gain",
            summary="A random level",
            formula="x * 10^(g / 20), g ~ U(min_db, max_db)",
            example={"min_db": -10.0, "max_db": 10.0},
        ),
        Component(
            name="white_noise",
            factory="speechkit.data.augment:WhiteNoise",
            summary="White noise at a random level below full scale",
            formula="x + 10^(g / 20) * n, n ~ N(0, 1), g ~ U(min_db, max_db)",
            paper="arXiv:2004.08531",
            example={"min_db": -90.0, "max_db": -46.0},
        ),
        Component(
            name="shift",
            factory="speechkit.data.augment:TimeShift",
            summary="Moves the sound in time by a few milliseconds",
            formula="x[n + s], s ~ U(-max_ms, max_ms)",
            paper="arXiv:2004.08531",
            time="lookahead",
            example={"max_ms": 5.0},
        ),
        Component(
            name="pad",
            factory="speechkit.data.augment:Pad",
            summary="Adds silence before and after",
            formula="[0] * U(0, max_ms) + x + [0] * U(0, max_ms)",
            time="utterance",
            example={"max_ms": 300.0},
        ),
        Component(
            name="speed",
            factory="speechkit.data.augment:Speed",
            summary="Plays faster or slower, pitch included",
            formula="x(f * t), f ~ U{min, min + 0.01, ..., max}",
            paper="Ko et al., Audio augmentation for speech recognition, Interspeech 2015",
            time="utterance",
            example={"min": 0.9, "max": 1.1},
        ),
        Component(
            name="tempo",
            factory="speechkit.data.augment:Tempo",
            summary="Changes the speed at the same pitch, by stretching the features",
            formula="x[:, t * f], f ~ U(min, max)",
            time="utterance",
            example={"min": 0.8, "max": 1.25},
        ),
        Component(
            name="equalize",
            factory="speechkit.data.augment:Equalize",
            summary="A random microphone: a smooth random gain over frequency",
            formula="Y(f) = 10^(g(f) / 20) * X(f), g(f_k) ~ U(-max_db, max_db), same level",
            time="utterance",
            example={"max_db": 10.0},
        ),
        Component(
            name="noise",
            factory="speechkit.data.augment:AdditiveNoise",
            summary="Adds recorded noise at a random signal-to-noise ratio",
            formula="x + a * n, 10 * log10(sum x^2 / sum (a * n)^2) ~ U(min_snr_db, max_snr_db)",
            time="utterance",
            example={"source": "noise", "min_snr_db": 0.0, "max_snr_db": 20.0},
            exempt=_NEEDS_RECORDINGS,
        ),
        Component(
            name="reverb",
            factory="speechkit.data.augment:Reverb",
            summary="A room: convolution with a measured impulse response, at the same level",
            formula="a * sum_k h[k] * x[n + d - k], d = argmax |h|, sum y^2 = sum x^2",
            time="utterance",
            example={"source": "rooms"},
            exempt=_NEEDS_RECORDINGS,
        ),
        Component(
            name="spec_augment",
            factory="speechkit.data.augment:SpecAugment",
            summary="Hides bands of frequencies and stretches of time",
            formula="0 in freq_masks bands and time_masks stretches of random width, else x",
            paper="arXiv:1904.08779",
            time="utterance",
            example={"freq_masks": 2, "freq_width": 15, "time_masks": 2, "time_width": 25},
        ),
        Component(
            name="spec_cutout",
            factory="speechkit.data.augment:SpecCutout",
            summary="Hides random rectangles of the features",
            formula="0 in rects rectangles of up to freq_width x time_width, else x",
            paper="arXiv:1708.04552",
            time="utterance",
            example={"rects": 5, "freq_width": 15, "time_width": 25},
        ),
    ]
