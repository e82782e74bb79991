"""Experts behind a ReLU: continuous routes, and a controller that holds their number."""

import pytest
import torch
import torch.nn.functional as F
from speechkit_mixers.moe_relu import MoEReLU, ReMoE
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Output
from speechkit.nn import Chunk
from speechkit.testing.native import check_native, check_native_net

NETS = {
    "quartznet": sk.QuartzNet(size="5x5", channel="moe_relu:experts=2,hidden=8"),
    "matchboxnet": sk.MatchboxNet(labels=("a", "b"), size="3x1x64", channel="moe_relu"),
    "marblenet": sk.MarbleNet(size="3x2x64", channel="moe_relu"),
}


def layer(c_in: int = 6, c_out: int = 5, **params: int) -> MoEReLU:
    torch.manual_seed(0)
    made = MoEReLU(c_in, c_out, **params)
    torch.nn.init.normal_(made.router.bias, std=0.3)
    return made.double()


def frames(channels: int = 6, count: int = 50) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, count, generator=generator, dtype=torch.float64)


def normal(x: Tensor) -> Tensor:
    return x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt()


def route(moe: MoEReLU, x: Tensor) -> Tensor:
    """The routes of normalised input."""
    return F.relu(moe.router(Chunk.of(x)).x)


def test_paper_008_the_output_is_the_sum_over_experts() -> None:
    moe, x = layer(experts=4, hidden=3), frames()
    n = normal(x)
    r, y = route(moe, n), torch.zeros(2, 5, 50, dtype=torch.float64)
    for e in range(4):
        u, v, w = moe.gate.weight[e::4], moe.value.weight[e::4], moe.out.weight[:, e::4]
        y += r[:, e : e + 1] * (w @ (F.silu(u @ n) * (v @ n)))
    torch.testing.assert_close(moe(Chunk.of(x)).x, y)


def test_paper_008_one_expert_is_a_feed_forward_layer_times_its_route() -> None:
    moe, x = layer(experts=1, hidden=7), frames()
    u, v, w = moe.gate.weight, moe.value.weight, moe.out.weight
    n = normal(x)
    y = route(moe, n) * (w @ (F.silu(u @ n) * (v @ n)))
    torch.testing.assert_close(moe(Chunk.of(x)).x, y)


def test_paper_008_a_frame_without_an_expert_gives_zero() -> None:
    moe, x = layer(experts=4), frames()
    torch.nn.init.constant_(moe.router.bias, -100.0)
    assert not moe(Chunk.of(x)).x.any()


def test_paper_008_the_output_is_continuous_across_a_border_of_routes() -> None:
    """The largest jump along a line falls with the step; that of the best expert does not."""
    moe = layer(experts=8)
    ends = frames(count=2)[0].t()
    jumps, jumps_of_best = [], []
    for count in (1001, 10001):
        along = torch.linspace(-3, 3, count, dtype=torch.float64)
        x = (ends[0][:, None] + ends[1][:, None] * along)[None]
        n = normal(x)
        opened = route(moe, n)[0] > 0
        assert (opened[:, 1:] != opened[:, :-1]).any()
        jumps.append(moe(Chunk.of(x)).x.diff(dim=2).abs().max().item())
        p = moe.router(Chunk.of(n)).x.softmax(1)
        best = torch.where(p == p.amax(1, keepdim=True), p, 0).repeat(1, moe.hidden, 1)
        units = F.silu(moe.gate.weight @ n) * (moe.value.weight @ n) * best
        jumps_of_best.append((moe.out.weight @ units).diff(dim=2).abs().max().item())
    assert jumps[1] == pytest.approx(jumps[0] / 10, rel=0.05)
    assert jumps_of_best[1] > 0.9 * jumps_of_best[0]


def test_paper_008_the_gradient_passes_through_the_router() -> None:
    moe, x = layer(experts=3, hidden=2), frames(count=4)
    n = normal(x)

    def through(router: Tensor, bias: Tensor) -> Tensor:
        r = F.relu(router @ n + bias[:, None]).repeat(1, 2, 1)
        expected = moe.out.weight @ (F.silu(moe.gate.weight @ n) * (moe.value.weight @ n) * r)
        return expected.square().sum()

    weights = [moe.router.weight.detach(), moe.router.bias.detach()]
    expected = torch.func.grad(through, (0, 1))(*weights)
    moe(Chunk.of(x)).x.square().sum().backward()
    torch.testing.assert_close(moe.router.weight.grad, expected[0])
    torch.testing.assert_close(moe.router.bias.grad, expected[1])
    assert torch.autograd.gradcheck(through, [w.requires_grad_() for w in weights])


@pytest.mark.parametrize(("c_in", "c_out", "experts"), [(6, 5, 4), (16, 24, 8), (8, 8, 1)])
def test_a_native_step_computes_the_same(c_in: int, c_out: int, experts: int) -> None:
    moe = layer(c_in, c_out, experts=experts).float()
    check_native(moe, frames(c_in).float(), torch.tensor([50, 31]))


