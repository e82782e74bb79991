"""Configs as plain data, and back."""

import json
import math
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechkit.checkpoint import AnyNet
from speechkit.component import Spec
from speechkit.config import (
    Config,
    check_processes,
    check_range,
    from_dict,
    override,
    to_dict,
    write_json,
)
from speechkit.decode.fusion import Search
from speechkit.errors import ConfigError, SpeechkitError
from speechkit.models import Block, MarbleNet, MatchboxNet, Net, QuartzNet
from speechkit.plans.about import About, Facts
from speechkit.plans.plan import _Stored
from speechkit.rules.endpointing import Endpointing
from speechkit.rules.spotting import Spotting
from speechkit.rules.vad import PostProcessing
from speechkit.serve.settings import Limits, Settings
from speechkit.train import Data, Run

NETS = [
    QuartzNet(size="5x5", activation="hardtanh:high=6", lookahead=3),
    QuartzNet(labels=("a", "b"), blocks=(Block(channels=4, kernel=3),), dropout=0.1),
    MatchboxNet(labels=("yes", "no"), lookahead=("same", 1, 2, 3, 4, 0)),
    MarbleNet(),
    MarbleNet(frame_level=True, norm={"name": "batch", "params": {"eps": 1e-5}}),  # type: ignore[arg-type]
]


@pytest.fixture
def run() -> Run:
    return Run(
        model=QuartzNet(size="5x5"),
        data=Data(train=Path("train.jsonl"), dev=Path("dev.jsonl")),
        steps=10,
        optimizer="adamw:lr=0.001",
        augment=("gain", "spec_augment:time_masks=1"),
        loss="ctc",
    )


@pytest.mark.parametrize("config", NETS, ids=lambda c: c.kind)
def test_a_net_comes_back_from_json_as_it_was(config: Net) -> None:
    again = from_dict(AnyNet, json.loads(json.dumps(to_dict(config))))
    assert again == config
    assert type(again) is type(config)


def test_a_run_comes_back_from_json_as_it_was(run: Run) -> None:
    assert from_dict(Run, json.loads(json.dumps(to_dict(run)))) == run


def test_components_are_stored_in_their_canonical_form(run: Run) -> None:
    stored = to_dict(run)
    assert stored["optimizer"] == {"name": "adamw", "params": {"lr": 0.001}}
    assert stored["augment"][0] == {"name": "gain", "params": {}}
    assert stored["data"]["train"] == "train.jsonl"


def test_kind_distinguishes_the_families() -> None:
    assert isinstance(from_dict(AnyNet, {"kind": "marblenet"}), MarbleNet)
    with pytest.raises(ConfigError, match="quartzne"):
        from_dict(AnyNet, {"kind": "quartzne"})
    with pytest.raises(ConfigError, match="kind"):
        from_dict(AnyNet, {})


@pytest.mark.parametrize(
    ("path", "key", "where"),
    [
        (("model", "blocks", 0), "kernl", "blocks.0.kernl"),
        (("model",), "activatoin", "activatoin"),
        (("data",), "trian", "data.trian"),
        ((), "stpes", "stpes"),
    ],
)
def test_an_unknown_key_is_named_with_its_path(
    run: Run, path: tuple[Any, ...], key: str, where: str
) -> None:
    data = to_dict(run)
    target = data
    for part in path:
        target = target[part]
    target[key] = 3
    with pytest.raises(ConfigError, match=rf"^config: .*{where} - Unexpected keyword argument"):
        from_dict(Run, data)


def test_a_value_that_is_no_config_is_refused_without_a_path() -> None:
    with pytest.raises(ConfigError, match=r"^postprocess\.onset: Input should be a valid number"):
        from_dict(float, "high", "postprocess.onset")


def test_override_sets_nested_fields_and_leaves_the_original(run: Run) -> None:
    changed = override(
        run,
        [
            "steps=100",
            "model.activation=silu",
            "model.size=custom",
            "model.blocks.1.kernel=11",
            "model.lookahead=3",
            "data.train=other.jsonl",
            "model.frontend.params={}",
            "augment.0=shift:max_ms=2",
            "schedule=cosine:floor=0.1",
            "clip_norm=null",
        ],
    )
    assert changed.steps == 100
    assert changed.model.activation == Spec("silu")
    assert [b.kernel for b in changed.model.blocks[:3]] == [33, 11, 39]
    assert changed.model.lookahead == 3
    assert changed.data.train == Path("other.jsonl")
    assert changed.augment[0] == Spec("shift", {"max_ms": 2})
    assert changed.augment[1] == run.augment[1]
    assert changed.schedule == Spec("cosine", {"floor": 0.1})
    assert run.steps == 10
    assert run.model.blocks[1].kernel == 33


