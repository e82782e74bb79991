"""The English recipe cuts its student out of the teacher, tap by tap and scale by scale."""

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

import speechkit as sk

RECIPE = Path(__file__).parents[2] / "recipes" / "english"


@pytest.fixture
def student(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(RECIPE))
    for name in ("run", "student"):
        sys.modules.pop(name, None)
    return importlib.import_module("student")


def test_the_student_is_the_teacher_where_it_may_look(student: ModuleType) -> None:
    teacher = sk.build(sk.QuartzNet(size="15x5", norm="none"), seed=1)
    model = student.cut(teacher)
    theirs, own = teacher.state_dict(), model.state_dict()
    for name, source in (("stem.body.0", "stem.body.0"), ("encoder.3.sum.body.2",) * 2):
        source = source.replace("encoder.3", "encoder.9")
        taps, centre = own[f"{name}.mixer.weight"], theirs[f"{source}.mixer.weight"].shape[2] // 2
        ahead = taps.shape[2] - 1 - centre
        assert ahead == (5 if name.startswith("stem") else 2)
        assert torch.equal(taps, theirs[f"{source}.mixer.weight"][..., : centre + 1 + ahead])
        assert torch.equal(own[f"{name}.channel.weight"], theirs[f"{source}.channel.weight"])
    assert torch.equal(own["head.linear.weight"], theirs["head.linear.weight"])


def test_fresh_norms_change_nothing_at_first(student: ModuleType) -> None:
    teacher = sk.build(sk.QuartzNet(size="15x5", norm="none"), seed=1).eval()
    model = student.cut(teacher)
    plain = sk.build(replace(model.config, norm="none")).eval()
    weights = {n.replace(".norm.", ".norm.module."): x for n, x in model.state_dict().items()}
    plain.load_state_dict({n: x for n, x in weights.items() if n in plain.state_dict()})
    audio = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0)) / 10
    student.scale_norms(model, [audio[0], audio[1, :5000]])
    lengths = torch.tensor([8000, 5000])
    with torch.inference_mode():
        expected, found = plain(audio, lengths).scores, model(audio, lengths).scores
    torch.testing.assert_close(found[0], expected[0], rtol=1e-3, atol=1e-3)
