"""Space folding: planted nets, and the regulariser."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from speechkit_methods.folding import FoldingReg, folding, walk
from torch import Tensor, nn

from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, build
from speechkit.nn import Chunk
from speechkit.probes import Examples, probe
from speechkit.probes.codes import codes_between
from speechkit.train import Run, dry_run

Codes = Callable[[Tensor], Tensor]


def chi(codes: Codes, points: int, depth: int = 0) -> float:
    return folding(*walk(codes_between(codes, points, depth)[1].double())).item()


def fold(t: Tensor, tau: float | None = None) -> Tensor:
    """Codes of relu(relu(x) + relu(−x) − ½) for x from −1 to 1."""
    x = 2 * t - 1
    units = torch.stack([x, -x, x.relu() + (-x).relu() - 0.5], dim=-1)
    return units > 0 if tau is None else torch.sigmoid(units / tau)


def test_paper_019_a_fold_of_two_layers_has_a_quarter() -> None:
    assert chi(fold, 101) == 0.25
    bits = codes_between(fold, 101, 0)[1].double()
    away, length = walk(bits)
    assert (away.max().item(), length.item()) == (3, 4)


def test_distances_are_from_the_start() -> None:
    codes = torch.tensor([[0.0, 0, 0], [1, 1, 0], [1, 1, 1], [0, 1, 1]])
    away, length = walk(codes)
    assert away.tolist() == [0, 2, 3, 2]
    assert length.item() == 4


def cantor(depth: int) -> Codes:
    """CantorNet's codes on the line from (0, ¾) to (1, ¾)."""
    inner = torch.tensor([[3.0, 0], [-3, 0], [0, 1]], dtype=torch.float64)
    shift = torch.tensor([-2.0, 1, 0], dtype=torch.float64)
    outer = torch.tensor([[1.0, 1, 0], [0, 0, 1]], dtype=torch.float64)

    def codes(t: Tensor) -> Tensor:
        x = torch.stack([t, torch.full_like(t, 0.75)], dim=1)
        bits = []
        for _ in range(depth):
            z = x @ inner.T + shift
            y = z.relu() @ outer.T
            bits += [z > 0, y > 0]
            x = y.relu()
        top = x @ torch.tensor([-0.5, 1], dtype=torch.float64) - 0.5
        return torch.cat([*bits, top[:, None] > 0], dim=1)

    return codes


@pytest.mark.parametrize(
    ("depth", "expected"), [(1, 0.5), (2, 0.6875), (3, 0.8056), (4, 0.8816), (5, 0.9295)]
)
def test_paper_002_cantor_net_has_the_numbers_of_the_paper(depth: int, expected: float) -> None:
    assert chi(cantor(depth), 1001) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_paper_019_halved_intervals_find_the_same_with_fewer_points(depth: int) -> None:
    seen = []

    def counted(t: Tensor) -> Tensor:
        seen.append(len(t))
        return cantor(depth)(t)

    assert chi(counted, 9, depth=12) == pytest.approx(chi(cantor(depth), 1001), abs=1e-12)
    assert sum(seen) < 1001 / 2


def test_paper_002_one_hidden_layer_never_folds() -> None:
    chance = torch.Generator().manual_seed(0)
    for _ in range(20):
        start, end, bias = torch.randn(3, 32, generator=chance, dtype=torch.float64)
        assert chi(lambda t, a=start, b=end, c=bias: torch.outer(t, b) + a + c > 0, 101) == 0  # type: ignore[misc]


def test_a_path_without_a_change_has_0() -> None:
    assert chi(lambda t: torch.zeros(len(t), 4), 5) == 0


def test_paper_019_soft_codes_become_hard_ones() -> None:
    t = torch.linspace(0, 1, 102, dtype=torch.float64)
    found = [folding(*walk(fold(t, tau))).item() for tau in (1.0, 0.1, 1e-4)]
    assert abs(found[1] - 0.25) < abs(found[0] - 0.25)
    assert found[2] == pytest.approx(0.25, abs=1e-6)


def test_the_probe_finds_0_in_the_first_layer_and_more_behind(run: Run) -> None:
    model = build(replace(run.model, frontend="log_mel:n_mels=16,normalize=fixed")).eval()
    found = probe(model, ["space_folding:pairs=6"], Examples(model, run.data.dev))
    values = {name: value.item() for name, value in found["space_folding:pairs=6"].items()}
    assert values["stem.after.activation/chi"] == 0
    behind = [name for name in values if name.startswith("encoder.") and name.endswith("/chi")]
    assert behind
    assert all(0 <= values[name] < 1 for name in behind)
    assert values[behind[-1]] > 0
    assert values["flips"] > 10
    both = values["chi_same"], values["chi_other"]
    assert min(both) <= values["chi"] <= max(both)


