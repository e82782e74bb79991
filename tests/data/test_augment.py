"""Augmentations: what each does to the sound, and that only the generator decides it."""

import importlib
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from speechkit.builtin.augmentations import speechkit_augmentations
from speechkit.data.augment import (
    AdditiveNoise,
    Augmentation,
    Equalize,
    Gain,
    Pad,
    Reverb,
    SpecAugment,
    SpecCutout,
    Speed,
    Tempo,
    TimeShift,
    WhiteNoise,
    apply,
    utterance_generator,
)
from speechkit.data.manifest import Utterance, write_manifest
from speechkit.errors import AudioError, ComponentError


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    folder = tmp_path / "noise"
    folder.mkdir()
    chance = np.random.default_rng(1)
    for name, seconds in (("short", 0.3), ("long", 4.0)):
        x = chance.uniform(-0.2, 0.2, round(16000 * seconds))
        soundfile.write(folder / f"{name}.wav", x, 16000)
    return folder


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    folder = tmp_path / "rooms"
    folder.mkdir()
    response = np.zeros(2000)
    response[[100, 800]] = 0.8, 0.4
    soundfile.write(folder / "echo.wav", response, 16000)
    return folder


@pytest.fixture
def every(noise: Path, rooms: Path) -> list[Augmentation]:
    masks = [SpecAugment(), SpecAugment(time_width=0.2), SpecCutout()]
    sounds = [Gain(), WhiteNoise(), TimeShift(), Speed()]
    return [*masks, *sounds, AdditiveNoise(str(noise)), Reverb(str(rooms))]


def sound(samples: int = 16000) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(1, samples, generator=generator) * 0.1


def example(augmentation: Augmentation) -> Tensor:
    return sound() if augmentation.domain == "audio" else 1 + sound(64 * 100).view(64, 100)


def level_db(x: Tensor) -> float:
    return 10 * math.log10(x.double().square().mean())


def test_only_the_generator_decides(every: list[Augmentation]) -> None:
    for augmentation in every:
        x = example(augmentation)
        before = x.clone()
        first, again, *others = (
            augmentation(x, x.shape[1], torch.Generator().manual_seed(seed))[0]
            for seed in (0, 0, 1, 2)
        )
        assert torch.equal(x, before), augmentation
        assert torch.equal(first, again), augmentation
        # there is one room only
        differ = any(y.shape != first.shape or not torch.equal(y, first) for y in others)
        assert differ != isinstance(augmentation, Reverb), augmentation