def test_override_reads_lists(run: Run) -> None:
    model = {"name": "gelu", "params": {"approx": "tanh"}}
    changed = override(run, [f"model.activation={json.dumps(model)}", 'augment=["gain"]'])
    assert changed.model.activation == Spec("gelu", {"approx": "tanh"})
    assert changed.augment == (Spec("gain"),)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("steps", "--set 'steps': write path=value"),
        ("stepps=3", "--set stepps: no 'stepps' there. Did you mean 'steps'?"),
        ("model.blocks.99.kernel=3", "--set model.blocks.99.kernel: no '99' there. Known: 0, 1,"),
        ("model.blocks.x=3", "--set model.blocks.x: no 'x' there. "),
        ("steps.deeper=3", "--set steps.deeper: no 'deeper' there. Known: none"),
        ("steps=many", "--set: steps - Input should be a valid integer"),
        ("steps=0", "steps=0: give a number from 1 to 1e+09"),
        ("model.activation=a:b", "cannot read 'b' in component 'a:b'"),
        ("model.blocks.0.kernel=0", "block kernel=0: give a number from 1 to 65536"),
        ("model.lookahead=[1,2]", "lookahead has 2 entries for 8 blocks"),
        ("model.labels=[]", "labels=(): give at least one label"),
        ("model.behaviour=2", "behaviour=2: this version knows behaviour 1"),
    ],
)
def test_a_wrong_override_is_refused_in_one_line(run: Run, assignment: str, message: str) -> None:
    with pytest.raises(SpeechkitError) as caught:
        override(run, [assignment])
    assert str(caught.value).startswith(message)
    assert len(str(caught.value).splitlines()) == 1


TOO_LARGE = [
    "model.blocks.1.copies=1000000000000000000",
    "model.blocks.1.repeat=1000000000000000000",
    "model.blocks.1.channels=100000",
    "model.blocks.1.kernel=100000",
    "model.blocks.1.dilation=65000",
    "model.blocks.0.stride=100000",
    'model.blocks=[{"channels":8,"kernel":3,"stride":2,"copies":30}]',
    'model.blocks=[{"channels":60000,"kernel":3,"separable":false,"copies":2}]',
    "model.sample_rate=1",
    "model.sample_rate=1000000000",
    "model.lookahead=1000000",
    "model.lookahead=-1",
    "model.dropout=2",
    "model.endpointing.longest_s=1e9",
    "model.frontend=log_mel:window_s=1e9",
    "model.frontend=log_mel:n_fft=1000000000",
    "model.mixer=depthwise:taps=1000000000",
    "augment.0=shift:max_ms=1e14",
    "augment.0=spec_cutout:rects=1000000000",
    "data.workers=100000",
    "data.max_duration_s=1e9",
    "devices=100000",
    "steps=10000000000",
]


@pytest.mark.parametrize("assignment", TOO_LARGE)
def test_a_number_that_sizes_work_has_a_limit(run: Run, assignment: str) -> None:
    with pytest.raises(ConfigError, match=r"give a (finite )?number") as caught:
        override(run, ["model.size=custom", assignment])
    assert len(str(caught.value)) < 450


@pytest.mark.parametrize("size", ["1000000000x1x1", "9999x1x1", "3x9999x1", "3x1x99999"])
def test_a_size_by_name_has_a_limit(size: str) -> None:
    with pytest.raises(ConfigError):
        MatchboxNet(size=size, labels=("a", "b"))