def test_the_probe_needs_a_pair(run: Run) -> None:
    model = build(run.model)
    one = Examples(model, [Examples(model, run.data.dev).utterances[0]])
    with pytest.raises(
        ComponentError, match="1 utterances; give a model with activations, and two"
    ):
        probe(model, ["space_folding"], one)
    with pytest.raises(ComponentError, match=r"points=1, .* at least 1 pair, 2 points"):
        probe(model, ["space_folding:points=1"], one)


def started(run: Run, **settings: float) -> tuple[Model, FoldingReg]:
    model = build(replace(run.model, dropout=0.0)).eval()
    method = FoldingReg(**settings)  # type: ignore[arg-type]
    method.start(model, None)  # type: ignore[arg-type]
    return model, method


def features(rows: int) -> Chunk:
    chance = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(rows, 40, 16, generator=chance).transpose(1, 2)
    return Chunk.of(x, torch.tensor([40, 30, 25, 40, 33][:rows]))


def slope(model: Model) -> float:
    gradient = model.get_parameter("stem.body.0.channel.weight").grad
    assert gradient is not None
    return gradient.abs().max().item()


def test_paper_019_the_gradient_is_that_of_the_folds_behind_the_first_layer(run: Run) -> None:
    model, method = started(run, weight=2.0)
    given = features(4)
    losses = method.extra_loss(None, None, given)  # type: ignore[arg-type]
    assert losses is not None
    # rows 0 and 2 are a pair, and rows 1 and 3
    assert torch.equal(losses[:2], losses[2:])
    chi = method.chi(given.x[:1], given.x[2:3], given.valid[:1] & given.valid[2:3])
    torch.testing.assert_close(losses[:1], -2 * chi)
    assert (losses < 0).all()
    losses.mean().backward()
    assert slope(model) > 0
    # without the layers behind, nothing folds
    model, method = started(run)
    method.layers = {name: x for name, x in method.layers.items() if name.startswith("stem")}
    (chi,) = method.chi(given.x[:1], given.x[2:3], given.valid[2:3])
    assert chi.item() == pytest.approx(0, abs=1e-5)
    chi.backward()
    assert slope(model) < 1e-5


def test_it_computes_in_evaluation_and_changes_no_buffer(run: Run) -> None:
    model, method = started(run)
    given, before = features(4), {name: x.clone() for name, x in model.named_buffers()}
    expected = method.extra_loss(None, None, given)  # type: ignore[arg-type]
    model.train()
    found = method.extra_loss(None, None, given)  # type: ignore[arg-type]
    assert expected is not None
    assert found is not None
    assert torch.equal(found, expected)
    assert model.training
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_frames_that_only_one_utterance_has_do_not_count(run: Run) -> None:
    _, method = started(run)
    given = features(2)
    both = given.valid[:1] & given.valid[1:]
    x = given.x.masked_fill(~both[:, None].expand_as(given.x), torch.nan)
    cut = x[:, :, : int(both.sum())]
    expected = method.chi(cut[:1], cut[1:], both[:, : cut.shape[2]])
    torch.testing.assert_close(method.chi(x[:1], x[1:], both), expected)


def test_with_hard_codes_it_is_the_probe(run: Run) -> None:
    model = build(replace(run.model, frontend="log_mel:n_mels=16,normalize=fixed")).eval()
    examples = Examples(model, Examples(model, run.data.dev).utterances[:2])
    name = "space_folding:pairs=1,points=8"
    expected = probe(model, [name], examples)[name]["chi"].item()
    method = FoldingReg(tau=1e-7)
    method.start(model, None)  # type: ignore[arg-type]
    ((_, given),) = examples
    first = torch.randperm(2, generator=torch.Generator().manual_seed(0)).tolist()[0]
    ends = given.x[[first]], given.x[[1 - first]]
    found = method.chi(*ends, given.valid[:1] & given.valid[1:]).item()
    assert found == pytest.approx(expected, abs=1e-3)


def test_a_single_row_has_no_pair_and_an_odd_one_no_loss(run: Run) -> None:
    _, method = started(run)
    assert method.extra_loss(None, None, features(1)) is None  # type: ignore[arg-type]
    losses = method.extra_loss(None, None, features(5))  # type: ignore[arg-type]
    assert losses is not None
    assert losses[:4].all()
    assert not losses[4]


def test_a_model_without_activations_is_refused() -> None:
    with pytest.raises(TrainingError, match="folding_reg: the model has no activation; leave it"):
        FoldingReg().start(nn.Linear(2, 2), None)  # type: ignore[arg-type]


def test_settings_out_of_range_are_refused(run: Run) -> None:
    for method in ("folding_reg:weight=-1", "folding_reg:tau=0", "folding_reg:points=2"):
        with pytest.raises(ComponentError, match="a tau above 0 and at least 3 points"):
            dry_run(replace(run, method=(method,)))
