"""The librispeech recipe's schedule is its source's, counted in steps."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

import speechkit as sk
from speechkit.plugins import registry

RECIPE = Path(__file__).parents[2] / "recipes" / "librispeech"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop("run", None)
    return importlib.import_module("run")


@pytest.mark.parametrize("name", ["base", "middle", "small", "streaming"])
def test_the_learning_rate_goes_by_epochs(recipe: ModuleType, name: str) -> None:
    run = getattr(recipe, name)()
    epoch = run.eval_every
    lr = run.optimizer.params["lr"]
    factor = registry().build("schedule", run.schedule, run.steps)
    rates = [lr * factor(n * epoch) for n in range(recipe.EPOCHS)]
    assert run.steps == 260 * epoch
    assert rates[0] < rates[1] < rates[2]
    assert rates[2] == rates[142] == lr == 0.01
    assert rates[143] / rates[142] == pytest.approx(0.981, rel=1e-4)
    assert rates[259] / rates[142] == pytest.approx(0.981**117, rel=1e-2)
    assert run.schedule.params["floor"] * lr == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("name", "utterances", "batch"),
    [("base", 281_241, 1152), ("middle", 104_014, 1152), ("small", 28_539, 144)],
)
def test_an_epoch_is_one_pass(recipe: ModuleType, name: str, utterances: int, batch: int) -> None:
    run = getattr(recipe, name)()
    assert run.devices * run.data.batch_size * run.accumulate == batch
    assert 0.98 < batch * run.eval_every / utterances < 1


def test_the_streaming_net_streams_and_is_the_same_size(recipe: ModuleType) -> None:
    streaming, base = (sk.build(run().model) for run in (recipe.streaming, recipe.base))
    assert streaming.latency_s == pytest.approx(0.58)
    assert sum(p.numel() for p in streaming.parameters()) == 18_924_381
    assert {k: v.shape for k, v in base.named_parameters()} == {
        k: v.shape for k, v in streaming.named_parameters()
    }


def test_finetuning_starts_where_base_ends(recipe: ModuleType) -> None:
    assert recipe.finetune().model == recipe.base().model
    assert recipe.finetune().start_from is not None
