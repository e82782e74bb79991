"""Specs: three spellings, one meaning."""

import json
import re
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from speechkit.component import Spec, did_you_mean
from speechkit.config import from_dict, to_dict
from speechkit.errors import ComponentError
from speechkit.limits import MAX_NESTED_COMPONENTS

SWISH = Spec("swish", {"beta": 1.5, "learn": True})

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@pytest.mark.parametrize(
    "spelling",
    [
        "swish:beta=1.5,learn=true",
        " swish : beta = 1.5 , learn = true ",
        {"name": "swish", "params": {"beta": 1.5, "learn": True}},
        SWISH,
    ],
)
def test_three_spellings_mean_the_same(spelling: Any) -> None:
    assert Spec.parse(spelling) == SWISH


def test_the_canonical_form_is_the_dict() -> None:
    stored = to_dict(Spec.parse("swish:beta=1.5,learn=true"))
    assert stored == {"name": "swish", "params": {"beta": 1.5, "learn": True}}
    assert Spec.parse(stored) == SWISH


@pytest.mark.parametrize("mapping", [{"name": "relu"}, {"name": "relu", "params": None}])
def test_a_dict_may_leave_out_the_parameters(mapping: dict[str, Any]) -> None:
    assert Spec.parse(mapping) == Spec("relu") == Spec.parse("relu")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1.0", 1.0),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("tanh", "tanh"),
        ("True", "True"),
        ('"1"', "1"),
        ("", ""),
        ("a=b", "a=b"),
        ("[1]", "[1]"),
        ("x{1}", "x{1}"),
        ('"{}"', "{}"),
        ("average:nemo_compat=true", "average:nemo_compat=true"),
    ],
)
def test_values_are_json_scalars_or_else_text(text: str, value: Any) -> None:
    read = Spec.parse(f"gelu:approx={text}").params["approx"]
    assert read == value
    assert type(read) is type(value)


def test_a_name_may_be_qualified_by_its_plugin() -> None:
    assert Spec.parse("acme/snake:alpha=0.5") == Spec("acme/snake", {"alpha": 0.5})


@pytest.mark.parametrize(
    "spelling",
    [
        "clip:pool={acme/peak:share=0.1,soft=true},bias=false",
        " clip : pool = { acme/peak : share = 0.1 , soft = true } , bias = false ",
        {
            "name": "clip",
            "params": {
                "pool": {"name": "acme/peak", "params": {"share": 0.1, "soft": True}},
                "bias": False,
            },
        },
        Spec("clip", {"pool": Spec("acme/peak", {"share": 0.1, "soft": True}), "bias": False}),
    ],
)
def test_a_parameter_may_be_a_component(spelling: Any) -> None:
    spec = Spec.parse(spelling)
    assert spec.params == {"pool": Spec("acme/peak", {"share": 0.1, "soft": True}), "bias": False}
    assert str(spec) == "clip:pool={acme/peak:share=0.1,soft=true},bias=false"
    assert Spec.parse(to_dict(spec)) == spec
    assert from_dict(Spec, to_dict(spec)) == spec


def test_components_nest() -> None:
    text = "curve_eq:frontend={log_mel:normalize={running:prior_frames=5},n_fft=512},bands=3"
    spec = Spec.parse(text)
    assert spec.params["frontend"].params["normalize"] == Spec("running", {"prior_frames": 5})
    assert spec.params["frontend"].params["n_fft"] == 512
    assert str(spec) == text
    deep = "a"
    for _ in range(MAX_NESTED_COMPONENTS):
        deep = f"a:b={{{deep}}}"
    assert str(Spec.parse(deep)) == deep
    with pytest.raises(ComponentError, match=f"deeper than {MAX_NESTED_COMPONENTS} levels"):
        Spec.parse(f"a:b={{{deep}}}")
    with pytest.raises(ComponentError, match="deeper than"):
        Spec.parse("a:b={" * 100_000 + "a" + "}" * 100_000)


def specs_of(params: st.SearchStrategy[Any]) -> st.SearchStrategy[Spec]:
    full = st.builds(lambda plugin, name: f"{plugin}/{name}", names, names)
    return st.builds(Spec, names | full, st.dictionaries(names, params, max_size=4))


specs = st.recursive(specs_of(scalars), lambda nested: specs_of(scalars | nested), max_leaves=12)


def types_of(value: Any) -> Any:
    if isinstance(value, Spec):
        return [(key, types_of(of)) for key, of in value.params.items()]
    return type(value)


@given(specs)
@example(Spec("gelu", {"like_json": "1", "comma": "a,b", "space": " a ", "empty": ""}))
@example(Spec("clip", {"pool": Spec("a", {"b": "},c={", "d": '"{', "e": "\\u007b"}), "f": "{}"}))
def test_what_a_spec_prints_reads_back_as_the_same(spec: Spec) -> None:
    for again in (Spec.parse(str(spec)), Spec.parse(to_dict(spec))):
        assert again == spec
        assert types_of(again) == types_of(spec)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(ComponentError):
        spec = Spec.parse(text)
        assert Spec.parse(str(spec)) == spec


def test_numbers_of_numpy_and_torch_are_stored_as_plain_ones() -> None:
    params = {"a": np.float32(0.5), "b": np.int64(2), "c": np.True_, "d": torch.tensor(0.25)}
    plain = Spec("swish", params).params
    assert json.dumps(plain) == '{"a": 0.5, "b": 2, "c": true, "d": 0.25}'


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            "name:average",
            "component 'name:average'; write name:key=value,key=value, or only the",
        ),
        ("swish:beta", "cannot read 'beta' in component 'swish:beta'; write name:key=value"),
        ("swish:", "cannot read '' in component 'swish:'"),
        ("swish:a=1,a=2", "cannot read 'a=2'"),
        ("swish:a b=1", "cannot read 'a b=1'"),
        ("swish(beta=1)", "'swish(beta=1)' is not a component name; write name or plugin/name"),
        ("a/b/c", "'a/b/c' is not a component name"),
        ("clip:pool={a", "cannot read the braces in component 'clip:pool={a'; write name:key={"),
        ("clip:pool={a}}", "cannot read the braces in component 'clip:pool={a}}'"),
        ("clip:pool={a}b", "cannot read the braces in component 'clip:pool={a}b'"),
        ("clip:pool={}", "'' is not a component name"),
        ("clip:pool={a:b}", "cannot read 'b' in component 'a:b'"),
        ("", "'' is not a component name"),
        (3, "cannot read component 3; write 'name', 'name:key=value,key=value' or {'name': ...,"),
        ({"name": "swish", "parms": {}}, "cannot read component {'name': 'swish', 'parms': {}}"),
        ({"name": 3}, "cannot read component {'name': 3}"),
        ({"name": "swish", "params": [1]}, "cannot read component"),
        ({"params": {}}, "cannot read component"),
    ],
)
def test_what_is_no_spec_is_refused_with_the_form_to_write(wrong: Any, message: str) -> None:
    with pytest.raises(ComponentError, match=re.escape(message)):
        Spec.parse(wrong)


def test_the_closest_known_name_is_suggested() -> None:
    assert did_you_mean("rleu", ["silu", "relu"]) == "Did you mean 'relu'? Known: relu, silu"
    assert did_you_mean("xyz", ["relu"]) == "Known: relu"
    assert did_you_mean("xyz", []) == "Known: none"
