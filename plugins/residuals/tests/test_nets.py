"""A tiny QuartzNet with each design, norm and activation learns, streams, and comes back."""

from pathlib import Path

import pytest
import torch
from speechkit_residuals.mod import Routed

import speechkit as sk
from speechkit.infer import stream_scores
from speechkit.models import Block, QuartzNet
from speechkit.nn import Chunk, Residual
from speechkit.plugins import Registry
from speechkit.train.optim import parameter_groups

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
    ("block", "dense_rnn:hidden=4"),
    ("block", "mod:expand=2"),
    ("stack", "laurel:k=2,rank=2"),
    ("stack", "hires"),
    ("stack", "reversible"),
    ("stack", "revcol"),
    ("stack", "aila_linear"),
    ("stack", "aila_attn"),
    ("stack", "parallel_shallow:first=true"),
    ("stack", "parallel_shallow:order=2,first=true"),
    ("stack", "layer_mix"),
    ("stack", "dense_easter"),
    ("stack", "shared_router"),
    ("stem", "space_to_depth"),
]
BLOCKS = (
    Block(channels=8, kernel=3, stride=2),
    Block(channels=8, kernel=3, residual=True, copies=3),
)
NETS = {
    "quartznet": lambda **fields: sk.QuartzNet(size="5x5", **fields),
    "matchboxnet": lambda **fields: sk.MatchboxNet(labels=("a", "b"), size="3x1x64", **fields),
    "marblenet": lambda **fields: sk.MarbleNet(size="3x2x64", **fields),
}
AUDIO = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
SMELU = "smelu" if "activations" in Registry().plugins() else "silu"


def net(kind: str, name: str, norm: str, activation: str) -> QuartzNet:
    # some stacks are of the blocks that they are for
    needed = {"reversible": "reversible", "parallel_shallow": "preact", "shared_router": "mod"}
    block = {"block": needed[name.partition(":")[0]]} if name.partition(":")[0] in needed else {}
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


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("residual", "laurel:variant=rw+lr"),
        ("stack", "laurel"),
        ("stack", "hires"),
        ("stack", "hires:side=input"),
        ("stack", "aila_linear"),
        ("stack", "aila_attn"),
        ("stack", "layer_mix"),
    ],
)
def test_it_begins_as_the_plain_net(net: str, kind: str, name: str) -> None:
    plain, model = sk.build(NETS[net]()), sk.build(NETS[net](**{kind: name}), seed=1)
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert not unexpected
    lengths = torch.tensor([8000, 6000])
    with torch.inference_mode():
        assert torch.equal(model.eval()(AUDIO, lengths).scores, plain.eval()(AUDIO, lengths).scores)


@pytest.mark.parametrize(("net", "own"), [("quartznet", 1), ("matchboxnet", 2), ("marblenet", 2)])
def test_paper_099_every_block_of_a_built_net_is_mixed(net: str, own: int) -> None:
    encoder = sk.build(NETS[net](stack="layer_mix")).eval().encoder
    blocks, mix = encoder.calls(), encoder.mix  # type: ignore[operator,union-attr]
    assert mix.weight.shape == (1, len(blocks))  # type: ignore[union-attr]
    # blocks as wide as the last one
    kept = [p for p in encoder.projections if not list(p.parameters())]  # type: ignore[union-attr]
    assert len(kept) + 1 == own
    c = Chunk.of(torch.randn(1, {"quartznet": 256}.get(net, 128), 40))
    encoder(c).x.square().sum().backward()
    assert mix.weight.grad.all()  # type: ignore[union-attr]


@pytest.mark.parametrize("net", NETS)
def test_papers_027_zero_gamma_and_gates_begin_as_the_shortcuts(net: str) -> None:
    for design, far in {
        "identity:zero_gamma=true": 0.0,
        "preact:shortcut=exclusive_gate": 0.1,
    }.items():
        model = sk.build(NETS[net](block=design)).eval()
        sums = [module for module in model.modules() if isinstance(module, Residual)]
        distances: list[float] = []

        def measure(
            module: Residual, given: tuple[Chunk], y: Chunk, into: list[float] = distances
        ) -> None:
            shortcut = module.shortcut(given[0]).x
            into.append(float((y.x - shortcut).norm() / shortcut.norm()))

        for module in sums:
            module.register_forward_hook(measure)
        with torch.inference_mode():
            model(AUDIO)
        assert len(distances) == len(sums) > 0
        assert max(distances) <= far


def test_paper_102_another_init_leaves_the_router_as_it_was() -> None:
    routers = []
    for init in ("xavier_uniform", "kaiming_uniform"):
        model = sk.build(sk.MatchboxNet(labels=("a", "b"), block="mod", init=init))
        routers.append([m.router.weight for m in model.modules() if isinstance(m, Routed)])
    assert len(routers[0]) == 3
    assert all(torch.equal(one, other) for one, other in zip(*routers, strict=True))


def test_what_decay_would_pull_away_is_kept_out_of_it() -> None:
    for fields, names in (
        ({"stack": "revcol"}, ["alpha"]),
        ({"stack": "layer_mix"}, ["mix.weight"]),
        ({"residual": "laurel"}, ["merge.weights"]),
    ):
        rows = (Block(channels=8, kernel=3), Block(channels=8, kernel=3, residual=True, copies=5))
        model = sk.build(sk.QuartzNet(labels=("a",), blocks=rows, **fields))
        decayed, spared = ({id(p) for p in group["params"]} for group in parameter_groups(model))
        own = [(n, id(p)) for n, p in model.named_parameters() if n.endswith(tuple(names))]
        assert own
        assert all(key in spared for _, key in own)
        assert len(own) == len(spared)
        assert decayed


def test_every_component_is_among_them() -> None:
    entries = [e for e in sk.components() if e.plugin == "residuals"]
    kinds = "residual", "block", "stack", "stem"
    offered = {(e.kind, e.component.name) for e in entries if e.kind in kinds}
    assert offered == {(kind, name.partition(":")[0]) for kind, name in DESIGNS}
    core = {(e.kind, e.component.name) for e in sk.components() if e.plugin == "core"}
    assert not offered & core
