"""Features against NeMo's own numbers, and streamed against whole."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from speechkit.errors import AudioError, ComponentError, StreamError
from speechkit.frontend import MFCC, LogMel
from speechkit.frontend.mel import htk_bank, slaney_bank
from speechkit.nn.stream import Chunk, Serial
from speechkit.testing import check_stream, stream

PROBES = [(0, 0), (0, 1), (10, 5), (31, 50), (63, 50), (20, 99)]

VAD = {"n_mels": 80, "window_s": 0.025, "normalize": "none"}

# front end, shape, valid frames, mean and unbiased std over them, the probes, and [20, 100]
GOLDEN = {
    "quartznet nemo1": (
        lambda: LogMel(compat="nemo1"),
        (64, 112), 101, 0, 0.995110,
        [5.890422, 2.418530, -0.098450, 2.780846, -0.138382, -0.577492], 1.933657,
    ),
    "quartznet nemo1, not normalised": (
        lambda: LogMel(compat="nemo1", normalize="none", pad_to=0),
        (64, 101), 101, -13.725046, 4.750547,
        [-5.950947, -11.883086, -5.982502, 1.047774, -16.635530, -16.584278], -4.871833,
    ),
    "quartznet": (
        lambda: LogMel(pad_to=16),
        (64, 112), 100, 0, 0.995059,
        [7.555214, 3.524631, -0.106088, 2.823333, -0.100009, -0.566938], 0,
    ),
    "frame vad nemo1": (
        lambda: LogMel(**VAD, compat="nemo1", pad_to=2),
        (80, 102), 101, -13.966872, 4.647731,
        [-5.994338, -11.417782, -2.877120, -15.632723, -16.635342, -9.670070], -4.971279,
    ),
    # NeMo has a frame 100 here, beyond the valid ones, and pads it to 102
    "frame vad": (
        lambda: LogMel(**VAD),
        (80, 100), 100, -14.072573, 4.557536,
        [-7.095775, -12.016330, -2.877120, -15.632723, -16.635342, -10.382641], None,
    ),
    "mfcc nemo1": (
        lambda: MFCC(compat="nemo1"),
        (64, 101), 100, -1.424059, 11.136991,
        [-10.237128, -42.196690, 1.746744, -1.331127, 0.357245, 2.754061], 0.512707,
    ),
}  # fmt: skip


def chirp() -> Tensor:
    """One second of a rising tone and a beating one, `[16000]` float32."""
    t = torch.arange(16000, dtype=torch.float64) / 16000
    rising = 0.3 * torch.sin(2 * math.pi * (200 * t + 1500 * t**2))
    beating = 0.1 * torch.sin(2 * math.pi * 440 * t) * torch.cos(2 * math.pi * 3 * t)
    return (rising + beating).float()


def test_the_signal_is_the_golden_one() -> None:
    first = [0, 0.04074164, 0.08084767, 0.11967582, 0.15661484, 0.19109936]
    torch.testing.assert_close(chirp()[:6], torch.tensor(first), rtol=0, atol=1e-8)


# the golden numbers are float32; near the logarithm's floor its rounding shows
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 8e-5), (torch.float32, 2e-4)])
@pytest.mark.parametrize("name", GOLDEN)
def test_features_equal_nemos(name: str, dtype: torch.dtype, atol: float) -> None:
    build, shape, frames, mean, std, probes, after_end = GOLDEN[name]
    y = build().to(dtype)(Chunk.of(chirp().to(dtype)[None, None]))
    assert tuple(y.x.shape[1:]) == shape
    assert y.lengths.tolist() == [frames]
    real = y.x[0, :, y.valid[0]]
    assert real.mean().item() == pytest.approx(mean, abs=2e-5)
    assert real.std().item() == pytest.approx(std, abs=2e-5)
    got = [y.x[0, feature, frame].item() for feature, frame in PROBES]
    assert got == pytest.approx(probes, abs=atol)
    if after_end is not None:
        assert y.x[0, 20, 100].item() == pytest.approx(after_end, abs=atol)


def test_slaney_bank_has_the_golden_sums() -> None:
    rows = slaney_bank(16000, 512, 64).sum(1)
    assert rows.sum().item() == pytest.approx(2.04618168, abs=1e-7)
    golden = [0.02858679, 0.03518878, 0.03151426, 0.03201951]
    assert rows[[0, 1, 32, 63]].tolist() == pytest.approx(golden, abs=1e-8)


@pytest.mark.parametrize(("rate", "n_fft", "mels"), [(16000, 512, 80), (8000, 256, 40)])
@pytest.mark.parametrize("scale", ["slaney", "htk"])
def test_banks_equal_librosas(scale: str, rate: int, n_fft: int, mels: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        filters = pytest.importorskip("librosa.filters")
        htk = scale == "htk"
        norm = None if htk else "slaney"
        theirs = filters.mel(sr=rate, n_fft=n_fft, n_mels=mels, htk=htk, norm=norm)
    ours = (htk_bank if htk else slaney_bank)(rate, n_fft, mels)
    torch.testing.assert_close(ours.float(), torch.from_numpy(theirs), rtol=0, atol=2e-7)


def test_mfcc_equals_torchaudios() -> None:
    try:
        import torchaudio
    except (ImportError, OSError) as error:
        pytest.skip(f"torchaudio does not import: {error}")
    mel = {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 64}
    theirs = torchaudio.transforms.MFCC(16000, 64, log_mels=True, melkwargs=mel)
    y = MFCC(compat="nemo1")(Chunk.of(chirp()[None, None]))
    torch.testing.assert_close(y.x, theirs(chirp()[None]), rtol=0, atol=1e-3)


STREAMING = {
    "log-mel": lambda: LogMel(normalize="none"),
    "fixed": lambda: LogMel(normalize="fixed"),
    "running": lambda: LogMel(normalize="running"),
    "frame vad": lambda: LogMel(**VAD),
    "mfcc": lambda: MFCC(),
    "8 kHz": lambda: MFCC(sample_rate=8000, n_fft=256, n_mels=40, n_mfcc=20),
}


def noise(rows: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(rows, 1, samples, dtype=torch.float64, generator=generator) - 0.5


@pytest.mark.parametrize("name", STREAMING)
def test_streams_as_it_computes_whole(name: str) -> None:
    lengths = torch.tensor([5000, 3211, 100, 1])
    check_stream(STREAMING[name]().double(), noise(4, 5000), lengths, (1, 2, 8, [3, 1, 50]))


def test_20_ms_windows_stream_without_delay_and_25_ms_ones_with_one_frame() -> None:
    assert LogMel(normalize="none").delay == 0
    assert MFCC().delay == 1


@pytest.mark.parametrize("name", STREAMING)
def test_a_row_does_not_depend_on_what_it_is_batched_with(name: str) -> None:
    front_end, x = STREAMING[name]().double(), noise(2, 6000)
    n = 3333
    alone = front_end(Chunk.of(x[:1, :, :n]))
    both = front_end(Chunk.of(x, torch.tensor([n, 6000])))
    frames = n // front_end.hop_samples
    assert both.lengths.tolist() == [frames, 6000 // front_end.hop_samples]
    torch.testing.assert_close(both.x[:1, :, :frames], alone.x, rtol=0, atol=1e-12)


def test_per_feature_does_not_depend_on_the_batch_either() -> None:
    front_end, x = LogMel().double(), noise(2, 6000)
    alone = front_end(Chunk.of(x[:1, :, :3333]))
    both = front_end(Chunk.of(x, torch.tensor([3333, 6000])))
    torch.testing.assert_close(both.x[:1, :, :20], alone.x, rtol=0, atol=1e-12)
    assert not both.x[0, :, 20:].any()


@pytest.mark.parametrize("front_end", [LogMel(compat="nemo1"), MFCC(compat="nemo1")])
def test_nemo1_ignores_what_padding_holds(front_end: Serial) -> None:
    x, lengths = noise(2, 6000).float(), torch.tensor([3333, 6000])
    c = Chunk.of(x, lengths)
    zeros = front_end(Chunk(c.masked, c.valid))
    poisoned = front_end(Chunk(x.masked_fill(~c.valid[:, None], torch.nan), c.valid))
    assert torch.equal(zeros.masked, poisoned.masked)


@pytest.mark.parametrize(
    ("front_end", "way_out"),
    [
        (LogMel(), "normalize='fixed' or normalize='running'"),
        (LogMel(normalize="running", pad_to=16), "pad_to=0"),
        (LogMel(normalize="running", compat="nemo1"), "compat=None"),
        (MFCC(compat="nemo1"), "compat=None"),
    ],
)
def test_what_needs_the_whole_utterance_refuses_to_stream(front_end: Serial, way_out: str) -> None:
    with pytest.raises(StreamError, match=way_out):
        stream(front_end, Chunk.of(noise(1, 3200).float()), [1])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LogMel(compat="nemo2"), "use None or 'nemo1'"),
        (lambda: LogMel(normalize="runing"), "Did you mean 'running'"),
        (lambda: LogMel(window_s=0.05), "window of 800 samples, n_fft 512"),
        (lambda: MFCC(n_mfcc=65), "give 1 to 64"),
    ],
)
def test_wrong_parameters_are_named(build: object, message: str) -> None:
    with pytest.raises(ComponentError, match=message):
        build()


def test_nemo1_needs_enough_audio_to_reflect() -> None:
    with pytest.raises(AudioError, match="give at least 161, or use compat=None"):
        LogMel(compat="nemo1")(Chunk.of(torch.zeros(1, 1, 160)))


def test_only_fitted_statistics_enter_the_state_dict() -> None:
    assert not LogMel(normalize="none").state_dict()
    assert not MFCC().state_dict()
    assert [key.split(".")[-1] for key in LogMel(normalize="fixed").state_dict()] == ["mean", "std"]


def test_a_detour_through_low_precision_leaves_float64_exact() -> None:
    x = Chunk.of(noise(1, 3200))
    straight = LogMel().double()(x)
    detour = LogMel().bfloat16().double()(x)
    assert torch.equal(straight.x, detour.x)


def test_autocast_does_not_touch_features() -> None:
    x = Chunk.of(chirp()[None, None])
    front_end = LogMel(normalize="running")
    with torch.autocast("cpu", torch.bfloat16):
        inside = front_end(x).x
    assert torch.equal(inside, front_end(x).x)


@pytest.mark.parametrize(
    "front_end",
    [
        LogMel(),
        LogMel(normalize="fixed"),
        LogMel(normalize="running"),
        LogMel(pad_to=4),
        MFCC(n_mfcc=20),
        MFCC(compat="nemo1"),
    ],
)
def test_features_are_channels_last_and_counted(front_end: Serial) -> None:
    y = front_end(Chunk.of(torch.zeros(2, 1, 3200)))
    assert y.x.shape[1] == front_end.features
    assert front_end.channels_out(1) == front_end.features
    assert front_end.sample_rate == 16000
    assert y.x.transpose(1, 2).is_contiguous()
