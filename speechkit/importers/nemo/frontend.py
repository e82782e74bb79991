"""Imports NeMo's preprocessors as front ends, with the tables of an archive."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from speechkit.component import Spec
from speechkit.errors import CheckpointError, ComponentError
from speechkit.frontend.base import Table
from speechkit.importers.nemo.layout import Tensors
from speechkit.importers.nemo.section import Section
from speechkit.plugins import registry

MOST_FFT = 1 << 14
MOST_BANDS = 1 << 10
SAME = 1e-6
"""Tables that differ less from the computed ones, relative to the maximum, are not stored."""
GUARD = 2**-24


@dataclass(frozen=True, kw_only=True)
class Conventions:
    """How an archive's version, encoder and decoder treat frames.

    `invariant`: log-mel frames do not depend on padding, as in NeMo from 2.5 on. `mfcc_invariant`:
    MFCC frames do not either, which version 2.5 did not change. `masked`: the encoder masks frames
    after the end. `reads_padding`: scores still depend on the number of padded frames.
    """

    invariant: bool
    mfcc_invariant: bool
    masked: bool
    reads_padding: bool
    clip_frames: int


@dataclass(frozen=True)
class FrontEnd:
    """A front end by name, with the sizes of its input and output."""

    spec: Spec
    sample_rate: int
    features: int


def read_frontend(section: Section, weights: Tensors, conventions: Conventions) -> FrontEnd:
    """The front end that a preprocessor's config and buffers describe."""
    name = section.target
    if name not in READERS:
        section.refuse("_target_", name, f"speechkit has {', '.join(READERS)}")
    rate = section.integer("sample_rate", 16000)
    window = _samples(section, "window_size", rate, 0.02)
    hop = _samples(section, "window_stride", rate, 0.01)
    n_fft = section.integer("n_fft", 1 << (window - 1).bit_length(), most=MOST_FFT)
    kind, own, features, tables = READERS[name](section, weights, window, n_fft, conventions)
    params = {"window_s": window / rate, "hop_s": hop / rate, "n_fft": n_fft, **own}
    if conventions.clip_frames:
        params["clip_frames"] = conventions.clip_frames
    if not conventions.masked:
        params["unmasked"] = True
    _check_formulas(section, rate, tables)
    section.done()
    spec = _with_tables(Spec(kind, params), rate, tables, weights, section.where)
    return FrontEnd(spec, rate, features)


Read = tuple[str, dict[str, Any], int, list[Tensor | None]]
"""A front end's name, its own parameters, its features, and its tables where they are stored."""


def _log_mel(
    section: Section, weights: Tensors, window: int, n_fft: int, conventions: Conventions
) -> Read:
    bands = section.integer("features", 64, most=MOST_BANDS)
    pad_to = section.integer("pad_to", 16, least=0)
    guard = section.number("log_zero_guard_value", GUARD)
    if abs(guard / GUARD - 1) > 1e-3:
        section.refuse("log_zero_guard_value", guard, f"speechkit adds {GUARD}")
    preemphasis = 0.0 if section.is_null("preemph") else section.number("preemph", 0.97)
    normalize = "none" if section.is_null("normalize") else section.get("normalize", "per_feature")
    # NeMo treats any unknown word as none; these are the ones in use
    if normalize in ("None", "NA", "", False):
        normalize = "none"
    if normalize not in ("none", "per_feature"):
        section.refuse("normalize", normalize, "speechkit reads per_feature and None")
    section.only(log=True, log_zero_guard_type="add", mag_power=2, frame_splicing=1)
    section.only(exact_pad=False, pad_value=0, stft_conv=False, use_torchaudio=False)
    section.ignore("dither", "nb_augmentation_prob", "nb_max_freq", "rng", "stft_exact_pad")
    own = {"n_mels": bands, "preemphasis": preemphasis, "normalize": normalize}
    if not conventions.invariant:
        own |= {"compat": "nemo1", "pad_to": pad_to}
    elif conventions.reads_padding:
        own |= {"extra_frames": 1, "pad_to": pad_to}
    bank = _stored(weights, "fb", (1, bands, n_fft // 2 + 1))
    tables = [_stored(weights, "window", (window,)), None if bank is None else bank[0]]
    return "log_mel", own, bands, tables


def _mfcc(
    section: Section, weights: Tensors, window: int, n_fft: int, conventions: Conventions
) -> Read:
    bands = section.integer("n_mels", 64, most=MOST_BANDS)
    cepstra = section.integer("n_mfcc", 64, most=MOST_BANDS)
    section.only(dct_type=2, norm="ortho", log=True)
    own: dict[str, Any] = {"n_mels": bands, "n_mfcc": cepstra}
    if not conventions.mfcc_invariant:
        own["compat"] = "nemo1"
    bank = _stored(weights, "MelSpectrogram.mel_scale.fb", (n_fft // 2 + 1, bands))
    cosines = _stored(weights, "dct_mat", (bands, cepstra))
    tables = [
        _stored(weights, "MelSpectrogram.spectrogram.window", (window,)),
        None if bank is None else bank.T,
        None if cosines is None else cosines.T,
    ]
    return "mfcc", own, cepstra, tables


READERS = {"AudioToMelSpectrogramPreprocessor": _log_mel, "AudioToMFCCPreprocessor": _mfcc}


def _samples(section: Section, key: str, rate: int, default_s: float) -> int:
    """A duration in samples; the key is in seconds, or in samples with the prefix `n_`."""
    if section.is_null(f"n_{key}") or f"n_{key}" not in section.values:
        section.ignore(f"n_{key}")
        samples = int(section.number(key, default_s) * rate)
        if not 1 < samples <= MOST_FFT:
            section.refuse(key, samples / rate, f"give 2 to {MOST_FFT} samples, in seconds")
        return samples
    section.ignore(key)
    return section.integer(f"n_{key}", least=2, most=MOST_FFT)


def _stored(weights: Tensors, name: str, shape: tuple[int, ...]) -> Tensor | None:
    """A buffer of the preprocessor, None in an archive without it."""
    name = f"preprocessor.featurizer.{name}"
    return weights.pop(name, shape) if name in weights.left else None


def _check_formulas(section: Section, rate: int, tables: list[Tensor | None]) -> None:
    """Raises CheckpointError for a window or filterbank that is not stored and not supported."""
    window, bank = tables[:2]
    if window is None:
        if section.is_null("window"):
            section.refuse("window", None, "speechkit has window=hann only")
        section.only(window="hann")
    if bank is None:
        section.only(lowfreq=0, highfreq=rate / 2, mel_norm="slaney")
    section.ignore("window", "lowfreq", "highfreq", "mel_norm")


def _with_tables(
    spec: Spec, rate: int, tables: list[Tensor | None], weights: Tensors, where: str
) -> Spec:
    """The spec; the file's tables are added to the weights if they differ from computed ones."""
    try:
        frontend = registry().build("frontend", spec, rate)
    except ComponentError as error:
        raise CheckpointError(f"{where}: {error}") from error
    computed = [(name, m.value) for name, m in frontend.named_modules() if isinstance(m, Table)]
    pairs = list(zip(computed, tables, strict=True))
    if all(
        stored is None or (stored - ours).abs().max() <= SAME * ours.abs().max()
        for (_, ours), stored in pairs
    ):
        return spec
    for (name, ours), stored in pairs:
        weights.taken[f"frontend.{name}.value"] = ours if stored is None else stored.contiguous()
    return Spec(spec.name, {**spec.params, "tables": "stored"})
