"""Norms of single frames, beside torch's and the papers' invariances."""

import pytest
import torch
from speechkit_norms.frame import GroupNorm, LayerNorm, RMSNorm
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Pointwise, Serial, as_layer
from speechkit.testing import assert_close
from speechkit.train.optim import parameter_groups

C = 16


def frames(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 20, C, generator=chance, dtype=torch.float64) * 2 + 1
    return x.to(dtype).transpose(1, 2)


def shaken(norm: nn.Module) -> nn.Module:
    """The norm in float64 with weights that are not their initial ones."""
    chance = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in norm.double().parameters():
            noise = torch.randn(parameter.shape, generator=chance, dtype=torch.float64)
            parameter += 0.3 * noise
    return norm


@pytest.mark.parametrize("eps_mode", ["outside", "inside"])
@pytest.mark.parametrize("p", [1.0, 0.25])
def test_paper_044_rms_is_the_formula(p: float, eps_mode: str) -> None:
    norm, x = shaken(RMSNorm(C, p=p, bias=True, eps_mode=eps_mode, eps=1e-3)), frames()
    mean_square = x[:, : int(C * p)].square().mean(1, keepdim=True)
    rms = (mean_square + 1e-3).sqrt() if eps_mode == "inside" else mean_square.sqrt() + 1e-3
    expected = x / rms * norm.weight[:, None] + norm.bias[:, None]
    assert_close("y", expected, norm(x), 1e-12)


@pytest.mark.parametrize("p", [1.0, 0.25])
def test_paper_044_a_louder_frame_gives_the_same(p: float) -> None:
    norm, x = RMSNorm(C, p=p), frames(dtype=torch.float32)
    for factor in (0.5, 7.3, 1e4):
        assert_close(f"times {factor}", norm(x), norm(factor * x), 1e-6)


def test_paper_044_on_centred_frames_it_is_layer_norm() -> None:
    x = frames()
    centred = x - x.mean(1, keepdim=True)
    layer = nn.LayerNorm(C, eps=1e-8).double()
    expected = layer(centred.transpose(1, 2)).transpose(1, 2)
    assert_close("y", expected, RMSNorm(C).double()(centred), 3e-8)


def test_paper_044_it_does_not_centre() -> None:
    norm, x = RMSNorm(C), frames(dtype=torch.float32)
    assert (norm(x + 1) - norm(x)).abs().max() > 0.1


def test_paper_044_the_gradient_of_the_gain() -> None:
    norm, x = RMSNorm(C).double(), frames()
    dy = frames(seed=2)
    norm(x).backward(dy)
    rms = x.square().mean(1, keepdim=True).sqrt()
    assert norm.weight.grad is not None
    assert_close("gradient", (dy * x / rms).sum((0, 2)), norm.weight.grad, 1e-7)


def test_paper_044_all_channels_are_the_whole() -> None:
    x = frames(dtype=torch.float32)
    assert torch.equal(RMSNorm(C, p=1.0)(x), RMSNorm(C)(x))
    assert not torch.equal(RMSNorm(C, p=0.5)(x), RMSNorm(C)(x))


def test_paper_044_the_scale_of_the_weights_before_it_does_not_matter() -> None:
    before = Pointwise(C, C)
    net, c = Serial(before, as_layer(RMSNorm(C))), Chunk.of(frames(dtype=torch.float32))
    y = net(c).x
    with torch.no_grad():
        before.weight *= 5
    assert_close("y", y, net(c).x, 1e-6)


def test_paper_044_how_many_parameters() -> None:
    assert sum(p.numel() for p in RMSNorm(C).parameters()) == C
    assert sum(p.numel() for p in RMSNorm(C, bias=True).parameters()) == 2 * C


def test_paper_044_gain_and_bias_are_kept_out_of_weight_decay() -> None:
    (group,) = parameter_groups(RMSNorm(8, bias=True))
    assert group["weight_decay"] == 0
    assert len(group["params"]) == 2


def test_paper_044_train_is_as_evaluation() -> None:
    norm, x = RMSNorm(C), frames(dtype=torch.float32)
    assert torch.equal(norm.train()(x), norm.eval()(x))


def test_a_frame_of_zeros_stays_one_and_has_a_gradient() -> None:
    x = torch.zeros(1, C, 3, requires_grad=True)
    for norm in (RMSNorm(C), RMSNorm(C, p=0.5), RMSNorm(C, eps_mode="inside")):
        y = norm(x)
        assert not y.any()
        (grad,) = torch.autograd.grad(y.sum(), x)
        assert torch.isfinite(grad).all()


def test_half_precision_is_summed_in_float32() -> None:
    x = 300 + frames(dtype=torch.float32).bfloat16()
    expected = RMSNorm(C)(x.float())
    y = RMSNorm(C).bfloat16()(x)
    assert y.dtype == torch.bfloat16
    assert_close("y", expected, y.float(), 2**-8)


def test_paper_110_layer_norm_is_torchs() -> None:
    norm, x = shaken(LayerNorm(C)), frames()
    theirs = nn.LayerNorm(C).double()
    theirs.load_state_dict(norm.state_dict())
    assert torch.equal(norm(x), theirs(x.transpose(1, 2)).transpose(1, 2))


def test_paper_110_invariances() -> None:
    x = frames()
    weight = torch.randn(C, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    row = torch.randn(1, C, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    # without eps, which is not scaled with the rest
    norm = LayerNorm(C, eps=0.0).double()

    def y(weight: Tensor, x: Tensor) -> Tensor:
        return norm(torch.einsum("oc,bct->bot", weight, x))

    expected = y(weight, x)
    assert_close("weights rescaled", expected, y(7.3 * weight, x), 1e-14)
    assert_close("weights recentred", expected, y(weight + row, x), 1e-13)
    assert_close("case rescaled", expected, y(weight, 0.2 * x), 1e-14)
    one = weight.clone()
    one[0] *= 3
    assert (y(one, x) - expected).abs().max() > 0.1, "one neuron rescaled"


def test_paper_110_no_batch_in_it() -> None:
    norm, x = shaken(LayerNorm(C)), frames()
    assert torch.equal(norm.train()(x), norm.eval()(x))
    assert torch.equal(norm(x)[1:2], norm(x[1:2]))


def test_layer_norm_without_weights() -> None:
    norm = LayerNorm(C, affine=False)
    assert not list(norm.parameters())
    x = frames(dtype=torch.float32)
    assert torch.equal(norm(x), LayerNorm(C)(x))


def test_groups_are_those_of_torch_frame_by_frame() -> None:
    norm, x = shaken(GroupNorm(C, groups=4)), frames()
    theirs = nn.GroupNorm(4, C).double()
    theirs.load_state_dict(norm.state_dict())
    each = theirs(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (3, 20)).transpose(1, 2)
    assert_close("y", each, norm(x), 1e-13)


def test_one_group_is_layer_norm() -> None:
    x = frames(dtype=torch.float32)
    assert_close("y", LayerNorm(C)(x), GroupNorm(C, groups=1)(x), 1e-6)


def test_parameters_that_make_no_sense() -> None:
    with pytest.raises(ComponentError, match=r"8 groups of 8 channels: give one of \[1, 2, 4\]"):
        GroupNorm(8)
    with pytest.raises(ComponentError, match=r"p=0: give a share"):
        RMSNorm(C, p=0)
    with pytest.raises(ComponentError, match="eps_mode='under': give outside or inside"):
        RMSNorm(C, eps_mode="under")  # type: ignore[arg-type]
