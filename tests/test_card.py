"""Cards: written, read back, and what is refused in one."""

import json
from pathlib import Path
from typing import Any

import pytest

import speechkit as sk
from speechkit.card import CARD, Score, read_card
from speechkit.errors import CheckpointError, ConfigError

BLOCKS = (sk.Block(channels=4, kernel=3, stride=2), sk.Block(channels=4, kernel=1))


def test_a_saved_card_is_read_back(tmp_path: Path) -> None:
    card = sk.ModelCard(
        purpose="tells doorbells from telephones",
        data=("forty doorbells (CC0)",),
        seeds=(3,),
        scores=(
            Score(name="delay", value=0.25, unit="s", interval=(0.2, 0.31), on="ten others"),
            Score(name="accuracy", value=1),
            Score(name="recall", value=1, interval=(1, 1)),
        ),
    )
    model = sk.build(sk.MatchboxNet(blocks=BLOCKS, labels=("bell", "phone")))
    sk.save(model, tmp_path / "bells", card)
    assert read_card(tmp_path / "bells") == card
    assert [str(score) for score in card.scores] == [
        "delay: 0.25 s, 95 % CI 0.2 to 0.31 s (ten others)",
        "accuracy: 1",
        "recall: 1, 95 % CI 1 to 1",
    ]


def test_a_model_may_have_none(tmp_path: Path) -> None:
    sk.save(sk.build(sk.MatchboxNet(blocks=BLOCKS, labels=("bell", "phone"))), tmp_path / "bells")
    assert read_card(tmp_path / "bells") is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "it is not JSON"),
        ("[]", "is not a model card"),
        ("{}", "purpose - Field required"),
        ('{"purpose": 3}', "purpose"),
        ('{"purpose": "x", "scores": [{"name": "wer", "value": NaN}]}', "finite number"),
        ('{"purpose": "x", "scores": [{"name": "wer", "value": 1, "interval": [0]}]}', "interval"),
        (
            '{"purpose": "x", "scores": [{"name": "wer", "value": 1, "interval": [2, 3]}]}',
            r"score 'wer' is 1 with the interval \[2, 3\]; give \[low, high\] around the value",
        ),
        ('{"purpose": "two\\nlines"}', "control character"),
        ('{"purpose": "x", "limits": ["\\u001b]0;title"]}', "control character"),
        ("[" * 100_000, "nested deeper"),
        ('{"purpose": "' + "x" * 2_000_000 + '"}', "bytes, more than"),
    ],
)
def test_a_damaged_card_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / CARD).write_text(text)
    with pytest.raises(CheckpointError, match=says) as caught:
        read_card(tmp_path)
    assert str(tmp_path / CARD) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("interval", [(), (0.1,), (0, 1, 2), (2, 3), (-1, 0), (float("nan"), 2)])
def test_an_interval_is_two_numbers_around_the_value(interval: Any) -> None:
    with pytest.raises(ConfigError, match=r"give \[low, high\] around the value"):
        Score(name="delay", value=1.0, interval=interval)


def test_a_score_may_have_no_interval(tmp_path: Path) -> None:
    text = '{"purpose": "counts", "scores": [{"name": "wer", "value": 0.1}]}'
    (tmp_path / CARD).write_text(text)
    scores = (Score(name="wer", value=0.1),)
    assert read_card(tmp_path) == sk.ModelCard(purpose="counts", scores=scores)


def test_fields_of_a_newer_version_are_ignored(tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(json.dumps({"purpose": "counts", "colour": "blue"}))
    assert read_card(tmp_path) == sk.ModelCard(purpose="counts")