def test_a_net_of_it_runs_natively() -> None:
    rows = (
        sk.Block(channels=16, kernel=5, stride=2),
        sk.Block(channels=24, kernel=4, residual=True),
    )
    config = sk.QuartzNet(labels=("a", "b"), blocks=rows, channel="moe_relu:experts=4,hidden=6")
    check_native_net(config)


@pytest.mark.parametrize("net", NETS)
def test_a_built_net_has_it(net: str) -> None:
    model = sk.build(NETS[net], seed=0).train()
    layers = [m for m in model.modules() if isinstance(m, MoEReLU)]
    assert len(layers) >= 8
    x = 0.1 * torch.randn(2, 3200, generator=torch.Generator().manual_seed(0))
    model(x, torch.tensor([3200, 2000])).scores.square().mean().backward()
    for moe in layers:
        assert not moe.router.bias.any()
        assert all(w.grad is not None and w.grad.any() for w in moe.parameters())


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ComponentError, match="experts=0, hidden=4; give 1 or more"):
        MoEReLU(4, 4, experts=0)
    with pytest.raises(ComponentError, match="give k from 1 up"):
        ReMoE(k=0)


class Net(torch.nn.Module):
    """Two layers with 4 and 8 experts; the second reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layer(6, 6, experts=4), layer(6, 6, experts=8)

    def forward(self, c: Chunk) -> Chunk:
        return self.second(self.first(c))


def test_paper_008_the_loss_is_that_of_the_valid_frames() -> None:
    net, method = Net(), ReMoE(k=2, start=0.5)
    method.start(net, None)
    c = Chunk.of(frames(), torch.tensor([50, 20]))
    middle = net.first(c)
    method.taps.take()
    net(c)
    loss = method.extra_loss(None, Output(torch.zeros(2, 3), c.lengths))
    expected, excess = 0.0, 0.0
    for moe, given in ((net.first, c.x), (net.second, middle.x)):
        every = route(moe, normal(given))
        r = torch.cat([every[0], every[1, :, :20]], dim=1).t()
        each = [(r[:, e] > 0).sum() * r[:, e].mean() for e in range(moe.experts)]
        expected += 0.5 / 2 * moe.experts / (2 * 70) * sum(each)
        excess += (r == 0).double().mean() - (1 - 2 / moe.experts)
    torch.testing.assert_close(loss, expected.expand(2))
    torch.testing.assert_close(method.excess, excess.detach())


def test_paper_008_the_share_of_zeros_is_that_of_all_batches_of_a_step_in_training() -> None:
    net, method = Net(), ReMoE(k=2)
    method.start(net, None)
    shares = []
    for batch in (frames(), -3 * frames(count=20)):
        net(Chunk.of(batch))
        before = method.excess.clone()
        method.extra_loss(None, Output(torch.zeros(2, 3), torch.tensor([9, 9])))
        shares.append(method.excess - before)
    assert shares[0] != shares[1]
    assert method.excess == sum(shares)
    # an evaluation between two steps is not recorded
    net.eval()(Chunk.of(frames()))
    assert not method.taps.take()


def test_paper_008_the_weight_is_steered_once_in_a_step() -> None:
    method = ReMoE()
    for excess, factor in ((-0.1, 1.2), (-0.3, 1.2), (0.2, 1 / 1.2), (-1.0, 1.2)):
        before = method.weight.clone()
        method.excess += excess
        method.after_step(None, 1, None)
        assert method.weight / before == pytest.approx(factor)
        assert method.excess == 0
    for excess, bound in ((-1, 10.0), (1, 1e-10)):
        for _ in range(200):
            method.excess += excess
            method.after_step(None, 1, None)
        assert method.weight == bound


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.05, 1.2])
def test_paper_008_the_share_of_zeros_is_held(factor: float) -> None:
    """8 experts, k = 2: 0.75 of the routes are closed in the mean of the last 300 steps."""
    torch.manual_seed(0)
    moe, method = MoEReLU(16, 16, experts=8, hidden=4), ReMoE(k=2, start=1e-3, factor=factor)
    method.start(moe, None)
    target = torch.nn.Linear(16, 16).requires_grad_(False)
    optimizer = torch.optim.Adam(moe.parameters(), lr=0.01, fused=True)
    output, shares = Output(torch.zeros(1, 2), torch.tensor([64])), []
    for step in range(600):
        x = torch.randn(1, 64, 16)
        y = moe(Chunk.of(x.transpose(1, 2))).x.transpose(1, 2)
        loss = F.mse_loss(y, target(x)) + method.extra_loss(None, output).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        shares.append(0.75 + float(method.excess))
        method.after_step(None, step, optimizer)
    assert sum(shares[-300:]) / 300 == pytest.approx(0.75, abs=0.03)


def test_a_net_without_the_layer_is_refused() -> None:
    for net, k in ((torch.nn.Linear(2, 2), 1), (Net(), 5)):
        with pytest.raises(TrainingError, match="set channel=moe_relu with at least k experts"):
            ReMoE(k=k).start(net, None)
