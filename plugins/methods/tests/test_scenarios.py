"""What theory papers predict, tried: it holds, and without what it needs it does not."""

import json
from collections.abc import Callable

import pytest
import torch
from speechkit_methods import scenarios
from speechkit_methods.scenarios import (
    SCENARIOS,
    Finding,
    early_alignment,
    easy_filter,
    feature_amplification,
    find_then_tune,
    solved_xor,
)

from speechkit.cli import main


@pytest.mark.parametrize("name", SCENARIOS)
def test_what_the_paper_predicts_holds(name: str) -> None:
    finding = SCENARIOS[name]()
    assert finding.holds, finding


@pytest.mark.parametrize(
    "without",
    [
        lambda: feature_amplification(rate=0.01),
        lambda: early_alignment(size=0.1),
        lambda: find_then_tune(rate=0.3),
        lambda: easy_filter(steps=80),
    ],
    ids=["hardly trained", "large weights", "too slow", "too short"],
)
def test_it_does_not_hold_without_what_it_needs(without: Callable[[], Finding]) -> None:
    assert not without().holds


def test_paper_012_neurons_align_with_what_no_line_separates() -> None:
    measured = feature_amplification().measured
    assert measured["accuracy of a linear rule"] <= 0.55
    assert measured["of the net"] >= 0.98
    assert measured["share of neurons with |cos| > 0.8 at first"] < 0.01
    assert measured["in the end"] > 0.8


def test_paper_017_the_alignment_comes_before_the_loss_falls_and_needs_small_weights() -> None:
    small, large = early_alignment(), early_alignment(size=0.1)
    assert small.measured["mean cos at first"] < 0.1
    assert small.measured["when the loss is 1 % lower"] > 0.99
    assert small.measured["stable rank of the weights then"] < 1.1
    assert large.measured["when the loss is 1 % lower"] < 0.5
    assert large.measured["stable rank of the weights then"] > 3


def test_paper_021_the_two_inputs_are_found_first() -> None:
    measured = find_then_tune().measured
    # 2 of 40 inputs
    first = measured["share of the two inputs in the weights at first"]
    assert first == pytest.approx(0.05, rel=0.15)
    assert measured["after 1600 examples"] > 3 * first
    assert measured["after 1600"] > 0.9 * measured["loss at first"]
    assert measured["after 6400 examples"] < 0.2 * measured["loss at first"]


@pytest.mark.parametrize("rate", [0.03, 0.3, 0.5])
def test_paper_039_prelu_solves_xor_of_signs_and_not_of_bits(rate: float) -> None:
    assert solved_xor(rate) == 20
    assert 3 < solved_xor(rate, bipolar=False) < 20


def test_paper_039_with_bits_a_point_without_a_gradient_stops_it() -> None:
    bits = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    w = torch.full((2,), 1 / 3, requires_grad=True)
    slope = torch.tensor([0.25], requires_grad=True)
    y = torch.nn.functional.prelu(bits @ w, slope)
    (y - torch.tensor([0.0, 1.0, 1.0, 0.0])).square().mean().backward()
    torch.testing.assert_close(w.grad, torch.zeros(2), rtol=0, atol=1e-6)
    assert slope.grad == 0


def test_paper_075_equal_patches_are_learned_in_half_the_steps() -> None:
    measured = easy_filter().measured
    assert measured["recovered"] == 10
    assert measured["with an angle that never grows"] >= 9
    assert measured["steps for equal patches"] < 0.6 * measured["steps"]


def test_the_command_prints_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["verify", "prelu_xor", "find_then_tune"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["holds", "prelu_xor"],
        ["holds", "find_then_tune"],
    ]
    assert "arXiv:2409.10821" in lines[0]
    assert "least of 20 at three learning rates 20" in lines[0]
    assert main.run(["verify", "prelu_xor", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["holds"] is True
    assert row["measured"]["most with a fixed slope"] == 0


def test_the_command_ends_with_1_where_one_does_not_hold(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Finding("arXiv:1", "it is 2", {"it": 1.0}, holds=False)
    right = Finding("arXiv:2", "it is 1", {"it": 1.0}, holds=True)
    monkeypatch.setattr(scenarios, "SCENARIOS", {"a": lambda: wrong, "b": lambda: right})
    assert main.run(["verify", "a", "b"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "DOES NOT HOLD  a (arXiv:1): it is 2; measured: it 1",
        "holds  b (arXiv:2): it is 1; measured: it 1",
    ]
    assert main.run(["verify", "c"]) == 1
    assert "no experiment 'c'. Known: a, b" in capsys.readouterr().err
