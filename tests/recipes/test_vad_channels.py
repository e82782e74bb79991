"""What recordings of the vad recipe pass through: bands, levels and times stay as stated."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from speechkit.errors import MissingExtraError

RECIPE = Path(__file__).parents[2] / "recipes" / "vad"
RATE = 16000
NAMES = ("band", "8khz", "mulaw", "gsm", "opus_6", "opus_16")


@pytest.fixture(scope="module")
def vad() -> Iterator[SimpleNamespace]:
    """The recipe's modules, whose names other recipes have too."""
    sys.path.insert(0, str(RECIPE))
    names = ("labels", "sounds", "channels", "rooms")
    for name in names:
        sys.modules.pop(name, None)
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(RECIPE))
        for name in names:
            sys.modules.pop(name, None)


def bursts(seconds: float = 2.0) -> np.ndarray:
    """Noise with a falling spectrum, on and off, about −26 dB."""
    chance = np.random.default_rng(0)
    x = chance.standard_normal(round(seconds * RATE))
    x = np.fft.irfft(np.fft.rfft(x) / (1 + np.fft.rfftfreq(len(x), 1 / RATE) / 500), len(x))
    x *= np.repeat(chance.random(len(x) // 1600) > 0.5, 1600)
    return 0.05 * x / np.sqrt(np.square(x).mean())


def delay(x: np.ndarray, y: np.ndarray) -> int:
    """The samples by which y is later than x, where they are most alike."""
    size = 2 * len(x)
    alike = np.fft.irfft(np.fft.rfft(y, size) * np.fft.rfft(x, size).conj(), size)
    at = int(alike.argmax())
    return at - size * (at > len(x))


def power_db(x: np.ndarray, low_hz: float, high_hz: float) -> float:
    hz = np.fft.rfftfreq(len(x), 1 / RATE)
    part = np.abs(np.fft.rfft(x))[(low_hz <= hz) & (hz < high_hz)]
    return float(10 * np.log10(np.square(part).sum() + 1e-20))


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_keeps_the_length_and_the_time(vad: SimpleNamespace, name: str) -> None:
    x = bursts()
    y = vad.channels.TELEPHONES[name](x)
    assert len(y) == len(x)
    assert abs(delay(x, y)) <= 4


def test_all_channels_are_tested(vad: SimpleNamespace) -> None:
    assert set(vad.channels.TELEPHONES) == set(NAMES)


@pytest.mark.parametrize(
    ("name", "least_db"), [("band", 50), ("8khz", 50), ("mulaw", 25), ("gsm", 20)]
)
def test_a_telephone_has_nothing_above_4_khz(
    vad: SimpleNamespace, name: str, least_db: float
) -> None:
    x = bursts()
    y = vad.channels.TELEPHONES[name](x)
    lost_db = power_db(x, 4100, 8000) - power_db(y, 4100, 8000)
    assert lost_db > least_db
    assert power_db(y, 500, 3000) == pytest.approx(power_db(x, 500, 3000), abs=1.5)


@pytest.mark.parametrize("name", ["band", "mulaw", "gsm"])
def test_a_telephone_begins_at_300_hz(vad: SimpleNamespace, name: str) -> None:
    x = bursts()
    y = vad.channels.TELEPHONES[name](x)
    assert power_db(x, 50, 250) - power_db(y, 50, 250) > 10


def test_opus_has_the_rate_that_is_asked_for(vad: SimpleNamespace) -> None:
    x = bursts()
    errors = [np.square(vad.channels.opus(x, kbit_s) - x).mean() for kbit_s in (6, 16, 64)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.1 * errors[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_keeps_sound_above_full_scale(vad: SimpleNamespace, name: str) -> None:
    x = bursts()
    channel = vad.channels.TELEPHONES[name]
    loud = channel(40 * x) / 40
    assert np.square(loud).mean() == pytest.approx(np.square(channel(x)).mean(), rel=0.3)


def test_clipping_cuts_what_is_above_the_level(vad: SimpleNamespace) -> None:
    x = bursts()
    y = vad.channels.clipped(x, 12.0)
    most = np.abs(y).max()
    assert most == pytest.approx(np.abs(x).max() / 10 ** (12 / 20))
    np.testing.assert_array_equal(y[np.abs(x) < most], x[np.abs(x) < most])


def test_levels_step_within_the_limits(vad: SimpleNamespace) -> None:
    x = np.ones(20 * RATE)
    y = 20 * np.log10(vad.channels.stepped(x, np.random.default_rng(3), 20.0, 2.0))
    assert np.abs(y).max() <= 20
    # eleven levels; all else is ramps of 10 ms
    assert len(np.unique(np.round(y[:: RATE // 100], 6))) <= 11 + 2 * 10
    assert np.ptp(y) > 20


def test_hum_is_at_the_mains_and_its_overtones(vad: SimpleNamespace) -> None:
    x = vad.channels.hum(np.random.default_rng(0), 4 * RATE)
    assert np.square(x).mean() == pytest.approx(1)
    peak_hz = np.abs(np.fft.rfft(x)).argmax() / 4
    assert min(abs(peak_hz / base - round(peak_hz / base)) for base in (50, 60)) < 0.01


def test_a_missing_simulator_is_one_line(
    vad: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'speechkit-core\[rooms\]'"):
        vad.rooms.meeting_room(np.random.default_rng(0), [1.0])


def test_talkers_are_at_their_distances(vad: SimpleNamespace) -> None:
    distances_m = [1.0, 2.5, 4.0]
    for seed in range(20):
        size_m, microphone, talkers = vad.rooms.places(np.random.default_rng(seed), distances_m)
        found = [np.linalg.norm(talker - microphone) for talker in talkers]
        np.testing.assert_allclose(found, distances_m)
        for place in (microphone, *talkers):
            assert ((place > 0) & (place < size_m)).all()


def test_direct_sound_of_a_simulated_room_comes_through_air(vad: SimpleNamespace) -> None:
    pytest.importorskip("pyroomacoustics")
    distances_m = [1.0, 4.0]
    near, far = vad.rooms.meeting_room(np.random.default_rng(0), distances_m)
    for h, distance_m in ((near, 1.0), (far, 4.0)):
        direct = 40 + distance_m / 343 * RATE
        # a filter without phase against the lowest frequencies rings before it
        assert np.abs(h[: int(direct) - 40]).max() < 0.1 * np.abs(h).max()
        assert -2 <= np.abs(h).argmax() - direct <= 0.002 * RATE
    # twice the distance is 6 dB
    assert 8 < 20 * np.log10(np.abs(near).max() / np.abs(far).max()) < 16
    again = vad.rooms.meeting_room(np.random.default_rng(0), distances_m)
    np.testing.assert_array_equal(near, again[0])
