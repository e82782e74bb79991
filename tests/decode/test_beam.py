"""Beam search against the sum over all alignments, in any chunks, with words' scores."""

import itertools
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.decode.beam import BeamCTC
from speechkit.decode.kneser_ney import estimate
from speechkit.decode.ngram import BEGIN, END, NGram, write_arpa
from speechkit.errors import ConfigError, ManifestError, SpeechkitError
from speechkit.text import ENGLISH_LABELS, decode, encode

EXACT = {"beam": 10_000, "min_log_prob": -math.inf, "margin": math.inf, "horizon": 100}
TEXT = ["ab a", "a ab b", "b a", "ab ab", "a"]


def random_scores(seed: int, frames: int, classes: int, sharpness: float = 2.0) -> torch.Tensor:
    chance = np.random.default_rng(seed)
    return torch.tensor(chance.normal(0, sharpness, (frames, classes))).log_softmax(-1)


def sums(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """ln P(ids) of every label sequence, summed path by path."""
    frames, classes = log_probs.shape
    total: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(classes), repeat=frames):
        ids = tuple(label for label, _ in itertools.groupby(path) if label != classes - 1)
        total[ids] += math.exp(sum(log_probs[t, label].item() for t, label in enumerate(path)))
    return {ids: math.log(p) for ids, p in total.items()}


def read(decoder: BeamCTC, log_probs: torch.Tensor, cuts: list[int] = []) -> Any:  # noqa: B006
    """The states after each chunk."""
    states = [decoder.init()]
    edges = [0, *sorted(min(cut, len(log_probs)) for cut in cuts), len(log_probs)]
    for start, end in itertools.pairwise(edges):
        states.append(decoder.step(states[-1], log_probs[start:end])[0])
    return states


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 3))
def test_a_wide_beam_equals_the_sum_over_all_alignments(seed: int, T: int, V: int) -> None:
    log_probs = random_scores(seed, T, V + 1)
    decoder = BeamCTC(tuple("ab "[:V]), **EXACT)
    state = read(decoder, log_probs)[-1]
    found = {state.stable + beam.tail: np.logaddexp(beam.blank, beam.label) for beam in state.beams}
    expected = sums(log_probs)
    assert set(found) == set(expected)
    for ids, log_prob in expected.items():
        assert found[ids] == pytest.approx(log_prob, abs=1e-9)
    assert decoder.ids(state) == max(expected, key=expected.__getitem__)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> tuple[NGram, Path]:
    path = tmp_path_factory.mktemp("lm") / "toy.arpa"
    model = estimate(TEXT, order=3)
    write_arpa(model, path)
    return model, path


def worth(
    model: NGram, words: list[str], alpha: float, bonus: float, unk: float, boosts: dict[str, float]
) -> float:
    """What a text's words add, said once more as plainly as possible."""
    total = bonus * len(words)
    for i, word in enumerate([*words, END]):
        total += alpha * math.log(10) * model.score((BEGIN, *words[:i]), word)
        hot = {w for phrase in boosts for w in phrase.split()}
        if word not in {*model.words, *hot, END}:
            total += alpha * math.log(10) * unk
    for start, end in itertools.combinations(range(len(words) + 1), 2):
        total += boosts.get(" ".join(words[start:end]), 0.0)
    return total


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.floats(0, 2),
    st.floats(-2, 2),
    st.floats(-3, 0),
    st.dictionaries(st.sampled_from(["a", "ab", "bb", "a a", "b ab", "a b"]), st.floats(0, 4)),
)
def test_words_score_as_they_would_in_the_whole_text(
    toy: tuple[NGram, Path],
    seed: int,
    alpha: float,
    bonus: float,
    unk: float,
    boosts: dict[str, float],
) -> None:
    model, path = toy
    labels = ("a", "b", " ")
    decoder = BeamCTC(
        labels, lm=path, alpha=alpha, length_bonus=bonus, unk_score=unk, hotwords=boosts, **EXACT
    )
    log_probs = random_scores(seed, 5, 4, sharpness=1.0)
    state = read(decoder, log_probs)[-1]
    expected = {
        ids: p + worth(model, decode(ids, labels).split(), alpha, bonus, unk, boosts)
        for ids, p in sums(log_probs).items()
    }
    for beam in state.beams:
        ids = state.stable + beam.tail
        assert decoder._final_score(beam) == pytest.approx(expected[ids], abs=1e-6)
    assert expected[decoder.ids(state)] == pytest.approx(max(expected.values()), abs=1e-6)


