"""Choosing actions from a log, and the same choices as a tree of hyperplanes."""

from pathlib import Path

import pytest
import soundfile
import torch
from speechkit_heads.prescriptive import NEVER, Choice, PrescriptiveLoss, prescriptive
from speechkit_heads.relu_tree import Tree, grow, relu_tree, stages_of
from torch import Tensor, nn

import speechkit as sk
from speechkit.cli import main
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ComponentError, ManifestError
from speechkit.models import Block
from speechkit.nn import Chunk, FrameWise, LogSoftmax, Pointwise, Serial, StreamLayer
from speechkit.probes import Examples, probe
from speechkit.tasks import task_of
from speechkit.train import Data

ACTIONS = ("plain", "denoised")


def loss_of(scores: Tensor, targets: Tensor, **settings: float) -> Tensor:
    rows = torch.ones(len(scores))
    return PrescriptiveLoss(**settings)(scores, rows, targets, rows)


def deep_net() -> Serial:
    """Two inputs, three scores, and two layers of ReLUs."""
    torch.manual_seed(0)
    layers: list[StreamLayer] = []
    for c_in, c_out in ((2, 8), (8, 6), (6, 3)):
        layers += [Pointwise(c_in, c_out, bias=True), FrameWise(nn.ReLU())]
    return Serial(*layers[:-1]).double()


def points(count: int, seed: int) -> Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed)).double()


