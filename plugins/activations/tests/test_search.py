import json
import math
from pathlib import Path

import pytest
import torch
from speechkit_activations.compose import BINARY, UNARY, Composed, small_space
from speechkit_activations.search import Leaderboard, evolution, exhaustive
from torch import Tensor, nn

from speechkit.cli.main import run as speechkit
from speechkit.errors import ComponentError, ConfigError, TrainingError
from speechkit.plugins import registry
from speechkit.testing import assert_close

RECIPE = """
from pathlib import Path
from speechkit import Block, MatchboxNet, Run
from speechkit.train import Data

def base() -> Run:
    blocks = Block(channels=8, kernel=5, stride=2), Block(channels=8, kernel=1, separable=False)
    net = MatchboxNet(labels=("low", "high"), blocks=blocks, frontend="log_mel:n_mels=16")
    tones = Path(__file__).with_name("tones.jsonl")
    return Run(model=net, data=Data(train=tones, dev=tones, batch_size=4), steps=2)
"""


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("x mul sigmoid", lambda x: x * torch.sigmoid(x)),
        ("x max sigmoid", lambda x: torch.maximum(x, torch.sigmoid(x))),
        ("cos sub x", lambda x: torch.cos(x) - x),
        ("x min sin", lambda x: torch.minimum(x, torch.sin(x))),
        ("sinc add x", lambda x: torch.where(x == 0, 1, torch.sin(x) / x) + x),
        ("x max tanh", lambda x: torch.maximum(x, torch.tanh(x))),
        ("atan mul atan; x sub x", lambda x: torch.atan(x) ** 2 - x),
        ("asinh mul asinh; x mul x", lambda x: x * torch.asinh(x) ** 2),
        ("sigmoid gate x", lambda x: torch.sigmoid(torch.sigmoid(x)) * x),
    ],
)
def test_paper_011_formulas_it_found(formula: str, expected: object, line: Tensor) -> None:
    assert_close(formula, expected(line), Composed(1, formula)(line), 1e-12)  # type: ignore[operator]


def test_paper_011_every_word_computes_and_learns() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)[None, None]
    for word in UNARY:
        assert torch.isfinite(Composed(1, f"{word} add x").double()(x)).all(), word
    for word in BINARY:
        module = Composed(1, f"exp {word} scale").double()
        assert torch.isfinite(module(x)).all(), word
        module(x).sum().backward()
        assert all(p.grad is not None for p in module.parameters()), word
    assert Composed(1, "scale mix shift").double()(x).flatten().tolist() == x.flatten().tolist()


def test_an_unreadable_formula_is_an_error_that_lists_the_words() -> None:
    for formula in ("x mul", "x times x", "relu6 mul x", ""):
        with pytest.raises(ComponentError, match="write 'u binary v'"):
            registry().build("activation", {"name": "composed", "params": {"formula": formula}}, 4)


def test_the_small_space() -> None:
    space = small_space()
    assert len(space) == len(set(space)) == 57
    assert {"x mul sigmoid", "x add x"} <= set(space)


def toy(formula: str) -> float:
    """The error of three small nets, side by side, that learn which points lie in a ring."""
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(3, 2, 128, generator=chance)
    target = (x.norm(dim=1, keepdim=True) > 1.2).float()
    activation = Composed(16, formula)
    weights = [
        torch.randn(3, *shape, generator=chance).div(shape[1] ** 0.5).requires_grad_()
        for shape in ((16, 2), (16, 1), (1, 16), (1, 1))
    ]
    optimizer = torch.optim.Adam(weights, lr=0.03)
    for _ in range(40):
        optimizer.zero_grad()
        w, b, v, c = weights
        scores = v @ activation(w @ x + b) + c
        loss = nn.functional.binary_cross_entropy_with_logits(scores, target)
        loss.backward()
        optimizer.step()
    if not math.isfinite(loss.item()):
        raise TrainingError("loss is not finite")
    return loss.item()


def test_paper_011_the_search_puts_swish_above_and_the_line_below(tmp_path: Path) -> None:
    board = Leaderboard(tmp_path / "board.json", toy)
    exhaustive(board, small_space(), 60)
    order = [row["formula"] for row in board.rows()]
    assert len(order) == 57
    assert order.index("x mul sigmoid") < len(order) / 2 <= order.index("x add x")


def judge(formula: str) -> float:
    if "exp" in formula:
        raise TrainingError(f"loss is nan: {formula}")
    return float(len(formula))


def test_failures_are_recorded_and_a_board_goes_on(tmp_path: Path) -> None:
    board = Leaderboard(tmp_path / "board.json", judge)
    exhaustive(board, ["x add tanh", "exp mul x", "x mul x"], 2)
    rows = json.loads(board.path.read_text())
    assert rows == [
        {"formula": "x add tanh", "error": 10.0, "reason": ""},
        {"formula": "exp mul x", "error": None, "reason": "loss is nan: exp mul x"},
    ]

    def unseen(formula: str) -> float:
        assert formula == "x mul x", "the others have been judged"
        return 1.0

    again = Leaderboard(board.path, unseen)
    exhaustive(again, ["x add tanh", "exp mul x", "x mul x"], 3)
    assert [row["formula"] for row in again.rows()] == ["x mul x", "x add tanh", "exp mul x"]


def test_evolution_improves_and_repeats_itself(tmp_path: Path) -> None:
    def distance(formula: str) -> float:
        x = torch.linspace(-2, 2, 41)[None, None]
        error = (Composed(1, formula)(x) - x * torch.sigmoid(x)).square().mean().item()
        if not math.isfinite(error):
            raise TrainingError("not finite")
        return error

    boards = [Leaderboard(tmp_path / f"{index}.json", distance) for index in range(2)]
    for board in boards:
        evolution(board, 150, seed=1)
    assert boards[0].rows() == boards[1].rows()
    judged = [error for error in boards[0].errors.values() if error is not None]
    assert min(judged) < min(judged[:10]) / 2
    for formula in boards[0].errors:
        Composed(1, formula)


def test_the_command_trains_a_recipe(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "run.py"
    recipe.write_text(RECIPE)
    out = tmp_path / "out"
    command = ["search-activations", str(recipe), "--out", str(out), "--set", "steps=1"]
    assert speechkit([*command, "--budget", "2"]) == 0
    assert "x mul relu" in capsys.readouterr().out
    assert speechkit([*command, "--budget", "3", "--search", "evolution", "--json"]) == 0
    rows = json.loads((out / "leaderboard.json").read_text())
    assert len(rows) == 5
    assert all(row["error"] is not None or row["reason"] for row in rows)
    assert (out / "x-mul-relu" / "best" / "config.json").is_file()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * 100_000, "nested deeper"),
        ("{", "not JSON"),
        ('[{"formula": "x add x"}]', "0.error"),
        ('[{"formula": "x add x", "error": "low", "reason": ""}]', "0.error"),
    ],
)
def test_a_damaged_leaderboard_is_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "board.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"board\.json: .*{says}"):
        Leaderboard(tmp_path / "board.json", lambda formula: 0.0)
