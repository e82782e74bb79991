"""Blocks that denoise a label: the chain, the separate gradients, and a toy that it learns."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from speechkit_methods.noprop import NoPropHead, cosine, step
from torch import Tensor, nn

import speechkit as sk
from speechkit.errors import ComponentError, TrainingError
from speechkit.models.net import Net
from speechkit.nn import Chunk
from speechkit.train import Run, fit


def clips(x: Tensor) -> Chunk:
    """Each row of `[B, C]` as a clip of one frame."""
    return Chunk.of(x[:, :, None])


def test_paper_105_the_chain_reproduces_the_noisy_label_of_each_block() -> None:
    schedule = cosine(10)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(200_000, 1, dtype=torch.float64, generator=generator)
    label = torch.full_like(z, 1.5)
    moments = {}
    for t in range(1, 11):
        noise = torch.randn(z.shape, dtype=z.dtype, generator=generator)
        z = step(schedule, t, label, z, noise)
        moments[t] = float(z.mean()), float(z.var())
        assert moments[t][0] == pytest.approx(1.5 * schedule[t] ** 0.5, abs=0.006)
        assert moments[t][1] == pytest.approx(1 - schedule[t], rel=0.02)
    assert moments[3] == pytest.approx((0.677, 0.797), abs=0.006)
    assert moments[7] == pytest.approx((1.331, 0.213), abs=0.006)
    assert moments[10][0] == pytest.approx(1.5, abs=0.001)
    assert moments[10][1] == pytest.approx(1e-4, rel=0.02)


def small_head() -> tuple[NoPropHead, list[Chunk], Tensor]:
    """A head of four blocks, and the features and labels of five clips."""
    torch.manual_seed(0)
    head = NoPropHead(6, 3, blocks=4, width=8, kernel=3).train()
    c = Chunk.of(torch.randn(5, 6, 9))
    return head, [trunk(c) for trunk in head.trunks], torch.tensor([0, 1, 2, 0, 1])


def test_paper_105_no_block_has_a_gradient_of_another_ones_loss() -> None:
    head, features, targets = small_head()
    blocks = [[*pair[0].parameters(), *pair[1].parameters()] for pair in pairs(head)]
    blocks.append(list(head.linear.parameters()))
    for t, loss in enumerate(head.losses(features, targets, 0.1)):
        for s, parameters in enumerate(blocks):
            gradients = torch.autograd.grad(
                loss.sum(), parameters, allow_unused=True, retain_graph=True
            )
            for gradient in gradients:
                assert (gradient is not None) is (s == t)


def pairs(head: NoPropHead) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The trunk and the denoiser of each block."""
    return zip(head.trunks, head.denoisers, strict=True)


def test_paper_105_the_loss_of_a_block_is_weighted_by_the_rise_of_the_snr() -> None:
    head, features, targets = small_head()
    torch.manual_seed(1)
    *losses, last = head.losses(features, targets, 0.1)
    torch.manual_seed(1)
    u = torch.eye(3)[targets]
    snr = [a / (1 - a) for a in cosine(4)]
    for t, (denoise, seen, loss) in enumerate(
        zip(head.denoisers, features, losses, strict=True), 1
    ):
        z = head.schedule[t - 1] ** 0.5 * u
        z = z + (1 - head.schedule[t - 1]) ** 0.5 * torch.randn(5, 3)
        squares = (denoise(seen, z) - u).square().sum(1)
        torch.testing.assert_close(loss, 4 / 2 * 0.1 * (snr[t] - snr[t - 1]) * squares)
    z = head.schedule[4] ** 0.5 * u + (1 - head.schedule[4]) ** 0.5 * torch.randn(5, 3)
    scores = head.linear(clips(z)).x[:, :, 0]
    expected = nn.functional.cross_entropy(scores, targets, reduction="none")
    torch.testing.assert_close(last, expected)


@pytest.mark.slow
def test_paper_105_a_toy_of_four_classes_is_learned() -> None:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, 10, generator=generator)
    y = torch.randint(4, (1400,), generator=generator)
    x = centres[y] + torch.randn(1400, 10, generator=generator)
    head = NoPropHead(10, 4, kernel=1)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-3)
    for _ in range(120):
        optimizer.zero_grad()
        features = [trunk(clips(x[:1000])) for trunk in head.trunks]
        torch.stack(head.losses(features, y[:1000], 0.1)).mean(1).sum().backward()
        optimizer.step()
    found = head.eval()(clips(x[1000:])).x[:, :, 0].argmax(1)
    # the nearest centre has 0.94
    assert float((found == y[1000:]).float().mean()) > 0.84


@pytest.fixture
def noprop(run: Run) -> Run:
    """A run with the method, and without the averaged weights."""
    model = replace(run.model, head="noprop:blocks=3,width=8,kernel=3")
    return replace(run, model=model, method=("noprop",), loss="none", ema=0.0)


def weights(run: Run, out: Path) -> dict[str, Tensor]:
    fit(run, out, device="cpu")
    return load_file(out / "last/training/weights.safetensors")


def test_only_the_head_learns(noprop: Run, tmp_path: Path) -> None:
    trained = weights(noprop, tmp_path / "out")
    for name, parameter in sk.build(noprop.model).named_parameters():
        assert torch.equal(parameter, trained[name]) is not name.startswith("head."), name


def test_the_loss_of_the_run_changes_no_weight(noprop: Run, tmp_path: Path) -> None:
    one = weights(noprop, tmp_path / "none")
    other = weights(replace(noprop, loss="cross_entropy"), tmp_path / "cross_entropy")
    assert all(torch.equal(other[name], value) for name, value in one.items())


@pytest.mark.parametrize(
    "net",
    [
        sk.QuartzNet(size="5x5", labels=("a", "b"), head="noprop"),
        sk.MatchboxNet(size="3x1x64", labels=("a", "b"), head="noprop"),
        sk.MarbleNet(size="3x2x64", head="noprop"),
    ],
    ids=lambda net: net.kind,
)
def test_a_net_with_the_head_gives_a_clip_the_same_scores_once_loaded(
    net: Net, tmp_path: Path
) -> None:
    model = sk.build(net).eval()
    sk.save(model, tmp_path / "model")
    sound = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model(sound).scores
        assert scores.shape == (2, 2)
        assert torch.equal(model(sound).scores, scores)
        assert torch.equal(sk.load(tmp_path / "model")(sound).scores, scores)


def test_what_does_not_fit_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"trains head=noprop, and this net has head=clip"):
        fit(replace(run, method=("noprop",)), tmp_path / "out", device="cpu")
    with pytest.raises(ComponentError, match=r"eta=0; give a number above 0"):
        fit(replace(run, method=("noprop:eta=0",)), tmp_path / "out", device="cpu")
    with pytest.raises(ComponentError, match=r"blocks=0, .* give 1 or more"):
        NoPropHead(6, 3, blocks=0)
