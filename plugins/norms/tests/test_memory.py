"""Memory-sharing norms: torch's numbers, exact gradients, one tensor less to keep."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from speechkit_norms.frame import LayerNorm, RMSNorm
from speechkit_norms.memory import MSLayerNorm, MSRMSNorm, fold_affine
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, Pointwise, Serial, StreamLayer, as_layer
from speechkit.testing import assert_close

C, FRAMES = 16, 50


def frames(dtype: torch.dtype = torch.float32) -> Tensor:
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, FRAMES, C, generator=chance, dtype=torch.float64) * 2 + 1
    return x.to(dtype).transpose(1, 2)


def layer(x: Tensor) -> Tensor:
    return F.layer_norm(x.transpose(1, 2), (C,), eps=1e-5).transpose(1, 2)


def rms(x: Tensor) -> Tensor:
    return F.rms_norm(x.transpose(1, 2), (C,), eps=1e-5).transpose(1, 2)


KINDS: list[tuple[nn.Module, Callable[[Tensor], Tensor]]] = [
    (MSLayerNorm(C), layer),
    (MSRMSNorm(C), rms),
]


@pytest.mark.parametrize(("norm", "theirs"), KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_paper_115_forward_has_torchs_bits(
    norm: nn.Module, theirs: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    x = frames(dtype)
    assert torch.equal(norm(x), theirs(x))
    learning = norm(x.clone().requires_grad_())
    assert torch.equal(learning, theirs(x)), "with a gradient to come"


@pytest.mark.parametrize(("norm", "theirs"), KINDS)
def test_paper_115_the_gradient_is_exact(
    norm: nn.Module, theirs: Callable[[Tensor], Tensor]
) -> None:
    x = frames(torch.float64)[:, :, :3].requires_grad_()
    assert torch.autograd.gradcheck(norm, (x,))
    dy = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    (ours,) = torch.autograd.grad(norm(x), x, dy)
    (reference,) = torch.autograd.grad(theirs(x), x, dy)
    assert_close("dx", reference, ours, 1e-12)


@pytest.mark.parametrize("after", [Pointwise(C, C), as_layer(nn.SiLU())])
@pytest.mark.parametrize(
    ("shares", "keeps"), [(MSLayerNorm(C), LayerNorm(C)), (MSRMSNorm(C), RMSNorm(C))]
)
def test_paper_115_the_next_layer_shares_what_it_keeps(
    shares: nn.Module, keeps: nn.Module, after: StreamLayer
) -> None:
    tensor = 2 * FRAMES * C * 4
    one_per_frame = 2 * FRAMES * 4
    assert saved_bytes(Serial(as_layer(shares), after)) == tensor + one_per_frame
    assert saved_bytes(Serial(as_layer(keeps), after)) >= 2 * tensor


def test_paper_115_the_affine_part_folds_into_the_next_layer() -> None:
    c = Chunk.of(frames(torch.float64))
    for norm in (LayerNorm(C), RMSNorm(C, eps=1e-5, eps_mode="inside", bias=True)):
        for after in (Pointwise(C, 6), Pointwise(C, 6, bias=True)):
            for seed, parameter in enumerate([*norm.parameters()]):
                nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed))
            before = Serial(as_layer(norm), after).double()
            folded_norm, folded = fold_affine(norm, after)
            assert not list(folded_norm.parameters())
            y = Serial(as_layer(folded_norm), folded)(c).x
            assert_close(type(norm).__name__, before(c).x, y, 1e-12)


def test_other_rms_norms_do_not_fold() -> None:
    for norm in (RMSNorm(C), RMSNorm(C, p=0.5, eps_mode="inside")):
        with pytest.raises(ComponentError, match="p=1 and eps_mode=inside"):
            fold_affine(norm, Pointwise(C, C))


def saved_bytes(net: StreamLayer) -> int:
    """What autograd keeps of activations, each piece of memory counted once."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return x

    x = frames().contiguous().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        # what comes in is not a leaf, as in a net; it stays alive, so that no address comes twice
        inner = 2 * x.transpose(1, 2).contiguous().transpose(1, 2)
        y = net(Chunk.of(inner)).x
    assert y.requires_grad
    return sum(kept.values())
