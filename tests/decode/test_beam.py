"""Beam search against the sum over all alignments, in any chunks, with words' scores."""

import contextlib
import itertools
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechkit.decode.beam import BeamCTC
from speechkit.decode.fusion import LanguageModelWarning
from speechkit.decode.greedy import GreedyCTC
from speechkit.decode.kneser_ney import estimate
from speechkit.decode.ngram import BEGIN, END, NGram, read_arpa, write_arpa
from speechkit.errors import ConfigError, ManifestError, SpeechkitError
from speechkit.text import ENGLISH_LABELS, decode, encode, normalize

EXACT = {"beam": 10_000, "min_log_prob": -1e9, "margin": 1e9, "horizon": 100}
TEXT = ["ab a", "a ab b", "b a", "ab ab", "a"]


def random_scores(seed: int, frames: int, classes: int, sharpness: float = 2.0) -> np.ndarray:
    chance = np.random.default_rng(seed)
    return torch.tensor(chance.normal(0, sharpness, (frames, classes))).log_softmax(-1).numpy()


def sums(log_probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """ln P(ids) of every label sequence, summed path by path."""
    frames, classes = log_probs.shape
    total: dict[tuple[int, ...], float] = defaultdict(float)
    for path in itertools.product(range(classes), repeat=frames):
        ids = tuple(label for label, _ in itertools.groupby(path) if label != classes - 1)
        total[ids] += math.exp(sum(log_probs[t, label].item() for t, label in enumerate(path)))
    return {ids: math.log(p) for ids, p in total.items()}


def read(decoder: BeamCTC, log_probs: np.ndarray, cuts: list[int] = []) -> Any:  # noqa: B006
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
    """The scores of a text's words, computed again in the simplest way."""
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
    blank = torch.tensor([[1e-5, 1e-5, 1e-5, 1 - 3e-5]] * 10, dtype=torch.float64).log().numpy()
    log_probs = np.concatenate([random_scores(3, 8, 4), blank])
    texts = [
        [decode((*s.stable, *b.tail), d.labels) for b in s.beams[:10]]
        for d in (quick, exact)
        for s in [read(d, log_probs)[-1]]
    ]
    assert texts[0] == texts[1]


def spoken(text: str, *, doubt: dict[int, dict[str, float]], sure: float = 0.97) -> np.ndarray:
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
    return torch.stack(rows).log().numpy()


def text_of(decoder: BeamCTC, log_probs: np.ndarray) -> str:
    return decoder.finish(read(decoder, log_probs)[-1])


def test_a_language_model_turns_a_close_call(tmp_path: Path) -> None:
    write_arpa(estimate(["THE CAT SAT", "THE CAT RAN", "A CAT SAT"]), tmp_path / "lm.arpa.gz")
    log_probs = spoken("the cet sat", doubt={5: {"a": 0.4}})
    assert text_of(BeamCTC(ENGLISH_LABELS), log_probs) == "the cet sat"
    # the model's capitals are the labels' letters
    assert text_of(BeamCTC(ENGLISH_LABELS, lm=tmp_path / "lm.arpa.gz"), log_probs) == "the cat sat"


def test_hotwords_bring_back_what_is_less_likely(tmp_path: Path) -> None:
    log_probs = spoken("call jon doe now", doubt={7: {"h": 0.05}, 10: {"a": 0.3}})
    assert text_of(BeamCTC(ENGLISH_LABELS), log_probs) == "call jon doe now"
    path = tmp_path / "names.txt"
    path.write_text("Jon Dae\t6\nzebra\n")
    assert text_of(BeamCTC(ENGLISH_LABELS, hotwords=str(path)), log_probs) == "call jon dae now"
    # a boost that the word's end takes back
    assert text_of(BeamCTC(ENGLISH_LABELS, hotwords=["jon da"]), log_probs) == "call jon doe now"
    assert text_of(BeamCTC(ENGLISH_LABELS, hotwords=["jon dae"], hotword_boost=0), log_probs) == (
        "call jon doe now"
    )


def test_unknown_words_cost_unless_they_are_hotwords(tmp_path: Path) -> None:
    write_arpa(estimate(["call jon", "call ann"]), tmp_path / "lm.arpa")
    log_probs = spoken("call jin", doubt={6: {"o": 0.02}})
    known = {"lm": tmp_path / "lm.arpa", "unk_score": -10.0}
    assert text_of(BeamCTC(ENGLISH_LABELS, **known), log_probs) == "call jon"
    assert text_of(BeamCTC(ENGLISH_LABELS, **known, hotwords=["jin"]), log_probs) == "call jin"
    known["unk_score"] = 0.0
    assert text_of(BeamCTC(ENGLISH_LABELS, **known), log_probs) == "call jin"


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
        ({"beam": 0}, "beam=0: give a number from 1"),
        ({"beam": 10**9}, r"beam=1e\+09: give a number from 1 to 65536"),
        ({"beam": 10**400}, "beam: it holds a number outside"),
        ({"beam": 2.5}, "beam - .*valid integer"),
        ({"beam": math.nan}, "beam - .*finite"),
        ({"beam": "many"}, "beam - .*valid integer"),
        ({"horizon": 0}, "horizon=0: give a number from 1"),
        ({"horizon": math.inf}, "horizon - .*finite"),
        ({"margin": -1}, "margin=-1: give a number from 0"),
        *(
            ({name: value}, f"{name}: it holds ")
            for name in ("alpha", "length_bonus", "unk_score", "hotword_boost", "margin")
            for value in (math.nan, math.inf, 1e300)
        ),
        ({"min_log_prob": -math.inf}, "min_log_prob: it holds -inf"),
        ({"alpha": "x"}, "alpha - .*valid number"),
        ({"hotwords": ["route 66"]}, "hotword 'route 66': .*has '6'"),
        ({"hotwords": [" "]}, "hotword ' ': 0 letters"),
        ({"hotwords": ["a" * 201]}, "201 letters; give 1 to 200"),
        ({"hotwords": ["a"] * 10_001}, "10,001 hotwords; give at most 10,000"),
        *(
            ({"hotwords": {"jon": value}}, "hotword 'jon': .* is no boost")
            for value in (math.nan, -math.inf, "much", None, 10**400)
        ),
    ],
)
def test_wrong_parameters_are_named(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        BeamCTC(ENGLISH_LABELS, **wrong)
    assert len(str(refused.value)) < 450


def test_a_boost_that_is_no_number_is_named_with_its_line(tmp_path: Path) -> None:
    for wrong in ("much", "nan", "-inf", "1e999"):
        (tmp_path / "hot.txt").write_text(f"one\n\ntwo\t{wrong}\n")
        with pytest.raises(ConfigError, match=rf"hot.txt:3: '{wrong}' is no boost"):
            BeamCTC(ENGLISH_LABELS, hotwords=tmp_path / "hot.txt")
    with pytest.raises(ManifestError, match=r"cannot open .*absent.txt"):
        BeamCTC(ENGLISH_LABELS, hotwords=tmp_path / "absent.txt")


@pytest.mark.parametrize("bad", [np.zeros((3, 5)), np.full((3, 4), np.nan)])
def test_scores_that_cannot_be_are_refused(bad: np.ndarray) -> None:
    decoder = BeamCTC(tuple("ab "))
    with pytest.raises(SpeechkitError, match=r"expected \[T, 4\]"):
        decoder.step(decoder.init(), bad)


CAPITALS = (" ", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'")


@pytest.mark.parametrize("labels", [ENGLISH_LABELS, CAPITALS])
@pytest.mark.parametrize("case", [str.lower, str.upper])
def test_a_language_model_of_the_other_case_reads_the_same(
    tmp_path: Path, labels: tuple[str, ...], case: Callable[[str], str]
) -> None:
    lines = [case(line) for line in ("the cat sat", "the cat ran", "a cat sat")]
    write_arpa(estimate(lines), tmp_path / "lm.arpa")
    decoder = BeamCTC(labels, lm=tmp_path / "lm.arpa", hotwords=[case("ran")])
    words = decoder.fusion.lm.words if decoder.fusion.lm else ()
    assert {word.lower() for word in words} == {"the", "cat", "sat", "ran", "a"}
    log_probs = spoken("the cet sat", doubt={5: {"a": 0.4}})
    assert text_of(decoder, log_probs).lower() == "the cat sat"
    # the marks of a sentence are no words
    assert decoder.fusion.lm is not None
    assert decoder.fusion.lm.score(("<s>",), words and min(words)) > -2


def test_a_warning_names_words_that_cannot_be_spelled(tmp_path: Path) -> None:
    path = tmp_path / "lm.arpa"
    write_arpa(estimate(["привет мир"]), path)
    with pytest.raises(ConfigError, match=r"lm.arpa: the labels spell none of its 2 words") as none:
        BeamCTC(ENGLISH_LABELS, lm=path)
    assert len(str(none.value)) < 450
    write_arpa(estimate(["hello мир one two"]), path)
    with pytest.warns(LanguageModelWarning, match=r"spell 75% of its 4 words, and not 'мир'"):
        BeamCTC(ENGLISH_LABELS, lm=path)
    # the warning names the place that reads the file
    BeamCTC(ENGLISH_LABELS, lm=path)


def test_a_language_model_is_read_again_where_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, count = tmp_path / "lm.arpa", []

    def counted(*given: Any) -> NGram:
        count.append(given)
        return read_arpa(*given)

    monkeypatch.setattr("speechkit.decode.fusion.read_arpa", counted)
    write_arpa(estimate(["the cat"]), path)
    models = [BeamCTC(ENGLISH_LABELS, lm=path).fusion.lm for _ in range(3)]
    assert len(count) == 1
    assert models[0] is models[1] is models[2]
    write_arpa(estimate(["the cat sat"]), path)
    changed = BeamCTC(ENGLISH_LABELS, lm=path).fusion.lm
    assert changed is not None
    assert "sat" in changed.words
    assert len(count) == 2
    # in the other case it is another model
    BeamCTC(CAPITALS, lm=path)
    assert len(count) == 3


def test_hotwords_are_normalised_as_transcripts_are() -> None:
    given = {"Jean-Luc": 1.0, "AT&T": 2.0, "Zoë": 3.0, "O’Brien": 4.0, "ZOE\u0308": 5.0}
    decoder = BeamCTC(ENGLISH_LABELS, hotwords=given, normalization="english")
    expected = {"jean luc": 1.0, "at and t": 2.0, "zoe": 5.0, "o'brien": 4.0}
    assert decoder.fusion.boosts == expected
    with pytest.raises(ConfigError, match=r"hotword 'AT&T': .* has '&', which is no label"):
        BeamCTC(ENGLISH_LABELS, hotwords=["AT&T"])


@pytest.mark.parametrize("labels", [("é", "t", " "), ("e", "t", "\u0301", " ")])
@pytest.mark.parametrize("given", ["\u00e9t\u00e9", "e\u0301te\u0301"])
def test_accents_are_composed_where_they_are_in_the_labels(
    tmp_path: Path, labels: tuple[str, ...], given: str
) -> None:
    write_arpa(estimate([given]), tmp_path / "lm.arpa")
    decoder = BeamCTC(labels, lm=tmp_path / "lm.arpa", hotwords=[given])
    (word,) = decoder.fusion.boosts
    assert decoder.fusion.lm is not None
    assert set(decoder.fusion.lm.words) == {word}
    assert set(word) <= set(labels)
    assert normalize(given, "none", labels) == word


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(2, 4))
def test_sure_frames_read_as_the_greedy_decoder_reads_them(seed: int, T: int, V: int) -> None:
    # the best path has more than half of all probability
    chance = np.random.default_rng(seed)
    path = torch.tensor(chance.integers(0, V + 1, T))
    log_probs = torch.full((T, V + 1), 0.01, dtype=torch.float64)
    log_probs[torch.arange(T), path] = 1 - 0.01 * V
    labels = tuple("ab c"[:V])
    greedy = GreedyCTC(labels)
    state, _ = greedy.step(greedy.init(), log_probs.log())
    assert text_of(BeamCTC(labels, alpha=0.0), log_probs.log()) == greedy.finish(state)


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_a_language_model_of_weight_zero_changes_nothing(
    toy: tuple[NGram, Path], seed: int
) -> None:
    labels, log_probs = tuple("ab "), random_scores(seed, 20, 4)
    plain, fused = BeamCTC(labels), BeamCTC(labels, lm=toy[1], alpha=0.0)
    assert text_of(fused, log_probs) == text_of(plain, log_probs)


@given(st.floats() | st.integers() | st.text(max_size=5) | st.none())
def test_any_number_is_taken_or_refused_as_ours(value: Any) -> None:
    for name in ("beam", "horizon", "alpha", "margin", "hotword_boost", "min_log_prob"):
        with contextlib.suppress(ConfigError):
            BeamCTC(tuple("ab "), hotwords=["a"], **{name: value})
