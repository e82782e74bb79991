"""The english recipe's student is what its README's transform makes of the teacher."""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import speechkit as sk
from speechkit.component import Spec
from speechkit.transforms.fit import Fit

RECIPE = Path(__file__).parents[2] / "recipes" / "english"


def test_the_transform_of_the_readme_makes_the_student(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    monkeypatch.delitem(sys.modules, "run", raising=False)
    student = importlib.import_module("run").student()
    command = re.search(r'--with "(fit:[^"]+)"', (RECIPE / "README.md").read_text())
    assert command is not None
    spec = Spec.parse(command[1])
    assert spec.name == "fit"
    teacher = sk.QuartzNet(size="15x5", norm="none")
    made = Fit(**spec.params).student(teacher)
    assert made.rows() == student.rows()
    assert replace(made, size="", blocks=(), lookahead="same", dropout=0.0) == replace(
        student, size="", blocks=(), lookahead="same"
    )
