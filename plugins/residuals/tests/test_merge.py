"""LAuReL, as a merge rule and over earlier activations."""

import pytest
import torch
from speechkit_residuals.laurel import VARIANTS, LaurelStack, laurel, laurel_stack
from torch import nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Pointwise, Serial, StreamLayer
from speechkit.testing import assert_close, check_stream
from speechkit.train.optim import parameter_groups


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bound", ["softmax", "sigmoid", "none"])
def test_paper_048_every_variant_begins_as_the_sum(variant: str, bound: str) -> None:
    x, f = torch.randn(2, 2, 64, 5).unbind()
    assert torch.equal(laurel(64, 0, 1, variant, bound=bound)(x, f), x + f)


def test_paper_048_added_parameters() -> None:
    assert size(laurel(64, 0, 1, "rw")) == 2
    assert size(laurel(64, 0, 1, "lr", rank=16)) == 2048
    assert size(laurel(64, 0, 1, "rw+lr", rank=16)) == 2050
    assert size(laurel(64, 0, 1, "rw", vector=True)) == 2 * 64
    blocks: list[StreamLayer] = [Pointwise(64, 64) for _ in range(5)]
    plain = sum(map(size, blocks))
    # blocks 1 … 4 have 1, 2, 3 and 3 activations before them
    assert size(laurel_stack(blocks, k=3, rank=16)) - plain == 4 * 2 * 16 * 64 + 1 + 2 + 3 + 3
    assert size(laurel_stack(blocks, k=3, rank=0)) - plain == 1 + 2 + 3 + 3
    # with the merge rule rw beside it, a block has 2 + k (2 rank C + 1) more
    own = size(laurel_stack(blocks, k=3, rank=16, shared=False)) - plain
    assert own == (1 + 2 + 3 + 3) * (2 * 16 * 64 + 1)


def test_paper_048_b_learns_at_the_first_step_and_a_at_the_second() -> None:
    torch.manual_seed(0)
    merge = laurel(8, 0, 1, "lr", rank=2)
    low_rank = merge.low_rank
    assert low_rank is not None
    for a_learns in (False, True):
        merge.zero_grad()
        merge(*torch.randn(2, 2, 8, 5).unbind()).square().sum().backward()
        assert low_rank.a.grad is not None
        assert low_rank.b.grad is not None
        assert bool(low_rank.a.grad.any()) == a_learns
        assert low_rank.b.grad.any()
        with torch.no_grad():
            low_rank.b -= 0.1 * low_rank.b.grad
    assert torch.linalg.matrix_rank(low_rank.b @ low_rank.a) <= 2


@pytest.mark.parametrize("bound", ["softmax", "sigmoid"])
def test_paper_048_weights_stay_bounded(bound: str) -> None:
    merge = laurel(4, 0, 1, "rw", bound=bound)
    assert merge.weights is not None
    merge.weights.data.copy_(torch.tensor([50.0, -50.0])[:, None, None])
    alpha, beta = (
        merge(torch.zeros(1, 4, 1), torch.ones(1, 4, 1)),
        merge(torch.ones(1, 4, 1), torch.zeros(1, 4, 1)),
    )
    assert alpha.max() <= 2
    assert beta.min() >= 0


def test_paper_048_its_numbers_are_kept_out_of_weight_decay() -> None:
    merge, stack = laurel(8, 0, 1, "rw+lr"), laurel_stack([Pointwise(8, 8)] * 3, k=2, rank=2)
    for module, kept in ((merge, [merge.weights]), (stack, list(stack.gammas.values()))):
        decayed, spared = parameter_groups(module)
        assert decayed["params"]
        assert list(map(id, spared["params"])) == list(map(id, kept))


def test_paper_048_earlier_activations() -> None:
    torch.manual_seed(0)
    blocks: list[StreamLayer] = [Pointwise(6, 6) for _ in range(3)]
    stack = laurel_stack(blocks, k=2, rank=2)
    x = torch.randn(1, 6, 4)
    assert torch.equal(stack(Chunk.of(x)).x, Serial(*blocks)(Chunk.of(x)).x)
    for parameter in stack.parameters():
        nn.init.normal_(parameter)

    def w(value: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        for weight in weights:
            value = weight @ value
        return value

    w0, w1, w2 = (block.weight for block in blocks)  # type: ignore[union-attr]
    low, gamma = stack.low_rank, stack.gammas
    h1 = w(x, w0)  # type: ignore[arg-type]
    h2 = w(h1, w1) + w(gamma["1"][0] * h1, low["1"][0].a, low["1"][0].b)  # type: ignore[arg-type]
    mixed = gamma["2"][0] * h2 + gamma["2"][1] * h1
    h3 = w(h2, w2) + w(mixed, low["2"][0].a, low["2"][0].b)  # type: ignore[arg-type]
    assert_close("the stack", h3, stack(Chunk.of(x)).x, 1e-5)


def test_paper_048_each_earlier_activation_with_a_map_of_its_own() -> None:
    torch.manual_seed(0)
    blocks: list[StreamLayer] = [Pointwise(6, 6) for _ in range(3)]
    stack = laurel_stack(blocks, k=2, rank=2, shared=False).double()
    x = torch.randn(1, 6, 4).double()
    assert torch.equal(stack(Chunk.of(x)).x, Serial(*blocks)(Chunk.of(x)).x)
    for parameter in stack.low_rank.parameters():
        nn.init.normal_(parameter)
    history = [Chunk.of(value) for value in torch.randn(3, 1, 6, 4).double()]
    latest, first = (m.b @ m.a for m in stack.low_rank["2"])  # type: ignore[union-attr]
    expected = history[2].x + latest @ history[1].x + first @ history[0].x
    assert_close("the sum", expected, stack.out_of(2, history[2], history[:2]), 1e-12)


def test_paper_048_only_equal_widths_are_added() -> None:
    stack = LaurelStack([Pointwise(4, 6), Pointwise(6, 8), Pointwise(8, 6)], 3, 0)
    assert stack.earlier == {"2": [0]}
    check_stream(stack.double(), torch.randn(2, 4, 9).double(), torch.tensor([9, 4]))


def test_a_wrong_parameter_is_named() -> None:
    with pytest.raises(ComponentError, match=r"variant='pa'; give rw or lr or rw\+lr"):
        laurel(4, 0, 1, "pa")
    with pytest.raises(ComponentError, match="rank=0; give at least 1"):
        laurel(4, 0, 1, rank=0)
    with pytest.raises(ComponentError, match="k=0, rank=4; give k from 1"):
        laurel_stack([Pointwise(4, 4)], 0, 4)
