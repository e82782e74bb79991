"""The net of recipes/recall sees less than the gap, and its figure is that of the last frames."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

import speechkit as sk
from speechkit.models import Output

RECIPE = Path(__file__).parents[2] / "recipes" / "recall"


def module(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_the_convolutions_see_less_than_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = sk.build(module("run", monkeypatch).base().model).eval()
    gap_s = module("prepare", monkeypatch).GAP_S[0]
    x = 0.1 * torch.randn(1, 2 * model.sample_rate)
    changed = x.clone()
    changed[:, : model.sample_rate] *= -2
    with torch.inference_mode():
        differs = (model(x).scores != model(changed).scores)[0].any(1)
    last_s = int(differs.nonzero().max()) * model.frame_s
    assert 1.4 < last_s < 1 + gap_s - 0.1


def test_only_the_last_frames_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recordings of 50 and 40 frames; a net that is right in the last 0.3 s and wrong before,
    and one that has the same score in both of them."""
    module("run", monkeypatch)
    judge = module("judge", monkeypatch)
    model = sk.build(judge.run.base().model)
    batch = SimpleNamespace(targets=[torch.tensor([[1.0, 2.0]]), torch.zeros(0, 2)])
    lengths, last = torch.tensor([50, 40]), round(0.3 / model.frame_s)
    speech = torch.zeros(2, 50)
    speech[1] = 1
    speech[0, 50 - last :], speech[1, 40 - last : 40] = 2, -1
    monkeypatch.setattr(judge, "read_manifest", lambda path: path)
    for p, expected in ((speech, 1.0), (-speech, 0.0), (torch.ones(2, 50), 0.5)):
        output = Output(torch.stack([torch.zeros(2, 50), p], 2), lengths)
        monkeypatch.setattr(judge, "outputs", lambda *_, o=output: [(batch, o)])
        assert judge.recall(model, Path("dev.jsonl")) == expected


def test_a_short_name_sets_the_row_under_test(monkeypatch: pytest.MonkeyPatch) -> None:
    module("run", monkeypatch)
    judge = module("judge", monkeypatch)
    run = judge.variant(["kernel=7", "steps=3", "model.stack=serial"], seed=2)
    assert [row.kernel for row in run.model.blocks] == [5, 5, 7, 5, 1]
    assert (run.steps, run.seed) == (3, 2)
