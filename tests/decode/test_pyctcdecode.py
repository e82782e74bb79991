"""pyctcdecode under our interface, and our beam search beside it; without it, what to install."""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from speechkit.decode.beam import BeamCTC
from speechkit.decode.kenlm import KenLM
from speechkit.decode.kneser_ney import estimate
from speechkit.decode.ngram import BEGIN, END, UNKNOWN, NGram, write_arpa
from speechkit.decode.pyctcdecode import PyCTCDecode
from speechkit.errors import ConfigError, MissingExtraError
from speechkit.text import ENGLISH_LABELS, encode

needs_pyctcdecode = pytest.mark.skipif(
    importlib.util.find_spec("pyctcdecode") is None, reason="pyctcdecode is not installed"
)
needs_kenlm = pytest.mark.skipif(
    importlib.util.find_spec("kenlm") is None, reason="kenlm is not installed"
)
SAME = {"beam": 64, "alpha": 0.5, "length_bonus": 1.0, "min_log_prob": -12.0, "margin": 40.0}
TEXT = ["the cat sat", "the cat ran", "a cat sat on the mat", "a mat ran", "the"] * 2


def noisy(text: str, seed: int) -> torch.Tensor:
    """Scores of a text, each letter for a frame and a blank after it, under noise."""
    ids = torch.from_numpy(encode(text))
    best = torch.stack([ids, torch.full_like(ids, len(ENGLISH_LABELS))], 1).flatten()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(best), len(ENGLISH_LABELS) + 1, generator=generator)
    sharp = 5 * torch.nn.functional.one_hot(best, len(ENGLISH_LABELS) + 1)
    return (sharp + 1.5 * noise).log_softmax(-1)


def text_of(decoder: Any, log_probs: torch.Tensor) -> str:
    state, _ = decoder.step(decoder.init(), log_probs.numpy())
    return decoder.finish(state)


@pytest.mark.skipif(
    importlib.util.find_spec("pyctcdecode") is not None, reason="pyctcdecode is installed"
)
def test_without_pyctcdecode_the_extra_is_named() -> None:
    with pytest.raises(MissingExtraError, match=r"speechkit-core\[pyctcdecode\]"):
        PyCTCDecode(ENGLISH_LABELS)


@pytest.mark.skipif(importlib.util.find_spec("kenlm") is not None, reason="kenlm is installed")
def test_without_kenlm_the_extra_is_named(tmp_path: Path) -> None:
    (tmp_path / "lm.bin").touch()
    with pytest.raises(MissingExtraError, match=r"speechkit-core\[kenlm\]"):
        BeamCTC(ENGLISH_LABELS, lm=tmp_path / "lm.bin")


class Capitals:
    """What kenlm would make of a file with the words THE and CAT."""

    order = 2

    def __init__(self, path: str) -> None:
        self.scored: list[str] = []

    def __contains__(self, word: str) -> bool:
        return word in {"THE", "CAT", END}

    def NullContextWrite(self, state: object) -> None:  # noqa: N802
        """Nothing to remember."""

    def BaseScore(self, state: object, word: str, after: object) -> float:  # noqa: N802
        self.scored.append(word)
        return -1.0