def test_the_global_generator_is_not_touched(every: list[Augmentation]) -> None:
    before = torch.get_rng_state()
    for augmentation in every:
        x = example(augmentation)
        augmentation(x, x.shape[1], torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_the_length_is_that_of_the_result(every: list[Augmentation]) -> None:
    for augmentation in every:
        x = example(augmentation)
        y, length = augmentation(x, x.shape[1], torch.Generator().manual_seed(0))
        assert y.dtype == x.dtype
        assert y.shape == (x.shape[0], length)
        assert y.isfinite().all()


def test_padding_changes_nothing(every: list[Augmentation]) -> None:
    for augmentation in every:
        x = example(augmentation)
        padded = torch.cat([x, torch.full_like(x[:, :50], torch.nan)], dim=1)
        alone, length = augmentation(x, x.shape[1], torch.Generator().manual_seed(3))
        y, same_length = augmentation(padded, x.shape[1], torch.Generator().manual_seed(3))
        assert length == same_length
        assert torch.equal(alone, y[:, :length])


def test_probability_is_how_often_it_happens() -> None:
    gain, x = Gain(probability=0.3), sound(10)
    generator = torch.Generator().manual_seed(0)
    changed = sum(not torch.equal(gain(x, 10, generator)[0], x) for _ in range(1000))
    assert 250 < changed < 350


def test_seeds_differ_by_run_epoch_utterance_and_domain() -> None:
    keys = [(s, e, i) for s in range(4) for e in range(4) for i in range(50)]
    draws = {torch.rand((), generator=utterance_generator(*key)).item() for key in keys}
    assert len(draws) == len(keys)
    assert utterance_generator(0, 0, 0, "features").initial_seed() != (
        utterance_generator(0, 0, 0).initial_seed()
    )
    # the same number on every platform and in every version
    assert utterance_generator(1, 2, 3).initial_seed() == 6824834601992096280


def test_apply_runs_them_in_order() -> None:
    x = sound(100)
    chain = [Gain(6, 6), Gain(-20, -20)]
    y, length = apply(chain, x, 100, torch.Generator())
    assert length == 100
    assert level_db(y) - level_db(x) == pytest.approx(-14, abs=1e-3)


def test_gain_stays_in_its_range() -> None:
    x, generator = sound(), torch.Generator().manual_seed(0)
    levels = [level_db(Gain(-3, 6)(x, 16000, generator)[0]) - level_db(x) for _ in range(200)]
    assert -3 <= min(levels) < -2.5
    assert 5.5 < max(levels) <= 6


def test_gain_may_change_once_on_the_way() -> None:
    generator, x = torch.Generator().manual_seed(0), torch.full((1, 1000), 0.1)
    steps_db = []
    for _ in range(100):
        y, _ = Gain(0, 0, step_db=20)(x, 1000, generator)
        jumps = y[0].diff().nonzero()
        assert y[0, 0] == x[0, 0] or len(jumps) == 0
        assert len(jumps) <= 1
        steps_db.append(20 * math.log10(y[0, -1] / x[0, -1]))
    assert -20 <= min(steps_db) < -15
    assert 15 < max(steps_db) <= 20


@pytest.mark.parametrize("db", [-90.0, -46.0, -20.0])
def test_white_noise_has_its_level(db: float) -> None:
    y, _ = WhiteNoise(db, db)(torch.zeros(1, 50000), 50000, torch.Generator().manual_seed(0))
    assert level_db(y) == pytest.approx(db, abs=0.1)


def test_shift_moves_both_ways_and_fills_with_zeros() -> None:
    x, generator = torch.arange(1.0, 1001)[None], torch.Generator().manual_seed(0)
    shifts = set()
    for _ in range(100):
        y, length = TimeShift(max_ms=5)(x, 1000, generator)
        assert length == 1000
        kept = y[y != 0]
        shift = int((kept - torch.nonzero(y[0])[:, 0] - 1)[0])
        assert len(kept) == 1000 - abs(shift)
        assert torch.equal(kept, x[0, max(0, shift) : 1000 + min(0, shift)])
        shifts.add(shift)
    assert -80 <= min(shifts) < -70
    assert 70 < max(shifts) <= 80


def test_a_shift_longer_than_the_sound_leaves_silence() -> None:
    y, length = TimeShift(max_ms=1e6)(sound(5), 5, torch.Generator().manual_seed(0))
    assert length == 5
    assert not y.any()


@pytest.mark.parametrize("factor", [0.85, 0.9, 1.0, 1.07, 1.15])
def test_speed_scales_length_and_pitch(factor: float) -> None:
    x = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)[None]
    y, length = Speed(factor, factor)(x, 16000, torch.Generator())
    assert length == pytest.approx(16000 / factor, abs=1)
    hertz = float(torch.fft.rfft(y[0]).abs().argmax()) * 16000 / length
    assert hertz == pytest.approx(1000 * factor, abs=1.2)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
@pytest.mark.parametrize("samples", [3000, 16000, 90000])
def test_noise_reaches_its_ratio(noise: Path, snr_db: float, samples: int) -> None:
    x = sound(samples)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        y, length = AdditiveNoise(str(noise), snr_db, snr_db)(x, samples, generator)
        assert length == samples
        assert level_db(x) - level_db(y - x) == pytest.approx(snr_db, abs=1e-3)


def test_noise_takes_a_manifest_and_its_rate(noise: Path, tmp_path: Path) -> None:
    rows = [Utterance(audio=noise / "long.wav", duration_s=0.5, offset_s=1.0)]
    write_manifest(tmp_path / "noise.jsonl", rows)
    augmentation = AdditiveNoise(str(tmp_path / "noise.jsonl"), 0, 0, sample_rate=8000)
    x = sound(4000)
    y, _ = augmentation(x, 4000, torch.Generator().manual_seed(0))
    assert level_db(x) - level_db(y - x) == pytest.approx(0, abs=1e-3)


def test_silent_speech_or_noise_is_left_as_it_is(tmp_path: Path, noise: Path) -> None:
    silence = torch.zeros(1, 1000)
    y, _ = AdditiveNoise(str(noise))(silence, 1000, torch.Generator())
    assert not y.any()
    (tmp_path / "quiet").mkdir()
    soundfile.write(tmp_path / "quiet" / "a.wav", np.zeros(500), 16000)
    x = sound(1000)
    assert torch.equal(AdditiveNoise(str(tmp_path / "quiet"))(x, 1000, torch.Generator())[0], x)


def test_reverb_keeps_the_time_of_the_direct_path_and_the_level(rooms: Path) -> None:
    x = torch.zeros(1, 4000)
    x[0, 1000] = 0.5
    y, length = Reverb(str(rooms))(x, 4000, torch.Generator())
    assert length == 4000
    assert torch.nonzero(y[0].abs() > 1e-4)[:, 0].tolist() == [1000, 1700]
    assert (y[0, 1700] / y[0, 1000]).item() == pytest.approx(0.5, abs=1e-3)
    assert level_db(y) == pytest.approx(level_db(x), abs=1e-3)