@settings(max_examples=30)
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 40), max_size=6),
    st.integers(1, 6),
    st.floats(0.5, 8),
)
def test_chunks_change_nothing(
    toy: tuple[NGram, Path], seed: int, cuts: list[int], beam: int, sharpness: float
) -> None:
    decoder = BeamCTC(
        tuple("ab "), beam=beam, lm=toy[1], hotwords=["ab ab"], min_log_prob=-4, horizon=5
    )
    log_probs = random_scores(seed, 40, 4, sharpness)
    whole, pieces = read(decoder, log_probs), read(decoder, log_probs, cuts)
    assert pieces[-1] == whole[-1]
    assert decoder.finish(pieces[-1]) == decoder.finish(whole[-1])
    # what is stable stays, until the end
    for before, after in itertools.pairwise(pieces):
        assert decoder.stable(after).startswith(decoder.stable(before))
        assert decoder.step(before, log_probs[:0])[1].startswith(decoder.stable(before))
    assert decoder.finish(pieces[-1]).startswith(decoder.stable(pieces[-1]))


def test_a_step_leaves_its_state_alone_and_json_keeps_it() -> None:
    decoder = BeamCTC(tuple("ab "), hotwords=["ab"])
    state = read(decoder, random_scores(0, 12, 4))[-1]
    stored = json.dumps(state)
    more = random_scores(1, 8, 4)
    first = decoder.step(state, more)
    assert json.dumps(state) == stored
    assert decoder.restore(json.loads(stored)) == state
    assert decoder.step(decoder.restore(json.loads(stored)), more) == first


def test_surely_blank_frames_keep_the_order_of_hypotheses() -> None:
    quick, exact = BeamCTC(tuple("ab ")), BeamCTC(tuple("ab "), **EXACT)
    blank = torch.tensor([[1e-5, 1e-5, 1e-5, 1 - 3e-5]] * 10, dtype=torch.float64).log()
    log_probs = torch.cat([random_scores(3, 8, 4), blank])
    texts = [
        [decode((*s.stable, *b.tail), d.labels) for b in s.beams[:10]]
        for d in (quick, exact)
        for s in [read(d, log_probs)[-1]]
    ]
    assert texts[0] == texts[1]


def spoken(text: str, *, doubt: dict[int, dict[str, float]], sure: float = 0.97) -> torch.Tensor:
    """Scores of a text, letter and blank in turn; `doubt` shares a letter's frame with others."""
    classes = len(ENGLISH_LABELS) + 1
    rows = []
    for i, label in enumerate(encode(text).tolist()):
        row = torch.full((classes,), (1 - sure) / (classes - 1), dtype=torch.float64)
        row[label] = sure
        for other, share in doubt.get(i, {}).items():
            row[ENGLISH_LABELS.index(other)] = share
            row[label] -= share
        blank = torch.full((classes,), (1 - sure) / (classes - 1), dtype=torch.float64)
        blank[-1] = sure
        rows += [row, blank]
    return torch.stack(rows).log()


def said(decoder: BeamCTC, log_probs: torch.Tensor) -> str:
    return decoder.finish(read(decoder, log_probs)[-1])


