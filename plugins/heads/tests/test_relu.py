"""Scores that are ReLUs, against their formula, and the label for none."""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from speechkit_heads.relu import relu
from torch import Tensor

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.nn import Chunk, PooledHead
from speechkit.testing import check_native

NAMES = ("no", "yes", "unknown", "stop")
NETS = {
    "quartznet": partial(sk.QuartzNet, size="5x5", labels=NAMES),
    "matchboxnet": partial(sk.MatchboxNet, size="3x1x64", labels=NAMES),
    "marblenet": partial(sk.MarbleNet, size="3x2x64"),
}


def made(**params: object) -> PooledHead:
    torch.manual_seed(0)
    return relu(6, 4, NAMES, **params).double()


def frames(batch: int = 64) -> Chunk:
    return Chunk.of(
        2 * torch.randn(batch, 6, 9, generator=torch.Generator().manual_seed(1)).double()
    )


def linear_scores(head: PooledHead, c: Chunk) -> Tensor:
    """o = W pool(x) + b, `[B, labels]`."""
    return c.x.mean(2) @ head.linear.linear.weight.T + head.linear.linear.bias


def test_paper_007_probabilities_are_the_shares_of_the_relus() -> None:
    head, c = made(eps=1e-3, leak=0.0), frames()
    f = linear_scores(head, c).clamp(min=0) + 1e-3
    p = f / f.sum(1, keepdim=True)
    scores = head(c).x[:, :, 0]
    torch.testing.assert_close(scores.softmax(1), p)
    y = torch.arange(64) % 4
    torch.testing.assert_close(F.cross_entropy(scores, y, reduction="none"), -p[range(64), y].log())


@pytest.mark.parametrize("leak", [0.0, 0.01])
def test_paper_007_the_best_label_is_that_of_the_linear_layer_if_any_fires(leak: float) -> None:
    head, c = made(leak=leak), frames()
    o = linear_scores(head, c)
    fires = (o > 0).any(1)
    assert 40 < fires.sum() < 64
    assert torch.equal(head(c).x[:, :, 0].argmax(1)[fires], o.argmax(1)[fires])


def test_paper_007_if_none_fires_the_label_is_reject() -> None:
    head, c = made(reject="unknown"), frames(512)
    o = linear_scores(head, c)
    others = [0, 1, 3]
    fires = (o[:, others] > 0).any(1)
    best = head(c).x[:, :, 0].argmax(1)
    assert 50 < (~fires).sum() < 500
    assert (best[~fires] == 2).all()
    assert torch.equal(best[fires], torch.tensor(others)[o[:, others].argmax(1)][fires])


@pytest.mark.parametrize(("leak", "recovers"), [(0.0, False), (0.01, True)])
def test_paper_007_a_target_below_0_learns_only_with_a_leak(leak: float, recovers: bool) -> None:
    """The other labels fall to 0 in either case."""
    head, c, y = made(leak=leak), frames(1), torch.tensor([1])
    layer = head.linear.linear
    with torch.no_grad():
        layer.bias += torch.tensor([1.0, -1.0, 1.0, 1.0]) - linear_scores(head, c)[0]
    optimizer = torch.optim.Adam([layer.bias], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(head(c).x[:, :, 0], y)
        assert loss.isfinite()
        loss.backward()
        optimizer.step()
    o = linear_scores(head, c)[0]
    if recovers:
        assert o.argmax() == 1
        assert o[1] > 0
    else:
        assert o[1].item() == pytest.approx(-1, abs=1e-12)


def test_an_utterance_of_label_reject_lowers_those_that_fire() -> None:
    head, c = made(reject="unknown"), frames()
    F.cross_entropy(head(c).x[:, :, 0], torch.full((64,), 2)).backward()
    gradient = head.linear.linear.bias.grad
    assert gradient[2] == 0
    assert (gradient[[0, 1, 3]] > 0).all()


def test_it_streams_and_has_a_native_step() -> None:
    for params in ({}, {"reject": "unknown", "leak": 0.1}):
        head = made(**params)
        c = Chunk.of(frames(2).x, torch.tensor([9, 4]))
        whole, running = head(c).x[:, :, 0], head.running()(c).x
        torch.testing.assert_close(torch.stack([running[0, :, 8], running[1, :, 3]]), whole)
        torch.testing.assert_close(head.sliding(4)(c).x[1, :, 3], whole[1])
        check_native(head.float().running(), frames(2).x.float(), torch.tensor([9, 4]))


@pytest.mark.parametrize("net", NETS)
def test_a_built_net_learns_and_comes_back(net: str, tmp_path: Path) -> None:
    reject = NETS[net]().labels[0]
    model = sk.build(NETS[net](head=f"relu:reject={reject}"), seed=3)
    audio = 0.1 * torch.randn(2, 6400, generator=torch.Generator().manual_seed(0))
    scores = model.train()(audio, torch.tensor([6400, 4000])).scores
    F.cross_entropy(scores, torch.tensor([0, 1])).backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, f"no gradient reaches {name}"
    sk.save(model.eval(), tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(sk.load(tmp_path / "model")(audio).scores, model(audio).scores)


def test_wrong_parameters_are_refused() -> None:
    with pytest.raises(ComponentError, match=r"no label 'yess'. Did you mean 'yes'"):
        made(reject="yess")
    with pytest.raises(ComponentError, match=r"eps=0, leak=0.01; give eps from 1e-07"):
        made(eps=0)
    # its ONNX file had infinite scores, and with 1e-60 all scores were
    with pytest.raises(ComponentError, match=r"eps=1e-08, leak=0.01; give eps from 1e-07"):
        made(eps=1e-8)
    with pytest.raises(ComponentError, match=r"leak=-1; give eps from 1e-07 and leak from 0 up"):
        made(leak=-1)