def test_spec_augment_hides_whole_bands_and_frames() -> None:
    x = torch.ones(64, 200)
    frames, bands = set(), set()
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        hidden = SpecAugment(1, 15, 1, 25)(x, 200, generator)[0] == 0
        bands.add(int(hidden.all(dim=1).sum()))
        frames.add(int(hidden.all(dim=0).sum()))
        outer = hidden.all(dim=1)[:, None] | hidden.all(dim=0)[None]
        assert torch.equal(hidden, outer)
    assert bands == set(range(16))
    assert frames == set(range(26))


def test_spec_augment_takes_a_fraction_of_the_length() -> None:
    widths = set()
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        y, _ = SpecAugment(0, 0, 1, 0.05)(torch.ones(4, 400), 200, generator)
        assert (y[:, 200:] == 1).all()
        widths.add(int((y[0] == 0).sum()))
    assert widths == set(range(11))


def test_spec_cutout_hides_small_rectangles() -> None:
    shapes = set()
    for seed in range(600):
        generator = torch.Generator().manual_seed(seed)
        hidden = SpecCutout(1, 3, 5)(torch.ones(20, 30), 30, generator)[0] == 0
        shapes.add((int(hidden.any(dim=1).sum()), int(hidden.any(dim=0).sum())))
        assert hidden.sum() == hidden.any(dim=1).sum() * hidden.any(dim=0).sum()
    assert max(shapes) == (3, 5)
    assert len(shapes) == 16


@pytest.mark.parametrize("length", [0, 1, 7])
def test_masks_take_very_short_utterances(length: int) -> None:
    for augmentation in (SpecAugment(), SpecAugment(time_width=0.05), SpecCutout()):
        y, same = augmentation(torch.ones(8, 9), length, torch.Generator().manual_seed(0))
        assert same == length
        assert (y[:, length:] == 1).all()


def test_bad_parameters_are_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match="the range 3 to -3 is empty; swap its ends"):
        Gain(3, -3)
    with pytest.raises(ComponentError, match="the range 5 to 0 is empty"):
        AdditiveNoise("noise", 5, 0)
    with pytest.raises(ComponentError, match=r"min=0 is no speed; give a factor such as 0.9"):
        Speed(0, 1)
    with pytest.raises(AudioError, match=r"no recordings in .*; give a folder of"):
        Reverb(str(tmp_path))(sound(), 16000, torch.Generator())


def test_pad_puts_silence_around_the_sound() -> None:
    x = torch.ones(1, 800)
    generator = utterance_generator(0, 0, 0)
    starts = set()
    for _ in range(50):
        y, length = Pad(max_ms=100, sample_rate=8000)(x, 800, generator)
        assert y.shape == (1, length)
        start = int(y[0].nonzero()[0])
        assert torch.equal(y[0, start : start + 800], x[0])
        assert y.sum() == 800
        assert length - start - 800 <= 800
        starts.add(start)
    assert min(starts) < 160
    assert max(starts) > 640


def test_equalize_colours_the_sound_and_keeps_its_level_and_place() -> None:
    x = torch.zeros(1, 4000)
    x[0, 2000] = 0.5
    equalize = Equalize(max_db=10, sample_rate=8000)
    gains_db = []
    for index in range(20):
        y, length = equalize(x, 4000, utterance_generator(0, 0, index))
        assert length == 4000
        assert y.square().sum().item() == pytest.approx(0.25, rel=1e-3)
        assert int(y.abs().argmax()) == 2000
        spectrum = 20 * torch.fft.rfft(y[0]).abs().log10()
        gains_db.append((spectrum.max() - spectrum.min()).item())
    assert 5 < sum(gains_db) / 20 < 20
    assert max(gains_db) < 21


def test_tempo_stretches_time_and_leaves_the_features_range_alone() -> None:
    x = torch.rand(3, 60, generator=torch.Generator().manual_seed(0))
    lengths = set()
    for index in range(30):
        y, length = Tempo(min=0.5, max=2.0)(x, 50, utterance_generator(0, 0, index))
        assert y.shape == (3, length)
        assert x[:, :50].min() <= y.min() <= y.max() <= x[:, :50].max()
        lengths.add(length)
    assert min(lengths) < 35
    assert max(lengths) > 70


def test_the_core_lists_them_all() -> None:
    names = [component.name for component in speechkit_augmentations()]
    on_audio = {"gain", "white_noise", "shift", "pad", "speed", "equalize", "noise", "reverb"}
    assert set(names) == on_audio | {"tempo", "spec_augment", "spec_cutout"}
    for component in speechkit_augmentations():
        module, _, attribute = str(component.factory).partition(":")
        built = getattr(importlib.import_module(module), attribute)(**component.example)
        assert built.domain == ("audio" if component.name in on_audio else "features")
        assert component.summary
        assert component.formula