CONFIGS: dict[type[Config], dict[str, Any]] = {
    PostProcessing: {},
    Spotting: {},
    Limits: {},
    Settings: {},
    Endpointing: {},
    Search: {
        "beam": 8,
        "alpha": 0.5,
        "length_bonus": 0.0,
        "unk_score": -3.0,
        "hotword_boost": 5.0,
        "min_log_prob": -7.0,
        "margin": 16.0,
    },
    Block: {"channels": 1, "kernel": 1},
    QuartzNet: {},
    MatchboxNet: {"labels": ("a", "b")},
    MarbleNet: {},
    Data: {"train": Path("a"), "dev": Path("a")},
    About: {
        "kind": "marblenet",
        "task": "frame",
        "verb": "detect",
        "decodes": False,
        "per_clip": False,
        "labels": ("background", "speech"),
        "sample_rate": 16000,
        "stride": 160,
        "rate": 1,
        "delay": 0,
        "shortest": 1,
        "block_s": 0.08,
    },
    Run: {"model": MarbleNet(), "data": Data(train=Path("a"), dev=Path("a")), "steps": 1},
}


def test_every_config_has_the_same_base() -> None:
    """Those that a subclass adds are found here too."""

    def below(kind: type) -> set[type]:
        return {kind, *(leaf for sub in kind.__subclasses__() for leaf in below(sub))}

    ours = {kind for kind in below(Config) if kind.__module__.startswith("speechkit.")}
    # a plan's file is no setting of anyone
    assert ours - {Config, Net, Facts, _Stored} == set(CONFIGS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
@pytest.mark.parametrize("kind", CONFIGS)
def test_no_field_takes_a_number_that_is_not_finite(kind: type[Config], value: float) -> None:
    given = CONFIGS[kind]
    for field in fields(kind):  # type: ignore[arg-type]
        if field.type in (int, float, int | None, float | None):
            with pytest.raises(ConfigError, match=f"{field.name}: it holds .* finite number"):
                kind(**{**given, field.name: value})


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e400", "1" + "0" * 400])
@pytest.mark.parametrize("path", ["clip_norm", "model.dropout", "optimizer.params.lr"])
def test_no_override_takes_one_either(run: Run, path: str, text: str) -> None:
    if path != "optimizer.params.lr":
        with pytest.raises(ConfigError):
            override(run, [f"{path}={text}"])
    with pytest.raises(ConfigError, match="finite number"):
        override(run, [f"optimizer=adamw:lr={text}"])


def test_lists_in_the_text_of_a_component_stay_text(run: Run) -> None:
    deep = "[" * 100_000
    assert override(run, [f"model.activation=relu:a={deep}"]).model.activation.params["a"] == deep


def test_parameters_of_nested_components_have_limits_too() -> None:
    with pytest.raises(ConfigError, match="head clip: pool average: n_s=100000: give a number"):
        MatchboxNet(labels=("a", "b"), head="clip:pool={average:n_s=100000}")


def test_parameters_of_components_are_finite_too() -> None:
    with pytest.raises(ConfigError, match="activation swish: beta: it holds nan"):
        MarbleNet(activation=Spec("swish", {"beta": math.nan}))


@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_what_is_nested_too_deep_is_refused_in_one_line(run: Run, opening: str) -> None:
    deep = opening * 100_000
    for assignment in (
        f"model.blocks={deep}",
        f"steps={deep}",
        f"model.activation=relu:a={{{deep}",
    ):
        with pytest.raises(SpeechkitError) as caught:
            override(run, [assignment])
        assert len(str(caught.value).splitlines()) == 1
    data: list[Any] = []
    for _ in range(5000):
        data = [data]
    with pytest.raises(ConfigError, match="config: it is nested deeper than 64 levels"):
        from_dict(Run, {**to_dict(run), "augment": data})


@given(st.text(), st.text())
def test_any_override_works_or_is_refused_as_ours(path: str, value: str) -> None:
    model = MarbleNet()
    for assignment in (f"{path}={value}", f"init={value}", f"blocks.{path}={value}"):
        with suppress(SpeechkitError):
            assert isinstance(override(model, [assignment]), MarbleNet)


def test_json_is_written_for_people(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"label": "ünï", "n": [1]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert '"label": "ünï"' in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"label": "ünï", "n": [1]}


@pytest.mark.parametrize("name", ["devices", "data.workers"])
def test_more_processes_than_the_machine_bears_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name}=1000: give a number from 1 to \d+"):
        check_processes(name, 1000)
    check_processes(name, 2)


def test_a_number_of_many_digits_is_out_of_range_too() -> None:
    with pytest.raises(ConfigError, match="order=a large number: give a number from 1 to 16"):
        check_range("order", 10**400, 1, 16)
