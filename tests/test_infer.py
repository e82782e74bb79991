"""One recording in, an answer out; and the same answer as a stream."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from speechkit import infer, scoring
from speechkit.checkpoint import load
from speechkit.data import read_audio
from speechkit.errors import (
    AudioError,
    CheckpointError,
    ComponentError,
    ConfigError,
    ManifestError,
    SpeechkitError,
)
from speechkit.events import Final
from speechkit.infer import (
    align_text,
    classify,
    detect,
    reader_of,
    speech_probabilities,
    stream_scores,
    transcribe,
)
from speechkit.models import Block, MarbleNet, Model, Net, Output, build
from speechkit.plans.source import resolve
from speechkit.predictions import Label, label_of
from speechkit.rules.vad import PostProcessing
from speechkit.streaming import stream
from speechkit.testing import assert_close
from speechkit.text import decode
from speechkit.text.align import mean_score

VERBS: dict[str, Callable[..., Any]] = {"ctc": transcribe, "clip": classify, "frame": detect}
RATE = 16000
NORMALIZE = ["running", "fixed"]
"""How features are normalised: by torch's own step, and by the native one where there is one."""
BLOCKS = (Block(channels=8, kernel=5), Block(channels=8, kernel=1, separable=False))


@pytest.fixture
def model(net: Net) -> Model:
    """Each task's tiny net, a little trained so that norms have statistics."""
    model = build(net)
    model(audio(16000)[None])
    return model.eval()


def audio(samples: int, seed: int = 0) -> Tensor:
    return torch.rand(samples, generator=torch.Generator().manual_seed(seed)) * 0.4 - 0.2


def test_segments_with_a_low_mean_score_have_no_text_as_in_a_stream() -> None:
    model, clips = load("an4"), Path(infer.__file__).parent / "bundled" / "clips"
    first, second = (read_audio(clips / f"an4_{name}.opus") for name in ("ffmm", "mmsh"))
    x = torch.cat([first, torch.zeros(2 * RATE), second])

    def finals(least: float) -> list[Final]:
        strict = model.with_(endpointing={"least_score": least})
        session = stream(strict)
        events = [*session.feed(x), *session.finish()]
        found = [event for event in events if isinstance(event, Final)]
        assert transcribe(strict, x, RATE).text == " ".join(final.text for final in found)
        return found

    spoken = finals(0.0)
    scores = [mean_score(final.words) for final in spoken]
    assert len(spoken) == 2
    assert finals(sum(scores) / 2) == [spoken[int(np.argmax(scores))]]
    assert finals(1.0) == []


def test_words_around_a_dropped_segment_stay_apart() -> None:
    rule = {"least_score": 0.5, "silence_after_s": 0.1}
    about = resolve("an4").with_(endpointing=rule).about
    blank, space = len(about.labels), about.labels.index(" ")
    a, b, c = (about.labels.index(x) for x in "abc")
    pause = [(blank, 0.99)] * 6
    # the only space is in the segment of the unsure b
    frames = [(a, 0.99), *pause, (space, 0.99), (b, 0.4), *pause, (c, 0.99), *pause]
    probabilities = np.empty((len(frames), blank + 1), np.float32)
    for row, (label, p) in zip(probabilities, frames, strict=True):
        row[:] = (1 - p) / blank
        row[label] = p
    reader = reader_of("an4", "greedy")
    found = infer._as_in_a_stream(about, np.log(probabilities), reader)
    state, _ = reader.step(reader.init(), found)
    assert decode(reader.ids(state), about.labels) == "a c"


def sixteen_bits() -> np.ndarray:
    return (audio(8000) * 32767).round().to(torch.int16).numpy()


def test_every_source_gets_the_same_answer(model: Model, tmp_path: Path) -> None:
    sound = sixteen_bits()
    path = tmp_path / "a.wav"
    soundfile.write(path, sound, RATE)
    floats = sound.astype(np.float32) / 32768
    verb = VERBS[model.config.task]
    answer = verb(model, path)
    assert verb(model, str(path)) == answer
    assert verb(model, path.read_bytes()) == answer
    for array in (sound, floats, floats.astype(np.float64)):
        assert verb(model, array, sample_rate=RATE) == answer
        assert verb(model, torch.from_numpy(array), sample_rate=RATE) == answer


