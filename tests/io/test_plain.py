"""What is read without pydantic is what pydantic reads."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from speechkit.card import CARD, ModelCard, bundled_folders
from speechkit.config import Config
from speechkit.errors import ConfigError
from speechkit.io.plain import UnfitError, fitted
from speechkit.rules.vad import PostProcessing


@dataclass(frozen=True)
class Inner:
    """A dataclass that is no config, so other keys are ignored."""

    share: float
    word: str = "no"


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    """A field of each type."""

    count: int
    share: float = 0.5
    on: bool = False
    unit: Literal["s", "ms", 1] = "s"
    most: float | None = None
    either: int | str = 0
    words: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)
    rows: list[Inner] = field(default_factory=list)
    inner: Inner | None = None
    anything: Any = None
    by_name: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count == 13:
            raise ValueError("13 brings bad luck")


SCALARS = st.sampled_from([None, True, 0, 1, 13, -2, 2.0, 0.5, "", "s", "1", "é", "\ud800", b"s"])
INNERS = st.fixed_dictionaries({"share": SCALARS}, optional={"word": SCALARS, "other": SCALARS})
VALUES = st.one_of(
    SCALARS, INNERS, st.lists(SCALARS | INNERS, max_size=3), st.tuples(SCALARS, SCALARS)
)
# most fields get a value of their type, so that many of the dictionaries fit
FITTING = {
    "count": st.integers(0, 20),
    "share": st.floats(0, 1) | st.integers(0, 1),
    "on": st.booleans(),
    "unit": st.sampled_from(["s", "ms", 1]),
    "most": st.none() | st.floats(0, 1),
    "words": st.lists(st.text("aé", max_size=2), max_size=2),
    "pair": st.tuples(st.integers(0, 3), st.floats(0, 1)).map(list),
    "rows": st.lists(st.fixed_dictionaries({"share": st.floats(0, 1)}), max_size=2),
    "inner": st.none() | st.fixed_dictionaries({"share": st.integers(0, 1)}),
    "anything": SCALARS,
    "by_name": st.dictionaries(st.text("ab", max_size=1), st.floats(0, 1), max_size=2),
}
FITS = st.fixed_dictionaries({"count": FITTING.pop("count")}, optional=FITTING)
OTHERS = st.dictionaries(
    st.sampled_from([*FITTING, "count", "either", "other"]), VALUES, max_size=1
)


@given(FITS, OTHERS)
def test_data_is_read_as_pydantic_reads_it_or_left_to_it(
    fits: dict[str, Any], others: dict[str, Any]
) -> None:
    data = {**fits, **others}
    try:
        found = fitted(Outer, data)
    except (UnfitError, ConfigError) as error:
        # a config's own error is the same, whoever reads
        if isinstance(error, ConfigError):
            with pytest.raises(ConfigError):
                TypeAdapter(Outer).validate_python(data)
        return
    assert repr(found) == repr(TypeAdapter(Outer).validate_python(data))


def test_data_of_the_right_types_needs_no_pydantic() -> None:
    data = {"count": 3, "share": 1, "pair": [1, 2.5], "rows": [{"share": 1}], "words": ["a"]}
    read = fitted(Outer, json.loads(json.dumps(data)))
    assert read == Outer(count=3, share=1.0, pair=(1, 2.5), rows=[Inner(1.0)], words=("a",))
    assert type(read.share) is float


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (Outer, {"count": "3"}),
        (Outer, {"count": True}),
        (Outer, {"count": 3, "words": ["\ud800"]}),
        (Outer, {"count": 3, "either": 3}),
        (Outer, {"count": 3, "extra": 3}),
        (Outer, {}),
        (Outer, {"count": 13}),
        (float, 10**400),
        (Annotated[int, Field(gt=0)], 1),
        (tuple[int, int], [1]),
        (bytes, b"1"),
    ],
)
def test_what_needs_conversion_or_a_message_is_left_to_pydantic(kind: Any, data: Any) -> None:
    with pytest.raises(UnfitError):
        fitted(kind, data)


def test_an_error_of_a_check_is_pydantics() -> None:
    with pytest.raises(ValidationError, match="13 brings bad luck"):
        TypeAdapter(Outer).validate_python({"count": 13})


def test_cards_and_rules_are_read_without_pydantic() -> None:
    code = """
import sys
sys.modules["pydantic"] = None
from speechkit.card import bundled_models
from speechkit.config import from_dict
from speechkit.rules.vad import PostProcessing
assert len(bundled_models()) > 3
assert from_dict(PostProcessing, {"onset": 0.75, "pad_onset_ms": 30}).onset == 0.75
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", bundled_folders(), ids=lambda folder: folder.name)
def test_a_stored_card_is_read_as_pydantic_reads_it(folder: Any) -> None:
    data = json.loads((folder / CARD).read_text(encoding="utf-8"))
    assert fitted(ModelCard, data) == TypeAdapter(ModelCard).validate_python(data)
    rules = {"onset": 0.5, "offset": 0, "max_speech_s": None}
    assert fitted(PostProcessing, rules) == TypeAdapter(PostProcessing).validate_python(rules)
