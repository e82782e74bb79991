"""Healing trains a model towards the scores of another."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from speechkit_compression.healing import divergence, heal

import speechkit as sk
from speechkit.errors import ConfigError
from speechkit.models import Net
from speechkit.plugins import registry
from speechkit.probes import Examples
from speechkit.transforms import transform

Corpus = Callable[..., Path]


def test_the_divergence_of_a_model_from_itself_is_0(model: sk.Model, corpus: Corpus) -> None:
    examples = Examples(model, corpus(3), batch_size=3)
    for _, features in examples:
        output = model.score(features)
        assert divergence(output, output).abs().max() < 1e-12


def test_padding_does_not_change_the_divergence(net: Net, corpus: Corpus) -> None:
    one, other = (sk.build(net, seed).eval() for seed in (0, 1))
    manifest = corpus(4)

    def each(size: int) -> torch.Tensor:
        examples = Examples(one, manifest, batch_size=size)
        parts = [divergence(one.score(c), other.score(c)) for _, c in examples]
        return torch.cat(parts).detach()

    torch.testing.assert_close(each(4), each(1), atol=1e-5, rtol=1e-4)
    assert each(4).min() > 0


def test_healing_brings_the_student_to_the_teacher(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    examples = Examples(teacher, corpus(6), batch_size=3)
    before = {name: x.clone() for name, x in teacher.state_dict().items()}
    losses = heal(student, teacher, examples, steps=30)
    assert len(losses) == 30
    assert losses[-1] < 0.7 * losses[0]
    assert not student.training
    assert all(torch.equal(x, before[name]) for name, x in teacher.state_dict().items())


def test_it_does_not_begin_with_the_shortest_recordings(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    frames: list[int] = []
    student.stem.register_forward_pre_hook(lambda _, args: frames.append(args[0].x.shape[-1]))
    heal(student, teacher, Examples(teacher, corpus(12), batch_size=1), steps=6)
    assert len(set(frames)) > 1
    assert frames != sorted(frames)


def test_pruned_weights_stay_0(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    weight = student.get_parameter("encoder.1.sum.body.0.channel.weight")
    with torch.no_grad():
        weight[:4] = 0
    before = weight.clone()
    heal(student, teacher, Examples(teacher, corpus(3)), steps=3)
    assert torch.all(weight[:4] == 0)
    assert not torch.equal(weight[4:], before[4:])


def test_no_step_changes_nothing(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    before = {name: x.clone() for name, x in student.state_dict().items()}
    assert heal(student, teacher, Examples(teacher, corpus(2)), steps=0) == []
    assert all(torch.equal(x, before[name]) for name, x in student.state_dict().items())


def test_a_few_steps_read_recordings_of_all_durations(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    examples = Examples(teacher, corpus(30), batch_size=1)
    read: list[int] = []
    student.stem.register_forward_pre_hook(lambda layer, args: read.append(args[0].x.shape[2]))
    heal(student, teacher, examples, steps=10)
    frames = sorted(features.x.shape[2] for _, features in examples)
    assert min(read) < frames[10]
    assert max(read) > frames[20]


def test_a_loss_that_is_not_finite_ends_it(net: Net, corpus: Corpus) -> None:
    teacher, student = (sk.build(net, seed).eval() for seed in (0, 1))
    with torch.no_grad():
        next(student.head.parameters()).fill_(float("nan"))
    with pytest.raises(sk.errors.TrainingError, match="healing: the loss is nan at step 1"):
        heal(student, teacher, Examples(teacher, corpus(2)), steps=2)


def test_it_is_a_transform(net: Net, corpus: Corpus, tmp_path: Path) -> None:
    teacher, model = (sk.build(net, seed).eval() for seed in (0, 1))
    sk.save(teacher, tmp_path / "teacher")
    examples = Examples(model, corpus(6), batch_size=3)
    spec = f"heal:teacher={tmp_path / 'teacher'},steps=3,lr=0.01"
    made, (applied,) = transform(model, [spec], examples)
    losses = heal(model, teacher, examples, steps=3, lr=0.01)
    assert applied.report == {"first_loss": losses[0], "last_loss": losses[-1]}
    assert all(torch.equal(x, made.state_dict()[name]) for name, x in model.state_dict().items())


def test_a_teacher_with_other_labels_is_refused(
    nets: dict[str, Net], corpus: Corpus, tmp_path: Path
) -> None:
    sk.save(sk.build(nets["ctc"]), tmp_path / "teacher")
    model = sk.build(nets["clip"]).eval()
    with pytest.raises(ConfigError, match="give the model from which it was made"):
        transform(model, [f"heal:teacher={tmp_path / 'teacher'}"], Examples(model, corpus(2)))


@pytest.mark.parametrize("values", ["steps=0", "lr=0"])
def test_at_least_one_step_is_made(values: str) -> None:
    with pytest.raises(ConfigError, match="give 1 or more, and more than 0"):
        registry().build("transform", f"heal:teacher=digits,{values}")