@torch.no_grad()
def choices(net: StreamLayer, x: Tensor) -> Tensor:
    return net(Chunk.of(x.T[None])).x[0].argmax(0)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Clips of noise with an action and its cost."""
    chance = torch.Generator().manual_seed(0)
    rows = []
    for index in range(6):
        path = tmp_path / f"{index}.wav"
        sound = 0.1 * torch.randn(6000 + 100 * index, generator=chance)
        soundfile.write(path, sound.numpy(), 16000)
        label = f"{ACTIONS[index % 2]} {0.5 * (index % 2):.2f}"
        rows.append(Utterance(audio=path, duration_s=len(sound) / 16000, label=label))
    write_manifest(tmp_path / "log.jsonl", rows)
    return tmp_path / "log.jsonl"


def config(head: str = "prescriptive") -> sk.MatchboxNet:
    blocks = (Block(channels=6, kernel=5, stride=2), Block(channels=6, kernel=1, separable=False))
    frontend = "log_mel:n_mels=8,normalize=none"
    return sk.MatchboxNet(labels=ACTIONS, blocks=blocks, frontend=frontend, head=head)


def test_the_loss_is_the_known_cost_of_the_policy_and_the_error_of_the_logged_action() -> None:
    scores = torch.tensor([[-0.2, -0.6], [-0.9, -0.4]])
    targets = torch.tensor([[0, 0.5], [0, 0.1]])
    policy = (scores / 0.5).softmax(1)
    cost = policy[:, 0] * targets[:, 1] - policy[:, 1] * scores[:, 1]
    error = (targets[:, 1] + scores[:, 0]).square()
    found = loss_of(scores, targets, mu=0.25, temperature=0.5)
    torch.testing.assert_close(found, 0.25 * cost + 0.75 * error)


def test_what_an_action_would_have_cost_is_no_target_of_its_own() -> None:
    scores = torch.tensor([[-0.2, -0.6]], requires_grad=True)
    loss_of(scores, torch.tensor([[0, 0.5]]), mu=0.0).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, 1] == 0
    assert scores.grad[0, 0] == pytest.approx(2 * (0.5 - 0.2))
    with torch.enable_grad():
        scores.grad = None
        loss_of(scores, torch.tensor([[0, 0.5]]), mu=1.0).sum().backward()
    # the logged action cost less than the other is predicted to: its score must rise
    assert scores.grad[0, 0] < 0 < scores.grad[0, 1]


def test_a_policy_learned_from_a_log_has_a_regret_below_5_percent() -> None:
    torch.manual_seed(0)
    x, actions = torch.rand(1000, 2) * 2 - 1, torch.randint(2, (1000,))
    # action 1 is better above a bent line
    costs = torch.stack([0.5 + 0.4 * x[:, 1], 0.5 - 0.4 * x[:, 1] + 0.4 * x[:, 0].abs()], 1)
    logged = costs.gather(1, actions[:, None]) + 0.05 * torch.randn(1000, 1)
    head = prescriptive(2, 2, ACTIONS, hidden=16)
    weights = list(head.parameters())
    speeds = [torch.zeros_like(w) for w in weights]
    for _ in range(300):
        scores = head(Chunk.of(x[:, :, None])).x[:, :, 0]
        loss = loss_of(scores, torch.cat([actions[:, None], logged], 1)).mean()
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, speed, gradient in zip(weights, speeds, gradients, strict=True):
                speed.mul_(0.9).add_(gradient)
                weight.sub_(speed, alpha=0.1)
    with torch.no_grad():
        chosen = head(Chunk.of(x[:, :, None])).x[:, :, 0].argmax(1)
    reached, best = costs.gather(1, chosen[:, None]).mean(), costs.min(1).values.mean()
    assert reached / best - 1 < 0.05 < costs.mean() / best - 1


def test_a_forbidden_action_is_never_chosen_and_is_trained_all_the_same() -> None:
    torch.manual_seed(0)
    head = prescriptive(3, 2, ACTIONS, forbid="denoised")
    c = Chunk.of(torch.randn(50, 3, 4))
    trained = head.train()(c).x
    assert (trained.argmax(1) == 1).any()
    scores = head.eval()(c).x
    assert (scores[:, 1] == NEVER).all()
    assert torch.equal(scores[:, 0], trained[:, 0])
    for wrong in ("plain denoised", "denoise"):
        with pytest.raises(ComponentError, match=r"forbid=.*(Did you mean|Leave one)"):
            prescriptive(3, 2, ACTIONS, forbid=wrong)


def test_a_run_learns_from_a_manifest_of_actions_and_costs(log: Path, tmp_path: Path) -> None:
    run = sk.Run(
        model=config("prescriptive:hidden=4"), data=Data(train=log, dev=log, batch_size=3), steps=2
    )
    metrics = sk.fit(run, tmp_path / "out", device="cpu")
    model = sk.load(tmp_path / "out/best")
    assert isinstance(task_of(model), Choice)
    assert 0 <= metrics["cost"] <= 0.5
    assert main.run(["evaluate", str(tmp_path / "out/best"), "--manifest", str(log)]) == 0
    assert sk.classify(model, torch.zeros(8000), 16000).label in ACTIONS


def test_the_cost_is_that_of_the_clips_whose_action_is_chosen() -> None:
    task = task_of(sk.build(config()))
    found = task.metrics([(0, 0.2), (1, 0.6), (0, 0.4), (1, 0.0)], [0, 0, 0, 1])
    assert found == pytest.approx({"cost": 0.2, "matched": 0.75})
    assert task.error(found) == pytest.approx(0.2)
    assert task.metrics([(0, 0.2), (0, 0.4)], [1, 1])["cost"] == pytest.approx(0.3)


@pytest.mark.parametrize("label", [None, "plain", "plain much", "loud 0.3", "plain nan"])
def test_a_label_without_an_action_and_a_cost_is_an_error(label: str | None) -> None:
    utterance = Utterance(audio=Path("a.wav"), duration_s=1, label=label)
    with pytest.raises(ManifestError, match=r"a\.wav: label .*give one of .*'plain 0\.25'"):
        task_of(sk.build(config())).encode(utterance)


def test_the_tree_chooses_as_the_net_on_3000_points() -> None:
    net, x = deep_net(), points(3000, 1)
    tree = grow(stages_of(net), x)
    assert torch.equal(tree.choose(x), choices(net, x))
    assert len(tree.share) > 20
    assert len(tree.tests) == len(tree.share) - 1
    assert int(tree.depth) < 14
    # new points are in the same regions but for a few
    new = points(3000, 2)
    assert (tree.choose(new) == choices(net, new)).double().mean() > 0.99


def test_leaves_are_disjoint_and_hold_all_points_with_their_scores() -> None:
    net, x = deep_net(), points(500, 3)
    tree = grow(stages_of(net), x)
    assert float(tree.share.sum()) == pytest.approx(1)
    assert (tree.share > 0).all()
    # each leaf is reached from one place
    reached = sorted(int(child) for child in tree.children.flatten())
    assert reached == sorted([*range(-len(tree.share), 0), *range(1, len(tree.tests))])
    with_one = torch.cat([x, x.new_ones(500, 1)], 1)
    with torch.no_grad():
        scores = net(Chunk.of(x.T[None])).x[0].T
    errors = (torch.einsum("rkc,nc->rnk", tree.maps, with_one) - scores).abs().amax(2)
    assert errors.min(0).values.max() < 1e-12


def test_a_net_that_is_linear_at_all_points_is_one_leaf() -> None:
    tree = grow([torch.tensor([[1.0, 0, 100]]).double(), torch.eye(2).double()], points(10, 0))
    assert (len(tree.tests), len(tree.share), int(tree.depth)) == (0, 1, 0)
    assert tree.choose(points(5, 1)).shape == (5,)


def test_the_probe_finds_the_tree_of_a_model_with_a_forbidden_action(log: Path) -> None:
    for head, only in (("prescriptive:hidden=6", None), ("prescriptive:forbid=plain", 1)):
        model = sk.build(config(head), seed=1).eval()
        found = probe(model, ["relu_tree"], Examples(model, log))["relu_tree"]
        assert found.pop("agreement") == 1
        chosen = Tree(**found).choose(torch.randn(100, 6).double())
        assert only is None or (chosen == only).all()


def test_the_page_of_a_frame_head_is_written(log: Path, tmp_path: Path) -> None:
    model = sk.build(sk.MarbleNet(frame_level=True, size="1x1x8", head="convex_relu:width=5"))
    sk.save(model, tmp_path / "vad")
    given = [str(tmp_path / "vad"), "--manifest", str(log), "--out", str(tmp_path / "found")]
    assert main.run(["probe", *given, "--with", "relu_tree:points=50"]) == 0
    assert "agreement" in (tmp_path / "found/probe.html").read_text(encoding="utf-8")


def test_other_heads_are_refused() -> None:
    with pytest.raises(ComponentError, match="has a layer LogSoftmax; give a model with a head of"):
        stages_of(Serial(Pointwise(2, 3), LogSoftmax()))
    with pytest.raises(ComponentError, match="points=0; give 1 or more"):
        relu_tree(points=0)
    for settings in ({"mu": 1.5}, {"temperature": 0.0}):
        with pytest.raises(ComponentError, match="give a mu from 0 to 1 and a temperature above 0"):
            PrescriptiveLoss(**settings)