def test_kenlm_is_asked_for_words_in_its_own_case(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(Model=Capitals, State=object)
    monkeypatch.setitem(sys.modules, "kenlm", fake)
    binary = KenLM("lm.bin")
    assert "cat" in binary
    assert "dog" not in binary
    assert binary.score(("the",), "cat") == binary.score(("dog",), END) == -1.0
    assert binary.model.scored == ["THE", "CAT", "dog", END]


def test_pyctcdecode_warns_that_it_reads_words_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("kenlm", "pyctcdecode"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace())
    write_arpa(estimate(["THE CAT SAT"]), tmp_path / "lm.arpa")
    with pytest.raises(ConfigError, match=r"lm\.arpa: the labels spell none of its 3 words"):
        PyCTCDecode(ENGLISH_LABELS, lm=tmp_path / "lm.arpa")


@needs_pyctcdecode
def test_steps_give_the_text_of_the_whole_and_states_stay() -> None:
    decoder = PyCTCDecode(ENGLISH_LABELS)
    log_probs = noisy("the cat", seed=0)
    first, _ = decoder.step(decoder.init(), log_probs[:6].numpy())
    second, text = decoder.step(first, log_probs[6:].numpy())
    assert len(first.scores) == 6
    assert text == decoder.finish(second) == text_of(decoder, log_probs)
    assert decoder.restore(json.loads(json.dumps(second))) == second
    assert decoder.finish(decoder.init()) == decoder.stable(second) == ""


@needs_pyctcdecode
def test_one_boost_for_all() -> None:
    with pytest.raises(ConfigError, match="one boost"):
        PyCTCDecode(ENGLISH_LABELS, hotwords={"a": 1.0, "b": 2.0})


def spoken(text: str, log_probs: torch.Tensor) -> float:
    """ln P(text | frames), summed over all paths by torch."""
    ids, frames = torch.from_numpy(encode(text)), log_probs.double()[:, None]
    lengths = torch.tensor([len(log_probs)]), torch.tensor([len(ids)])
    loss = torch.nn.functional.ctc_loss(frames, ids[None], *lengths, blank=28, reduction="sum")
    return -loss.item()


def worth(text: str, model: NGram) -> float:
    """What the words add under SAME."""
    total, history = 0.0, [BEGIN]
    for word in [*text.split(), END]:
        unknown = word not in model and word != END
        total += SAME["alpha"] * math.log(10) * (model.score(history, word) - 10 * unknown)
        history.append(word)
    return total + SAME["length_bonus"] * len(text.split())


@needs_pyctcdecode
@pytest.mark.parametrize("seed", range(5))
def test_without_words_ours_finds_a_text_as_likely_or_likelier(seed: int) -> None:
    log_probs = noisy("the cat sat on the mat", seed)
    options = {**SAME, "length_bonus": 0.0}
    ours, theirs = (
        text_of(d(ENGLISH_LABELS, **options), log_probs) for d in (BeamCTC, PyCTCDecode)
    )
    # it does not sum over all paths
    assert spoken(ours, log_probs) >= spoken(theirs, log_probs) - 1e-6


@needs_pyctcdecode
@needs_kenlm
@pytest.mark.parametrize("seed", range(5))
def test_with_a_language_model_ours_is_as_good_or_better(tmp_path: Path, seed: int) -> None:
    model = estimate(TEXT)
    write_arpa(model, tmp_path / "lm.arpa")
    options = {**SAME, "lm": str(tmp_path / "lm.arpa")}
    log_probs = noisy("the cat sat on a mat", seed)
    ours = text_of(BeamCTC(ENGLISH_LABELS, **options), log_probs)
    theirs = PyCTCDecode(ENGLISH_LABELS, **options)
    text, *_, score = theirs.decoder.decode_beams(log_probs.numpy(), **theirs.options)[0]
    # the scale is the same, though its sum is over other paths
    assert score == pytest.approx(spoken(text, log_probs) + worth(text, model), abs=2)
    # it misses texts, as its penalty for beginnings of unknown words is heavier than for words
    best = spoken(text, log_probs) + worth(text, model)
    assert spoken(ours, log_probs) + worth(ours, model) >= best - 1e-6


@needs_kenlm
def test_kenlm_scores_as_our_model_does(tmp_path: Path) -> None:
    model = estimate(TEXT)
    write_arpa(model, tmp_path / "lm.arpa")
    binary = KenLM(tmp_path / "lm.arpa")
    assert binary.order == model.order
    assert "cat" in binary
    assert "dog" not in binary
    for history in [(), (BEGIN,), (BEGIN, "the"), ("the", "cat"), ("dog", "cat"), ("cat", "dog")]:
        for word in (*model.words, END, UNKNOWN, "dog"):
            ours = model.score(history, word)
            assert binary.score(history, word) == pytest.approx(ours, abs=1e-5), (history, word)
