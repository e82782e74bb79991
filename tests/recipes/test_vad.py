"""The label rule and the scenes of the vad recipe."""

import importlib
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import read_audio, read_manifest, write_manifest
from speechkit.rules import vad

RECIPE = Path(__file__).parents[2] / "recipes" / "vad"
RATE = 16000


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


@pytest.fixture
def labels(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("labels", monkeypatch)


@pytest.fixture
def sounds(labels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return module("sounds", monkeypatch)


@pytest.fixture
def scenes(sounds: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module("channels", monkeypatch)
    return module("scenes", monkeypatch)


def bursts(spans: list[tuple[float, float]], seconds: float, floor_db: float = -70) -> np.ndarray:
    """A tone at −20 dB in `spans` over white noise."""
    t = np.arange(round(seconds * RATE)) / RATE
    x = 10 ** (floor_db / 20) * np.random.default_rng(0).standard_normal(len(t))
    for start, end in spans:
        x += (start <= t) * (t < end) * 0.14 * np.sin(2 * np.pi * 300 * t)
    return x


def test_speech_is_where_the_energy_is(labels: ModuleType) -> None:
    spans = [(0.5, 1.2), (2.0, 2.9)]
    found = labels.speech_segments(bursts(spans, 4))
    np.testing.assert_allclose(found, spans, atol=0.025)


def test_the_level_of_the_recording_does_not_matter(labels: ModuleType) -> None:
    x = bursts([(0.5, 1.2), (2.0, 2.9)], 4)
    assert labels.speech_segments(x) == labels.speech_segments(x / 30)


def test_short_pauses_are_speech_and_clicks_are_not(labels: ModuleType) -> None:
    found = labels.speech_segments(bursts([(0.5, 1.0), (1.15, 1.6), (2.5, 2.52)], 3))
    np.testing.assert_allclose(found, [(0.5, 1.6)], atol=0.025)


@pytest.mark.parametrize("floor_db", [-26, -100])
def test_frames_that_energy_cannot_classify_have_no_labels(
    labels: ModuleType, floor_db: float
) -> None:
    spans = [(0.5, 1.2)] if floor_db > -100 else []
    assert labels.speech_segments(bursts(spans, 3, floor_db)) is None


def test_pieces_hold_the_segments_of_the_recording(labels: ModuleType) -> None:
    spans = [(0.5, 3.0), (4.0, 6.0), (9.0, 10.0)]
    x = bursts(spans, 11)
    found = labels.pieces(x, labels.speech_segments(x), "c", "s", most_s=5)
    # each ends 0.3 s after its last segment, or in the middle of the pause
    np.testing.assert_allclose([len(p.audio) / RATE for p in found], [3.1, 2.6, 1.6], atol=0.03)
    for piece in found:
        inside = labels.speech_segments(piece.audio)
        np.testing.assert_allclose(inside, piece.segments, atol=0.03)


def test_a_real_utterance(labels: ModuleType) -> None:
    folder = os.environ.get("SPEECHKIT_DATA")
    if not folder:
        pytest.skip("SPEECHKIT_DATA is not set")
    x = read_audio(Path(folder) / "an4/train/fash/an251-fash-b.opus").numpy()
    np.testing.assert_allclose(labels.speech_segments(x), [(0.35, 0.76)], atol=0.03)


def test_a_room_keeps_the_time_of_the_direct_sound(sounds: ModuleType) -> None:
    h = sounds.room(np.random.default_rng(0), direct_db=3.0)
    x = np.zeros(4000)
    x[1000] = 1
    y = sounds.convolve(x, h)
    assert np.abs(y[:1000]).max() < 1e-9
    assert y[1000] == pytest.approx(1)
    assert 10 * np.log10(1 / np.square(h[1:]).sum()) == pytest.approx(3)


@pytest.fixture
def studio(scenes: ModuleType, labels: ModuleType) -> object:
    """One voice that says a tone, and noise."""
    tone = bursts([(0.3, 1.3)], 1.6).astype(np.float32)
    speech = [labels.Piece(tone, [(0.3, 1.3)], "tones", "a")]
    noise = [np.random.default_rng(1).standard_normal(RATE)]
    room = np.exp(-np.arange(800) / 80.0)
    return scenes.Studio(
        voices=[(1.0, speech)], music=noise, noise=noise, rooms=[room], meetings=[[room, room]]
    )


def test_scenes_have_labels_and_some_have_no_speech(studio: object) -> None:
    made = [studio.scene(np.random.default_rng(seed)) for seed in range(30)]
    assert 0 < sum(not scene.segments for scene in made) < 20
    for scene in made:
        seconds = len(scene.audio) / RATE
        assert 6 <= seconds <= 18
        assert np.isfinite(scene.audio).all()
        ends = [t for segment in scene.segments for t in segment]
        assert ends == sorted(ends)
        assert all(0 <= t <= seconds for t in ends)
    assert any(scene.segments and scene.segments[0][0] == 0 for scene in made)


def test_a_scene_is_the_same_again(studio: object) -> None:
    first, again, other = (studio.scene(np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.audio, again.audio)
    assert first.segments == again.segments
    assert not np.array_equal(first.audio, other.audio)


def test_speech_has_its_level_and_is_where_its_labels_are(
    studio: object, labels: ModuleType, sounds: ModuleType
) -> None:
    for seed in range(8):
        y, segments = studio.conversation(np.random.default_rng(seed), 10 * RATE)
        if segments:
            level_db = sounds.rms_db(labels.spoken(y, segments))
            assert level_db == pytest.approx(-22, abs=0.1)
            y[[n for a, b in segments for n in range(int(a * RATE), int(b * RATE))]] = 0
            assert sounds.rms_db(y) < -35


@pytest.mark.parametrize(
    ("segments", "says"),
    [([(1.0, 2.0)], "no recording without speech"), ([], "no speech after 0.5 s without any")],
)
def test_thresholds_need_scenes_with_and_without_speech(
    labels: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    segments: list[tuple[float, float]],
    says: str,
) -> None:
    threshold = module("threshold", monkeypatch)
    onsets = [start for start, _ in segments]
    scene = threshold.Scene([0.0] * 150, threshold.inside(segments, 150, 0.02), onsets)
    row = SimpleNamespace(audio=None, segments=None)
    monkeypatch.setattr(threshold, "read_manifest", lambda path: [row])
    monkeypatch.setattr(threshold, "read_audio", lambda audio: None)
    monkeypatch.setattr(threshold, "scene", lambda model, x, segments: scene)
    with pytest.raises(SystemExit, match=says):
        threshold.search(SimpleNamespace(frame_s=0.02, latency_s=0.0), Path("dev.jsonl"), 1, 1)


def test_only_trials_within_both_limits_are_allowed(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = module("threshold", monkeypatch)
    truth = threshold.inside([(1.0, 2.0)], 150, 0.02)
    found = [
        threshold.Scene([0.0] * 50 + [0.95] * 50 + [0.0] * 50, truth, [1.0]),
        # a rule whose onset is above 0.6 has no false alarm
        threshold.Scene([0.0] * 50 + [0.6] * 50, truth[:100] & False, []),
    ]
    rows = [SimpleNamespace(audio=None, segments=None)] * len(found)
    monkeypatch.setattr(threshold, "read_manifest", lambda path: rows)
    monkeypatch.setattr(threshold, "read_audio", lambda audio: None)
    scenes = iter(found)
    monkeypatch.setattr(threshold, "scene", lambda model, x, segments: next(scenes))
    model = SimpleNamespace(frame_s=0.02, latency_s=0.0)
    trials = threshold.search(model, Path("dev.jsonl"), 0.05, 0.01)
    assert trials
    assert {trial.post.onset for trial in trials} == {0.7, 0.8, 0.9}
    assert {trial.post.min_speech_ms for trial in trials} == {20}


def test_a_lowered_model_hears_as_if_the_sound_were_quieter(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold, recipe = module("threshold", monkeypatch), module("run", monkeypatch)
    # the bundled model is lowered; this is the one before
    model = sk.build(replace(sk.load("vad").config, frontend=recipe.base().model.frontend)).eval()
    model.load_state_dict(sk.load("vad").state_dict())
    x = 0.04 * torch.randn(1, 32000, generator=torch.Generator().manual_seed(0))
    x[:, 8000:16000] *= 10
    lowered = threshold.lowered(model, 12.0)
    with torch.inference_mode():
        scores, quieter, before = (
            net(audio).scores
            for net, audio in ((lowered, x), (model, x * 10 ** (-12 / 20)), (model, x))
        )
    # not equal, since the gain of PCEN is 0.98
    assert (scores - quieter).abs().max() < 0.1 * (before - quieter).abs().max()
    # the given model is as it was
    assert torch.equal(model(x).scores, before)
    with pytest.raises(SystemExit, match="already less sensitive"):
        threshold.lowered(lowered, 12.0)


@pytest.mark.parametrize("name", ["threshold", "alignment"])
def test_a_script_without_arguments_shows_its_use(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    module("sources", monkeypatch)
    monkeypatch.setattr(sys, "argv", [f"{name}.py"])
    with pytest.raises(SystemExit, match=rf"python recipes/vad/{name}\.py .*\n[\s\S]*give MODEL"):
        runpy.run_path(str(RECIPE / f"{name}.py"), run_name="__main__")


def test_a_sound_is_kept_unless_someone_speaks_in_it(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sounds", "channels", "rooms", "sources", "alignment", "material", "scenes"):
        module(name, monkeypatch)
    module("teacher", monkeypatch)
    prepare, x = module("prepare", monkeypatch), np.ones(10 * RATE)
    sounds = {"quiet": x, "talk": x, "short": x[:100], "zeros": 0 * x, "dog": x}
    monkeypatch.setattr(prepare, "read", lambda recording: sounds[recording.path])
    heard = iter([[(0.0, 1.0)], [(0.0, 1.1)]])

    def recording(path: str, source: str = "package") -> SimpleNamespace:
        return SimpleNamespace(path=path, source=source)

    # the teacher is not asked about sounds that people have named, nor about those without sound
    found = [recording("quiet"), recording("talk"), recording("short"), recording("zeros")]
    kept = prepare.wordless([*found, recording("dog", "esc10")], lambda x: next(heard))
    assert [len(sound) for sound in kept] == [len(x), len(x)]
    assert next(heard, None) is None


def test_the_teacher_hears_silence_before_a_recording_that_does_not_move_its_labels(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sources", "alignment"):
        module(name, monkeypatch)
    teacher = module("teacher", monkeypatch)
    given: list[torch.Tensor] = []

    class Net:
        def reset_states(self) -> None:
            given.clear()

        def __call__(self, x: torch.Tensor, rate: int) -> torch.Tensor:
            given.append(x[0])
            return x.square().mean().sqrt() > 0.05

    monkeypatch.setattr(teacher, "find_spec", lambda name: SimpleNamespace(origin="x/y.py"))
    monkeypatch.setattr(teacher.torch.jit, "load", lambda path: Net())
    [(start, end)] = teacher.teacher()(bursts([(1.0, 2.5)], 4))
    assert (start, end) == (pytest.approx(1.0, abs=0.05), pytest.approx(2.5, abs=0.05))
    assert not any(window.any() for window in given[: teacher.AHEAD])
    assert len(given) == teacher.AHEAD + 4 * RATE // teacher.WINDOW


def test_a_trial_counts_frames_starts_and_the_wait(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    threshold = module("threshold", monkeypatch)
    probabilities = [0.0] * 50 + [0.9] * 50 + [0.0] * 50
    truth = threshold.inside([(1.0, 2.0)], 150, 0.02)
    scene = threshold.Scene(probabilities, truth, [1.0])
    model = SimpleNamespace(frame_s=0.02, latency_s=0.08)
    post = vad.PostProcessing(min_speech_ms=40, min_silence_ms=100)
    silent = threshold.Scene([0.0] * 40 + [0.9] * 10, truth[:50] & False, [])
    trial = threshold.trial(model, [scene], post)
    assert (trial.f1, trial.starts) == (1, 1)
    both = threshold.trial(model, [scene, silent], post)
    assert (both.false_share, both.starts) == (pytest.approx(0.2), 2)
    # two frames make a stretch, and the last of them is known 80 ms after its end
    assert trial.onset_delay_s == pytest.approx(0.04 + 0.08)


def test_prepares_and_trains(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With stand-ins for the recogniser, the teacher and the simulated rooms."""
    names = "sounds", "channels", "rooms", "sources", "alignment", "material", "scenes", "teacher"
    made = {name: module(name, monkeypatch) for name in names}
    prepare = module("prepare", monkeypatch)
    monkeypatch.setattr(
        made["material"], "aligned_segments", lambda model, x, text: labels.speech_segments(x)
    )
    monkeypatch.setattr(prepare, "sk", SimpleNamespace(load=str, prepare=str))
    monkeypatch.setattr(prepare, "teacher", lambda: labels.speech_segments)
    monkeypatch.setattr(prepare, "simulator", lambda: None)
    monkeypatch.setattr(prepare, "meeting_room", lambda chance, metres: [np.ones(1)] * len(metres))
    for name, count in (("SCENES", 6), ("ROOMS", 1), ("MADE", 2)):
        monkeypatch.setattr(prepare, name, count)
    talk = {f"wakeword/alexa/{number}": bursts([(1, 3)], 4) for number in range(6)}
    still = bursts([(0, 2)], 2)
    sounds = {
        **talk,
        "noise/esc10/1-a": still,
        "packages/game/music/a": still,
        "rir/rir1": np.exp(-np.arange(800) / 80.0),
    }
    for name, x in sounds.items():
        path = tmp_path / "source" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.5 * x, RATE)
    monkeypatch.chdir(tmp_path)
    (written,) = prepare.prepare(tmp_path / "source", Path("data/vad"), Path("recogniser"))
    rows = read_manifest(written)
    assert len(rows) == 6
    assert any(row.segments for row in rows)
    assert len(list(Path("data/vad/noise").iterdir())) == 2 + 2 * 2
    assert len(list(Path("data/vad/voices").iterdir())) == 2
    write_manifest(Path("data/vad/dev.jsonl"), rows)
    run = module("run", monkeypatch).tiny()
    metrics = sk.fit(replace(run, steps=1, eval_every=1), tmp_path / "out", device="cpu")
    assert metrics["n"] == 6
