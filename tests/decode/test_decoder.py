"""What a decoder is built with, and that it has all that it will be asked for."""

from typing import Any

import pytest

from speechkit.decode import METHODS, decoder_of
from speechkit.decode.beam import BeamCTC
from speechkit.decode.greedy import GreedyCTC
from speechkit.errors import ComponentError, ConfigError
from speechkit.text import ENGLISH_LABELS


@pytest.mark.parametrize("method", METHODS)
def test_a_decoder_that_lacks_a_method_is_named(method: str) -> None:
    others = {name: getattr(GreedyCTC, name) for name in METHODS if name != method}
    lacking: Any = type("Mine", (), {**others, "labels": ENGLISH_LABELS})()
    with pytest.raises(ConfigError, match=f"decoder Mine lacks {method}; a decoder has init, step"):
        decoder_of(lacking, ENGLISH_LABELS)


def test_a_decoder_has_the_models_labels() -> None:
    own = GreedyCTC(ENGLISH_LABELS)
    assert decoder_of(own, list(ENGLISH_LABELS)) is own
    with pytest.raises(ConfigError, match="a decoder of 28 labels, which are not the 2"):
        decoder_of(own, ("a", "b"))


def test_the_models_normalisation_is_given_where_it_is_taken() -> None:
    assert isinstance(decoder_of("greedy", ENGLISH_LABELS, "english"), GreedyCTC)
    with pytest.raises(ComponentError, match="unexpected keyword argument 'normalization'"):
        decoder_of("beam:normalization=none", ENGLISH_LABELS, "english")


def test_hotwords_are_normalised_by_the_model(tmp_path: Any) -> None:
    (tmp_path / "names.txt").write_text("\ufeffJean-Luc\t3\r\nZoë\r\n", encoding="utf-8")
    decoder = decoder_of(f"beam:hotwords={tmp_path / 'names.txt'}", ENGLISH_LABELS, "english")
    assert isinstance(decoder, BeamCTC)
    assert decoder.fusion.boosts == {"jean luc": 3.0, "zoe": 5.0}