def test_a_language_model_turns_a_close_call(tmp_path: Path) -> None:
    write_arpa(estimate(["THE CAT SAT", "THE CAT RAN", "A CAT SAT"]), tmp_path / "lm.arpa.gz")
    log_probs = spoken("the cet sat", doubt={5: {"a": 0.4}})
    assert said(BeamCTC(ENGLISH_LABELS), log_probs) == "the cet sat"
    # the model's capitals are the labels' letters
    assert said(BeamCTC(ENGLISH_LABELS, lm=tmp_path / "lm.arpa.gz"), log_probs) == "the cat sat"


def test_hotwords_bring_back_what_is_less_likely(tmp_path: Path) -> None:
    log_probs = spoken("call jon doe now", doubt={7: {"h": 0.05}, 10: {"a": 0.3}})
    assert said(BeamCTC(ENGLISH_LABELS), log_probs) == "call jon doe now"
    path = tmp_path / "names.txt"
    path.write_text("Jon Dae\t6\nzebra\n")
    assert said(BeamCTC(ENGLISH_LABELS, hotwords=str(path)), log_probs) == "call jon dae now"
    # a boost that the word's end takes back
    assert said(BeamCTC(ENGLISH_LABELS, hotwords=["jon da"]), log_probs) == "call jon doe now"
    assert said(BeamCTC(ENGLISH_LABELS, hotwords=["jon dae"], hotword_boost=0), log_probs) == (
        "call jon doe now"
    )


def test_unknown_words_cost_unless_they_are_hotwords(tmp_path: Path) -> None:
    write_arpa(estimate(["call jon", "call ann"]), tmp_path / "lm.arpa")
    log_probs = spoken("call jin", doubt={6: {"o": 0.02}})
    known = {"lm": tmp_path / "lm.arpa", "unk_score": -10.0}
    assert said(BeamCTC(ENGLISH_LABELS, **known), log_probs) == "call jon"
    assert said(BeamCTC(ENGLISH_LABELS, **known, hotwords=["jin"]), log_probs) == "call jin"
    known["unk_score"] = 0.0
    assert said(BeamCTC(ENGLISH_LABELS, **known), log_probs) == "call jin"


def test_a_long_stream_does_not_grow_its_hypotheses() -> None:
    decoder = BeamCTC(ENGLISH_LABELS)
    state = decoder.init()
    log_probs = spoken("one two three four ", doubt={2: {"a": 0.3}})
    for _ in range(30):
        state, text = decoder.step(state, log_probs)
    assert text == "one two three four " * 30
    # all that was doubtful once is as doubtful as the last, and yet it becomes stable
    assert max(len(beam.tail) for beam in state.beams) <= decoder.horizon
    assert len(decoder.stable(state)) >= len(text) - decoder.horizon


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"beam": 0}, "beam=0"),
        ({"horizon": 0}, "horizon=0"),
        ({"margin": math.nan}, "margin=nan"),
        ({"hotwords": ["route 66"]}, "'route 66' has '6'"),
        ({"hotwords": [" "]}, "is empty"),
    ],
)
def test_wrong_parameters_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BeamCTC(ENGLISH_LABELS, **wrong)


def test_a_boost_that_is_no_number_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "hot.txt").write_text("one\n\ntwo\tmuch\n")
    with pytest.raises(ConfigError, match=r"hot.txt:3: 'much' is no boost"):
        BeamCTC(ENGLISH_LABELS, hotwords=tmp_path / "hot.txt")
    with pytest.raises(ManifestError, match=r"cannot open .*absent.txt"):
        BeamCTC(ENGLISH_LABELS, hotwords=tmp_path / "absent.txt")


@pytest.mark.parametrize("bad", [torch.zeros(3, 5), torch.full((3, 4), torch.nan)])
def test_scores_that_cannot_be_are_refused(bad: torch.Tensor) -> None:
    decoder = BeamCTC(tuple("ab "))
    with pytest.raises(SpeechkitError, match=r"expected \[T, 4\]"):
        decoder.step(decoder.init(), bad)
