"""Prepared models say what the original says, offline and in sessions, and refuse the rest."""

import itertools
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import speechkit as sk
from speechkit.data import read_audio, read_manifest
from speechkit.errors import ConfigError
from speechkit.events import Event, to_row
from speechkit.export import export
from speechkit.models import Model, Prepared
from speechkit.models.profile import profile
from speechkit.native.libraries import load
from speechkit.ops.separable_conv import cpu
from speechkit.streaming.engines import choice
from speechkit.testing import assert_close

compiled = pytest.mark.skipif(isinstance(load(cpu.SOURCE), str), reason="there is no C++ compiler")
PRECISIONS = [
    pytest.param("float32", 1e-5, id="float32"),
    pytest.param("bfloat16", 0.02, id="bfloat16"),
    pytest.param("int8", 0.04, id="int8", marks=compiled),
]
BLOCKS = (
    sk.Block(channels=64, kernel=11, stride=2),
    sk.Block(channels=64, kernel=13, repeat=3, residual=True),
    sk.Block(channels=96, kernel=15, dilation=2),
    sk.Block(channels=128, kernel=1, separable=False),
)


def quartznet() -> Model:
    """An untrained net whose norms are those of real sound."""
    config = sk.QuartzNet(blocks=BLOCKS, lookahead=2, frontend="log_mel:normalize=fixed")
    model = sk.build(config)
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith(("running_var", "std")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif name.endswith(("running_mean", "bias", ".mean")):
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model.eval()


MODELS = {"marblenet": sk.load("vad"), "matchboxnet": sk.load("digits"), "quartznet": quartznet()}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Model:
    return MODELS[request.param]


def sound(model: Model) -> Tensor:
    """Three of the bundled clips, with near silence around them."""
    pause = torch.randn(model.sample_rate // 2, generator=torch.Generator().manual_seed(0)) * 1e-4
    folder = Path(str(files("speechkit"))) / "bundled" / "clips"
    parts = [pause]
    for clip in read_manifest(folder / "clips.jsonl")[:3]:
        parts += [read_audio(clip.audio, target_rate=model.sample_rate), pause]
    return torch.cat(parts)


@torch.inference_mode()
def scores(model: Model) -> Tensor:
    """Those of a ragged batch, at valid frames."""
    whole = sound(model)
    x = torch.stack([whole, whole.flip(0)])
    y = model(x, torch.tensor([x.shape[1], x.shape[1] // 3]))
    if model.per_clip:
        return y.scores
    return torch.cat([row[:length] for row, length in zip(*y, strict=True)])


def fed(model: Model, cuts: list[int]) -> list[Any]:
    x, stream = sound(model), sk.stream(model)
    edges = [0, *cuts, len(x)]
    parts = [x[start:end] for start, end in itertools.pairwise(edges)]
    return [event for part in parts for event in stream.feed(part)] + stream.finish()


class Recorder:
    """A listener whose events are the scores themselves."""

    def init(self) -> None:
        return None

    def step(self, state: None, scores: np.ndarray, decided_s: float) -> tuple[None, list[Tensor]]:
        return None, list(torch.from_numpy(scores))

    def finish(self, state: None, decided_s: float) -> list[Tensor]:
        return []


@pytest.mark.parametrize(("dtype", "error"), PRECISIONS)
def test_scores_are_the_originals(model: Model, dtype: Any, error: float) -> None:
    prepared = sk.prepare(model, dtype=dtype)
    assert prepared.prepared == Prepared(dtype, "auto")
    assert_close(dtype, scores(model), scores(prepared), error)


@pytest.mark.parametrize("impl", ["torch", "reference"])
def test_the_implementation_asked_for_computes(model: Model, impl: str) -> None:
    prepared = sk.prepare(model, impl)
    assert prepared.prepared == Prepared("float32", impl)
    ran = {c.impl for c in sk.ops.explain(prepared) if c.op == "separable_conv"}
    assert ran == {impl}
    assert_close(impl, scores(model), scores(prepared), 1e-5)


def test_float64_stays_float64() -> None:
    model = quartznet().double()
    x = sound(model).double()[None]
    with torch.inference_mode():
        expected, got = model(x).scores, sk.prepare(model)(x).scores
    assert_close("float64", expected, got, 1e-12)


def test_the_original_stays_as_it_is() -> None:
    model = quartznet().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    prepared = sk.prepare(model)
    assert model.training
    assert model.prepared is None
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not prepared.training
    assert not any(p.requires_grad for p in prepared.parameters())
    for value in model.state_dict().values():
        value.zero_()
    assert_close("prepared", scores(MODELS["quartznet"]), scores(prepared), 1e-5)


def test_threads_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    sk.prepare(MODELS["marblenet"])
    sk.prepare(MODELS["marblenet"], threads=2)
    assert asked == [2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dtype": "float16"}, "dtype='float16': give one of float32, bfloat16, int8"),
        ({"dtype": torch.bfloat16}, "dtype=torch.bfloat16: give one of float32, bfloat16, int8"),
        ({"impl": "fast"}, "no implementation 'fast'. Known: cpu, numba, reference, torch, triton"),
        (
            {"impl": "torch", "dtype": "int8"},
            "implementation 'torch': it has no int8; use 'auto'",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        sk.prepare(MODELS["marblenet"], **given)
    assert str(raised.value) == message


def test_a_prepared_model_is_not_prepared_again() -> None:
    with pytest.raises(
        ConfigError, match=r"prepared already, in float32; prepare the one it was made of$"
    ):
        sk.prepare(sk.prepare(MODELS["marblenet"]), dtype="int8")


def test_a_prepared_model_is_not_saved(tmp_path: Path) -> None:
    prepared = sk.prepare(MODELS["marblenet"])
    with pytest.raises(ConfigError, match=r"save the one it was made of$"):
        sk.save(prepared, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"export the one it was made of$"):
        export(prepared, tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"profile the one it was made of$"):
        profile(prepared)
    assert not any(tmp_path.iterdir())


def test_threads_are_at_least_one() -> None:
    with pytest.raises(ConfigError, match="threads=0: give at least 1"):
        sk.prepare(MODELS["marblenet"], threads=0)


@compiled
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_sessions_are_native(model: Model, dtype: Any) -> None:
    assert sk.stream(sk.prepare(model, dtype=dtype)).backend == "native"


def test_sessions_run_the_implementation_it_was_prepared_with() -> None:
    stream = sk.stream(sk.prepare(MODELS["marblenet"], impl="torch"))
    assert stream.backend.startswith("torch: ")


@pytest.mark.parametrize("impl", [None, "torch"])
def test_events_are_the_originals(model: Model, impl: str | None) -> None:
    def rows(events: list[Event]) -> list[dict[str, Any]]:
        # a score, and those of a text's words, are rounded as floats are
        return [{**to_row(event), "score": None, "words": None} for event in events]

    expected = fed(model, [5000, 5001, 9000])
    assert expected
    assert rows(fed(sk.prepare(model, impl), [5000, 5001, 9000])) == rows(expected)


@pytest.mark.parametrize(("dtype", "error"), PRECISIONS)
def test_sessions_give_the_same_bits_however_they_are_fed(
    model: Model, dtype: Any, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "listener_of", lambda *_: Recorder())
    prepared = sk.prepare(model, dtype=dtype)
    whole = torch.stack(fed(prepared, []))
    for each in (160, 1600, 2999):
        cut = torch.stack(fed(prepared, list(range(each, len(sound(model)), each))))
        assert torch.equal(whole, cut)
    assert_close(dtype, torch.stack(fed(model, [])), whole, error)