def test_another_rate_is_converted(model: Model) -> None:
    verb = VERBS[model.config.task]
    with pytest.raises(AudioError, match="does not say its sample rate"):
        verb(model, audio(8000))
    assert type(verb(model, audio(4000), sample_rate=8000)) is type(verb(model, audio(8000), RATE))


@pytest.mark.parametrize("task", VERBS)
def test_the_wrong_verb_names_the_right_one(nets: dict[str, Net], task: str) -> None:
    model = build(nets[task])
    for other, verb in VERBS.items():
        if other != task:
            with pytest.raises(ConfigError, match=rf"; use sk\.{VERBS[task].__name__} or "):
                verb(model, audio(8000), RATE)


def test_a_label_comes_with_every_label_s_probability(nets: dict[str, Net]) -> None:
    label = label_of(build(nets["clip"]), torch.tensor([1.0, 3.0]))
    assert label == Label("high", label.scores["high"], label.scores)
    assert label.score == pytest.approx(1 / (1 + np.exp(-2)))
    assert sum(label.scores.values()) == pytest.approx(1)


def fake_speech(model: Model, speech: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    p = torch.tensor(speech)
    output = Output(torch.stack([1 - p, p], dim=1).log()[None], torch.tensor([len(speech)]))
    monkeypatch.setattr(model, "forward", lambda *_: output)


def test_segments_follow_the_models_post_processing(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    speech = [0, 0.6, 0.4, 0, 0.6, 0.4]
    for post, expected in (
        (PostProcessing(min_speech_ms=0, min_silence_ms=0), [(0.02, 0.06), (0.08, 0.12)]),
        (PostProcessing(min_speech_ms=0, min_silence_ms=40), [(0.02, 0.12)]),
        (PostProcessing(onset=0.7), []),
    ):
        model = build(replace(nets["frame"], postprocess=post))
        fake_speech(model, speech, monkeypatch)
        found = [(round(s.start_s, 9), round(s.end_s, 9)) for s in detect(model, audio(8000), RATE)]
        assert found == expected


def test_a_clip_level_marblenet_slides_over_the_sound() -> None:
    model = build(MarbleNet(blocks=BLOCKS)).eval()
    speech, frame_s, _ = speech_probabilities(model, audio(2 * RATE), RATE)
    assert frame_s == pytest.approx(0.63 / 8)
    assert abs(len(speech) * frame_s - 2) <= frame_s
    detect(model, audio(2 * RATE), RATE)


def test_long_sound_gives_the_same_in_pieces(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(nets["frame"]).eval()
    whole, *_ = speech_probabilities(model, audio(3 * RATE), RATE)
    monkeypatch.setattr(infer, "LONG_S", 0.7)
    monkeypatch.delattr(scoring, "scores_of")
    pieces, *_ = speech_probabilities(model, audio(3 * RATE), RATE)
    assert_close("speech", torch.from_numpy(whole), torch.from_numpy(pieces), 1e-5)


def fake_letters(model: Model, path: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says the ids of `path`, one for each frame, with probability 0.9."""
    p = torch.full((len(path), len(model.labels) + 1), 0.1 / len(model.labels))
    p[range(len(path)), path] = 0.9
    output = Output(p.log()[None], torch.tensor([len(path)]))
    monkeypatch.setattr(model, "forward", lambda *_: output)


# of " hilo" and the blank: 25 frames are half a second
HI_LO = [5] * 15 + [1, 2, 5, 0, 3, 5, 4, 5, 5, 5]


def test_a_transcript_has_words_and_characters_with_times(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(nets["ctc"])
    fake_letters(model, HI_LO, monkeypatch)
    found = transcribe(model, audio(8000), RATE, vad=None)
    assert (found.text, found.duration_s) == ("hi lo", 0.5)
    spans = [(w.text, round(w.start_s, 6), round(w.end_s, 6)) for w in found.words]
    assert spans == [("hi", 0.1, 0.34), ("lo", 0.34, 0.44)]
    assert [[c.text for c in word] for word in found.characters] == [["h", "i"], ["l", "o"]]
    assert [w.score for w in found.words] == pytest.approx([0.81, 0.81])
    assert align_text(model, audio(8000), "Hi, lo!", RATE) == found


def test_scores_are_calibrated_by_the_model(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(replace(nets["ctc"], confidence=[0.0, 0.0]))
    assert model.config.confidence == (0.0, 0.0)
    fake_letters(model, HI_LO, monkeypatch)
    assert [w.score for w in transcribe(model, audio(8000), RATE, vad=None).words] == [0.5, 0.5]


def test_times_end_with_the_sound(nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(nets["ctc"])
    fake_letters(model, HI_LO[:17], monkeypatch)
    assert transcribe(model, audio(5201), RATE, vad=None).words[-1].end_s == 5201 / RATE


def test_a_decoder_is_named(nets: dict[str, Net]) -> None:
    model = build(nets["ctc"]).eval()
    whole = transcribe(model, audio(8000), RATE, vad=None)
    assert transcribe(model, audio(8000), RATE, decoder="greedy", vad=None) == whole
    with pytest.raises(ComponentError, match=r"no decoder named 'gredy'. Did you mean 'greedy'"):
        transcribe(model, audio(8000), RATE, decoder="gredy")
    made = reader_of(model, "beam:beam=4")
    assert transcribe(model, audio(8000), RATE, decoder=made) == transcribe(
        model, audio(8000), RATE, decoder="beam:beam=4"
    )
    with pytest.raises(ConfigError, match="decoder object lacks init, step"):
        transcribe(model, audio(8000), RATE, decoder=object())


def test_a_text_that_cannot_be_aligned_is_refused(nets: dict[str, Net]) -> None:
    model = build(nets["ctc"]).eval()
    with pytest.raises(ManifestError, match="which is no label"):
        align_text(model, audio(8000), "hello", RATE)
    with pytest.raises(SpeechkitError, match="30 labels do not fit into 25 frames"):
        align_text(model, audio(8000), "hi" * 15, RATE)


@pytest.mark.parametrize("rate", [RATE, 22050])
def test_a_long_file_is_transcribed_in_pieces_as_whole(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rate: int
) -> None:
    model = build(nets["ctc"]).eval()
    path = tmp_path / "long.wav"
    soundfile.write(path, audio(3 * rate + 77).numpy(), rate)
    whole = transcribe(model, path, vad=None)
    assert whole.text
    monkeypatch.setattr(infer, "LONG_S", 0.7)
    monkeypatch.delattr(scoring, "scores_of")
    pieces = transcribe(model, path, vad=None)
    assert pieces.text == whole.text
    assert pieces.duration_s == pytest.approx(3 + 77 / rate, abs=1e-4)
    for one, other in zip(pieces.words, whole.words, strict=True):
        assert (one.start_s, one.end_s) == (other.start_s, other.end_s)
        assert one.score == pytest.approx(other.score, abs=1e-3)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("rate", [RATE, 22050])
def test_a_long_file_gives_the_same_in_pieces(
    nets: dict[str, Net],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rate: int,
    normalize: str,
) -> None:
    model = build(
        replace(nets["frame"], frontend=f"log_mel:n_mels=16,normalize={normalize}")
    ).eval()
    path = tmp_path / "long.wav"
    soundfile.write(path, audio(70 * rate + 77).numpy(), rate)
    with torch.no_grad():
        whole = model(read_audio(path)[None]).scores[0].softmax(1)[:, 1]
    monkeypatch.delattr(scoring, "scores_of")
    pieces, *_ = speech_probabilities(model, path)
    assert_close("speech", whole, torch.from_numpy(pieces), 1e-5)


def test_long_sound_is_run_whole_where_the_model_cannot_stream(
    nets: dict[str, Net], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(replace(nets["frame"], frontend="log_mel:normalize=per_feature")).eval()
    whole, *_ = speech_probabilities(model, audio(3 * RATE), RATE)
    monkeypatch.setattr(infer, "LONG_S", 0.7)
    assert np.array_equal(speech_probabilities(model, audio(3 * RATE), RATE)[0], whole)


@pytest.mark.parametrize("samples", [160, 5000, 16001])
@pytest.mark.parametrize("chunk_s", [0.001, 0.08, 0.3])
def test_joined_stream_scores_equal_the_whole(model: Model, samples: int, chunk_s: float) -> None:
    sound = audio(samples, seed=samples)
    with torch.no_grad():
        whole = model(sound[None]).scores[0]
    parts = list(stream_scores(model, sound, chunk_s))
    joined = torch.cat(parts)
    # 10 ms frames, of which the first block takes every other
    assert len(joined) == -(-(samples // 160) // 2)
    assert_close("stream", whole, joined[-1] if model.per_clip else joined, rtol=1e-5)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("lookahead", [0, 2, (3, 1, 0)])
def test_streams_equal_the_whole_at_any_lookahead(net: Net, lookahead: Any, normalize: str) -> None:
    frontend = f"log_mel:n_mels=16,normalize={normalize}"
    model = build(replace(net, lookahead=lookahead, frontend=frontend)).eval()
    sound = audio(9000)
    with torch.no_grad():
        whole = model(sound[None]).scores[0]
    for chunk_s in (0.08, 0.3):
        joined = torch.cat(list(stream_scores(model, sound, chunk_s)))
        assert_close("stream", whole, joined[-1] if model.per_clip else joined, rtol=1e-5)


def test_sound_that_comes_in_pieces_streams_the_same(model: Model) -> None:
    sound = audio(16001)
    expected = list(stream_scores(model, sound))
    pieces = sound.split([0, 1, 1279, 5000, 0, 9721])
    for one, other in zip(stream_scores(model, pieces), expected, strict=True):
        assert torch.equal(one, other)


def test_a_stream_gives_scores_before_the_sound_ends(model: Model) -> None:
    parts = list(stream_scores(model, audio(16000), chunk_s=0.1))
    assert len(parts) >= 10
    assert sum(len(part) > 0 for part in parts) >= 9


@pytest.mark.parametrize("samples", [1, 159])
def test_sound_shorter_than_a_frame_is_refused(model: Model, samples: int) -> None:
    message = f"{samples} samples at 16000 Hz are less than one frame; give at least 160"
    with pytest.raises(AudioError, match=f"^{re.escape(message)}$"):
        VERBS[model.config.task](model, audio(samples), RATE)
    with pytest.raises(AudioError, match=re.escape(message)):
        list(stream_scores(model, audio(samples)))


def test_one_frame_of_sound_is_enough(model: Model) -> None:
    VERBS[model.config.task](model, audio(160), RATE)


def test_a_model_in_training_answers_as_in_evaluation_and_stays_as_it_was(net: Net) -> None:
    model = build(replace(net, dropout=0.5)).eval()
    verb = VERBS[net.task]
    answer, streamed = verb(model, audio(8000), RATE), list(stream_scores(model, audio(8000)))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert verb(model, audio(8000), RATE) == answer
    for one, other in zip(stream_scores(model, audio(8000)), streamed, strict=True):
        assert torch.equal(one, other)
        assert model.training
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("task", ["clip", "frame", "ctc"])
def test_finite_weights_give_no_infinite_answer(nets: dict[str, Net], task: str) -> None:
    model = build(nets[task]).eval()
    for name, x in model.named_buffers():
        if "running_var" in name:
            x.fill_(-1)
    with pytest.raises(CheckpointError, match="gives NaN or infinity"):
        {"clip": infer.classify, "frame": infer.detect, "ctc": infer.transcribe}[task](
            model, audio(16000).numpy(), model.sample_rate
        )
    with pytest.raises(CheckpointError, match="gives NaN or infinity"):
        list(stream_scores(model, audio(16000)))
