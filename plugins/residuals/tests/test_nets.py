"""A tiny QuartzNet with each design, norm and activation learns, streams, and comes back."""

from pathlib import Path

import pytest
import torch

import speechkit as sk
from speechkit.infer import stream_scores
from speechkit.models import Block, QuartzNet
from speechkit.plugins import Registry

DESIGNS = [
    ("residual", "laurel:rank=2"),
    ("block", "identity"),
    ("block", "preact"),
    ("block", "wide:factor=2"),
    ("block", "parallel:expand=2"),
    ("block", "ode"),
    ("block", "res2"),
    ("block", "reversible"),
    ("block", "irevnet"),
    ("block", "mbconv:expand=2"),
    ("block", "mbconv:expand=2,reduction=4"),
    ("block", "rglru"),
    ("block", "dense_rnn:hidden=4"),
    ("block", "mod:expand=2"),
    ("stack", "laurel:k=2,rank=2"),
    ("stack", "hires"),
    ("stack", "reversible"),
    ("stack", "revcol"),
    ("stack", "aila_linear"),
    ("stack", "aila_attn"),
    ("stack", "parallel_shallow"),
    ("stack", "parallel_shallow:order=2"),
    ("stack", "layer_mix"),
    ("stack", "dense_easter"),
    ("stem", "space_to_depth"),
]
BLOCKS = (
    Block(channels=8, kernel=3, stride=2),
    Block(channels=8, kernel=3, residual=True, copies=3),
)
SMELU = "smelu" if "activations" in Registry().plugins() else "silu"


def net(kind: str, name: str, norm: str, activation: str) -> QuartzNet:
    # a stack of reversible blocks is of the blocks that it is for
    block = {"block": "reversible"} if (kind, name) == ("stack", "reversible") else {}
    return QuartzNet(
        labels=tuple(" hilo"),
        blocks=BLOCKS,
        frontend="log_mel:n_mels=8,normalize=fixed",
        lookahead=1,
        norm=norm,
        activation=activation,
        **{**block, kind: name},
    )


@pytest.mark.parametrize("activation", ["relu", SMELU])
@pytest.mark.parametrize("norm", ["batch", "rms"])
@pytest.mark.parametrize(("kind", "name"), DESIGNS)
def test_it_learns_streams_and_comes_back(
    kind: str, name: str, norm: str, activation: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = sk.build(net(kind, name, norm, activation)).train()
    audio = 0.1 * torch.randn(2, 2400, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.named_parameters()}
    output = model(audio, torch.tensor([2400, 1600]))
    targets, lengths = torch.tensor([[1], [3]]), torch.tensor([1, 1])
    scores = output.scores.transpose(0, 1)
    loss = torch.nn.functional.ctc_loss(scores, targets, output.lengths, lengths, blank=5)
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    assert loss.isfinite()
    for parameter, value in model.named_parameters():
        assert value.grad is not None, f"no gradient reaches {parameter}"
        assert value.grad.isfinite().all(), parameter
    assert any(not torch.equal(value, before[name]) for name, value in model.named_parameters())

    model.eval()
    with torch.inference_mode():
        offline = model(audio[:1]).scores[0]
    streamed = torch.cat(list(stream_scores(model, audio[0], chunk_s=0.05)))
    torch.testing.assert_close(streamed, offline, rtol=1e-3, atol=1e-4)

    sk.save(model, tmp_path / "model")
    again = sk.load(tmp_path / "model")
    with torch.inference_mode():
        assert torch.equal(again(audio[:1]).scores[0], offline)


def test_every_component_is_among_them() -> None:
    entries = [e for e in sk.components() if e.plugin == "residuals"]
    kinds = "residual", "block", "stack", "stem"
    offered = {(e.kind, e.component.name) for e in entries if e.kind in kinds}
    assert offered == {(kind, name.partition(":")[0]) for kind, name in DESIGNS}
    core = {(e.kind, e.component.name) for e in sk.components() if e.plugin == "core"}
    assert not offered & core
