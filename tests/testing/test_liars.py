"""Each check of the conformance kit catches the fault that it is for, and says which."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.builtin.factories import clip_head
from speechkit.component import Component, Spec
from speechkit.decode.greedy import GreedyCTC
from speechkit.errors import ConfigError
from speechkit.hookspecs import KINDS, hookimpl
from speechkit.models import MatchboxNet
from speechkit.native.libraries import load
from speechkit.nn import (
    Add,
    Affine,
    AveragePool,
    BodyMaker,
    Chunk,
    Delay,
    DepthwiseConv,
    FrameWise,
    Pointwise,
    PooledHead,
    Residual,
    Serial,
    State,
    StreamLayer,
)
from speechkit.nn.lowering import Lowering
from speechkit.plans.engine import SOURCE
from speechkit.plans.program import Value
from speechkit.plugins import Entry, Registry, registry
from speechkit.tasks.clip import Classification
from speechkit.testing.checks import functions_for
from speechkit.testing.conformance import Check, run_checks
from speechkit.train import Method

from .liars import (
    LIARS,
    PROBES,
    TASKS,
    TRANSFORMS,
    HalvesItsHead,
    LargestScore,
    Leaky,
    Previous,
    StreamsTheLastFrames,
    Strided,
)
from .liars import Honest as Plain

needs_compiler = pytest.mark.skipif(
    isinstance(load(SOURCE), str), reason="there is no C++ compiler"
)

NOTHING: Mapping[str, Component] = {}


def component(name: str, factory: Any, **fields: Any) -> Component:
    return Component(name=name, factory=factory, summary="one of ours", formula="x", **fields)


def errors(
    kind: str, factory: Any, beside: Mapping[str, Component] = NOTHING, **fields: Any
) -> dict[str, str]:
    """What the kit says of a component, by the name of the check; `beside` are others by kind."""
    liars = SimpleNamespace()
    for other, one in {**beside, kind: component("liar", factory, **fields)}.items():
        setattr(liars, KINDS[other], hookimpl(lambda one=one: [one]))
    registry = Registry({"SPEECHKIT_PLUGINS": ""})
    registry.add(liars, "liars")
    entry = registry.find(kind, "liars/liar")
    found = {f.__name__: Check(entry, f, registry).outcome().error for f in functions_for(entry)}
    return {name: error for name, error in found.items() if error}


def activation(function: Callable[[Tensor], Tensor]) -> Callable[[int], nn.Module]:
    """A factory of modules that compute a function."""

    class Made(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    return lambda channels: Made()


class Honest(Plain):
    """y = x · weight + bias, which folds into the layer before it."""

    def fuse(self) -> Affine:
        return Affine(self.weight.detach(), self.bias.detach())


def causal(layer: type[StreamLayer]) -> dict[str, str]:
    return errors("norm", lambda channels: layer(), time="causal")


def of_class(made: type[nn.Module]) -> dict[str, str]:
    """What the kit finds of a class of `liars`."""
    if issubclass(made, DepthwiseConv | Strided):
        return errors("mixer", made, time="lookahead")
    return errors("norm", made, time="causal" if issubclass(made, StreamLayer) else "frame")


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
def test_a_planted_liar_fails_its_check(liar: type[nn.Module]) -> None:
    assert LIARS[liar] in of_class(liar)


@pytest.mark.parametrize("honest", [Plain, Leaky, Strided, Previous, DepthwiseConv])
def test_what_the_liars_are_made_of_passes(honest: type[nn.Module]) -> None:
    assert not of_class(honest)


def test_honest_components_pass() -> None:
    assert not errors("norm", Honest, foldable=True, exports=frozenset({"torch", "torch.export"}))
    assert not causal(Leaky)
    assert not errors("activation", activation(torch.sigmoid))


def test_a_time_leak() -> None:
    found = errors("norm", activation(lambda x: x - x.mean(2, keepdim=True)))
    message = "declares time='frame', but Made: frame t reads frames t-199..t+199"
    assert found["check_time_field_is_true"] == message
    assert "check_padding_is_inert" in found
    assert "check_stream_equals_offline" in found


def test_more_look_ahead_than_the_layer_says() -> None:
    def mixer(channels: int, kernel: int, stride: int, dilation: int, lookahead: Any) -> Any:
        conv = DepthwiseConv(channels, kernel, stride, dilation, "same")
        conv.right = 0
        return conv

    found = errors("mixer", mixer, time="lookahead")
    assert "frame t reads frames t-2..t+2, but right is 0" in found["check_time_field_is_true"]


def test_a_causal_layer_that_looks_ahead() -> None:
    found = errors("norm", lambda channels: DepthwiseConv(channels, 5), time="causal")
    assert "t-2..t+2" in found["check_time_field_is_true"]


def test_a_batch_leak() -> None:
    found = errors("norm", activation(lambda x: x - x.mean(0, keepdim=True)))
    assert "row 0 beside a row of NaN" in found["check_batch_rows_independent"]


def test_an_input_changed_in_place() -> None:
    found = errors("activation", activation(lambda x: x.relu_()))
    assert found["check_input_not_modified"] == "Made writes into its input"


def test_a_buffer_that_evaluation_changes() -> None:
    class Counting(Honest):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    found = errors("norm", Counting, foldable=True)
    assert "changes module.calls in evaluation" in found["check_input_not_modified"]


def test_an_unregistered_weight() -> None:
    class Hidden(Honest):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.hidden = torch.randn(channels, 1)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.hidden

    found = errors("norm", Hidden)
    assert "state dict" in found["check_state_dict_round_trip"]


def test_a_count_that_the_state_dict_lacks() -> None:
    class Progressive(Honest):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.steps += int(torch.randint(5, ()))
            return super().forward(x) * self.steps

    assert "check_state_dict_round_trip" in errors("norm", Progressive)


@pytest.mark.parametrize("foldable", [True, False])
def test_a_wrong_foldable(foldable: bool) -> None:
    class Different(Honest):
        def fuse(self) -> Affine:
            return Affine(self.weight.detach(), -self.bias.detach())

    found = errors("norm", Different, foldable=foldable)["check_fuse_equals"]
    assert ("after fuse()" if foldable else "declares foldable=False") in found


def test_foldable_without_fuse() -> None:
    found = errors("activation", activation(torch.tanh), foldable=True)
    assert found["check_fuse_equals"].startswith("declares foldable=True, but")


@pytest.mark.parametrize(
    "function", [lambda x: x.exp().log(), lambda x: x / x.abs(), lambda x: x.abs().sqrt()]
)
def test_nan_at_extremes(function: Callable[[Tensor], Tensor]) -> None:
    found = errors("activation", activation(function))
    message = found.get("check_shape_and_dtype", "") + found.get("check_gradients", "")
    assert "not finite at" in message


def test_a_dtype_that_is_lost() -> None:
    found = errors("activation", activation(lambda x: x.float()))
    assert "torch.float32 from torch.float64" in found["check_shape_and_dtype"]


def test_a_wrong_number_of_channels() -> None:
    found = errors("channel", lambda c_in, c_out: Pointwise(c_in, c_in))
    assert "channels_out(8) is 8, not 6" in found["check_shape_and_dtype"]


def test_a_state_that_changes_shape() -> None:
    class Growing(Leaky):
        def after(self, y: Tensor, state: State) -> State:
            return (y, y)

        def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
            return super().step(c, state[:1])

    assert "1 tensors becomes one of 2" in causal(Growing)["check_state_is_a_fixed_tree"]


def test_a_state_that_is_written_into() -> None:
    class Writing(Leaky):
        def after(self, y: Tensor, state: State) -> State:
            state[0].copy_(y)
            return state

    assert "writes into the state" in causal(Writing)["check_state_is_a_fixed_tree"]


def test_a_state_that_all_rows_share() -> None:
    class Shared(Leaky):
        def init_state(self, batch: int, *more: Any) -> State:
            return (super().init_state(1, *more)[0],)

    assert "for 2 rows" in causal(Shared)["check_state_is_a_fixed_tree"]


def test_a_state_kept_on_the_layer() -> None:
    class Keeping(Leaky):
        kept: Tensor | None = None

        def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
            self.kept = c.x
            return super().step(c, state)

    assert "writes its attribute kept" in causal(Keeping)["check_thread_safe"]


def test_frames_that_are_lit_where_there_are_none() -> None:
    class Lit(DepthwiseConv):
        """f(0) = 1 before a convolution that takes every frame for a real one."""

        def forward(self, c: Chunk) -> Chunk:
            lit = Chunk(c.masked.cos(), torch.ones_like(c.valid))
            return Chunk(super().forward(lit).x, self.own(c.valid))

    found = errors("mixer", Lit, time="lookahead")
    assert "frames in a batch of 25: differs" in found["check_padding_is_inert"]
    assert "check_stream_equals_offline" in found


def test_padding_that_counts_in_training() -> None:
    class OfTheBatch(StreamLayer):
        def forward(self, c: Chunk) -> Chunk:
            return Chunk(c.x - c.x.mean((0, 2), keepdim=True) if self.training else c.x, c.valid)

    found = errors("norm", lambda channels: OfTheBatch())
    assert "in training, padded with NaN" in found["check_padding_is_inert"]


def test_padding_that_becomes_valid() -> None:
    class Confident(StreamLayer):
        def forward(self, c: Chunk) -> Chunk:
            return Chunk(c.masked, torch.ones_like(c.valid))

    found = errors("norm", lambda channels: Confident())
    assert "25 valid frames of 12 in a batch, 12 alone" in found["check_padding_is_inert"]


def test_an_export_that_differs() -> None:
    def different(x: Tensor) -> Tensor:
        return x.sin() if torch.compiler.is_exporting() else x.cos()

    fields = {"exports": frozenset({"torch", "torch.export", "onnx"})}
    found = errors("activation", activation(different), **fields)
    assert "declares exports 'onnx', but" in found["check_export_equals"]
    assert "scores are off by" in found["check_export_equals"]


def test_a_layer_without_the_export_it_declares() -> None:
    def counts(x: Tensor) -> Tensor:
        return x * float(x.max())

    fields = {"exports": frozenset({"torch", "torch.export"})}
    found = errors("activation", activation(counts), **fields)
    assert "has no torch.export form" in found["check_export_equals"]


def test_an_unknown_export() -> None:
    found = errors("activation", activation(torch.tanh), exports=frozenset({"tflite"}))
    assert "exports has 'tflite'" in found["check_export_equals"]


def test_a_block_that_misaligns_its_branches() -> None:
    def block(c_in: int, c_out: int, make_body: BodyMaker, index: int, depth: int) -> StreamLayer:
        merge = make_body.merge(c_out, index, depth)
        made = Residual(make_body(c_in, c_out), make_body.shortcut(c_in, c_out), merge)
        made.shortcut_wait = Delay(made.shortcut_wait.delay - 1)
        return made

    found = errors("block", block, time="lookahead")
    assert "check_gradients" not in found
    assert "Residual in chunks of 1" in found["check_stream_equals_offline"]


def test_a_stack_that_gives_a_wrong_delay() -> None:
    def stack(blocks: list[StreamLayer]) -> StreamLayer:
        made = Serial(*blocks)
        made.delay += 1
        return made

    assert "check_stream_equals_offline" in errors("stack", stack, time="lookahead")


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        (lambda: float(torch.rand(())), "torch"),
        (np.random.rand, "numpy"),
    ],
)
def test_a_draw_from_a_global_generator(draw: Callable[[], float], name: str) -> None:
    found = errors("activation", activation(lambda x: x * (1 + draw())))
    assert f"draws from {name}'s global generator" in found["check_no_global_rng"]


def test_dropout_may_draw_from_torch_in_training() -> None:
    assert not errors("activation", lambda channels: nn.Dropout(0.3))


def test_a_parameter_that_nothing_trains() -> None:
    class Idle(Honest):
        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight.detach()[:, None] + self.bias[:, None]

    found = errors("norm", Idle)
    assert "no gradient reaches module.weight" in found["check_gradients"]


class Straight(torch.autograd.Function):
    """y = 2 x with the gradient of y = x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # type: ignore[override]
        return dy


@needs_compiler
def test_a_native_form_that_is_another_function() -> None:
    class Doubled(Plain):
        def lower(self, program: Lowering, x: Value) -> Value:
            return program.affine(x, 2 * self.weight, self.bias)

    class Shifted(nn.Module):
        def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
            return shortcut + body

        def lower(self, program: Lowering, shortcut: Value, body: Value) -> Value:
            return program.add(FrameWise(nn.ReLU()), program.merge(Add(), shortcut, body))

    for kind, made in (("norm", Doubled), ("residual", lambda *args: Shifted())):
        assert "in a native step: differs" in errors(kind, made)["check_lowered_equals"]


@pytest.mark.parametrize("work", [lambda n: n / 2, lambda n: -n])
def test_multiply_adds_that_cannot_be(work: Callable[[int], float]) -> None:
    class Counted(Plain):
        def macs(self, frames: int) -> float:
            return work(frames)

    assert "macs" in errors("norm", Counted)["check_macs_grow_with_frames"]


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_a_gradient_of_another_function(mode: str) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Straight.apply(x) if self.training == (mode == "training") else x * 2

    found = errors("activation", lambda channels: Doubled())["check_gradients"]
    assert f"in {mode}: the gradient is not that of the function" in found


def test_an_expression_of_another_function() -> None:
    class Tanh(nn.Module):
        expression = "sigmoid(x)"

        def forward(self, x: Tensor) -> Tensor:
            return x.tanh()

    found = errors("activation", lambda channels: Tanh())
    assert "expression 'sigmoid(x)': differs" in found["check_expression_equals"]
    assert "in a fused net: differs" in found["check_fuse_equals"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x * sigmoid(beta * x)", ""),
        ("x * sigmoid(x)", "differs by"),
        ("x * sigmoid(gamma * x)", "'gamma' is not x or a number; give the module an attribute"),
        ("x * sigmoid(", "was never closed"),
        ("__import__('os')", "there is no __import__"),
    ],
)
@pytest.mark.parametrize("learn", [False, True])
def test_an_expression_with_numbers(text: str, says: str, learn: bool) -> None:
    class Swish(nn.Module):
        expression = text

        def __init__(self, channels: int, beta: float = 1.0) -> None:
            super().__init__()
            self.beta = nn.Parameter(torch.full((channels, 1), beta)[:, 0]) if learn else beta

        def forward(self, x: Tensor) -> Tensor:
            beta = self.beta.to(x.dtype)[:, None] if learn else self.beta
            return x * torch.sigmoid(beta * x)

    found = errors("activation", Swish, example={"beta": 1.5}, paper="arXiv:1710.05941")
    if not says:
        assert not found
    assert says in found.get("check_expression_equals", "")


def test_a_whole_utterance_that_pretends_to_stream() -> None:
    class Centred(StreamLayer):
        def forward(self, c: Chunk) -> Chunk:
            count = c.lengths.clamp(min=1)[:, None, None]
            return Chunk(c.x - c.masked.sum(2, keepdim=True) / count, c.valid)

    found = errors("norm", lambda channels: Centred(), time="utterance")
    assert "its step raises no StreamError" in found["check_stream_equals_offline"]
    assert "but left is 0" in found["check_time_field_is_true"]


def test_metadata() -> None:
    component = Component(name="Not snake", factory=nn.Tanh, summary="x", formula="x")
    entry = Entry("activation", component, "liars", "0")
    (check,) = (Check(entry, f) for f in functions_for(entry) if f.__name__ == "check_metadata")
    assert check.id == "activation:liars/Not snake::check_metadata"
    assert check.outcome().error == "name 'Not snake' is not snake_case"
    found = errors("norm", Honest, example={"eps": 1})
    assert found["check_example_builds"] == "example has ['eps']; it takes ['channels']"
    found = errors("norm", Honest, parts={"first": "norm"})
    assert found["check_metadata"] == "parts has 'first'; it takes ['channels']"
    found = errors("norm", Honest, time="nonsense")
    assert found["check_metadata"].startswith("time is 'nonsense'; give frame, causal")
    found = errors("norm", Honest, parts={"channels": "nrm"})
    assert "parts: channels is of no kind 'nrm'. Did you mean 'norm'" in found["check_metadata"]


def test_a_part_that_is_not_declared() -> None:
    def around(channels: int, first: Spec | str = "core/batch", how: str = "none") -> nn.Module:
        made: nn.Module = registry().build("norm", first, channels)
        return made

    says = "it builds the norm core/batch; declare parts={'first': 'norm'}"
    for parts in ({}, {"first": "pool"}, {"how": "norm"}):
        assert errors("norm", around, parts=parts)["check_parts_are_declared"] == says
    assert "check_parts_are_declared" not in errors("norm", around, parts={"first": "norm"})


def merge(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., nn.Module]:
    class Made(nn.Module):
        def forward(self, shortcut: Tensor, body: Tensor) -> Tensor:
            return function(shortcut, body)

    return lambda channels, index, depth: Made()


def test_a_merge_rule_that_looks_aside() -> None:
    assert not errors("residual", merge(lambda shortcut, body: shortcut * body))
    found = errors("residual", merge(lambda shortcut, body: shortcut + body.roll(1, 2)))
    assert "check_time_field_is_true" in found


def test_training_components() -> None:
    def descend(params: Any, lr: float = -0.1) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.1, maximize=lr < 0)

    assert "steps went from" in errors("optimizer", descend)["check_step_lowers_a_loss"]
    assert not errors("optimizer", descend, example={"lr": 0.1})
    found = errors("schedule", lambda steps: lambda step: 1 / step if step else float("nan"))
    assert found["check_factors_are_finite"] == "the factor at step 0 is nan"

    def one_for_all(*batch: Any) -> Tensor:
        return batch[0].mean()

    assert "losses []" in errors("loss", lambda: one_for_all)["check_losses_are_finite"]


def test_a_loss_of_one_number_per_clip() -> None:
    def huber(scores: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        return F.huber_loss(scores.squeeze(1), targets, reduction="none")

    assert not errors("loss", lambda: huber)


def test_a_loss_that_takes_no_targets_says_which_were_tried() -> None:
    def of_pairs(scores: Tensor, lengths: Tensor, targets: Tensor, ends: Tensor) -> Tensor:
        raise ValueError("two numbers, please")

    (found,) = errors("loss", lambda: of_pairs).values()
    assert "none of the targets tried; texts [2, 3], labels of clips [2]" in found
    assert found.endswith("rows of numbers [2, 5]: two numbers, please")


def test_chance_beside_the_generator() -> None:
    class Noise:
        domain = "audio"

        def __call__(self, x: Tensor, length: int, generator: torch.Generator) -> Any:
            return x + torch.randn_like(x), length

    with torch.random.fork_rng():
        found = errors("augmentation", Noise)["check_generator_decides"]
        assert found == "the same seed gave something else the second time"

        def init(model: nn.Module, generator: torch.Generator) -> None:
            torch.rand(())

        found = errors("init", lambda: init)["check_generator_decides"]
    assert found == "draws from torch's global generator"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (lambda index: [8 - index], "utterance 0 is not in [8]"),
        (lambda index: [index, 9], "[0, 9] of 9 utterances"),
        (lambda index: [index, 7], "joined, 11 s of 10 s"),
    ],
)
def test_utterances_joined_wrongly(parts: Callable[[int], list[int]], message: str) -> None:
    class Joins:
        domain = "utterances"

        def __call__(self, index: int, utterances: Any, generator: torch.Generator) -> list[int]:
            return parts(index)

    assert errors("augmentation", Joins)["check_generator_decides"] == message


def test_an_augmentation_of_no_domain() -> None:
    class Colours:
        domain = "colours"

        def __call__(self, x: Tensor, length: int, generator: torch.Generator) -> Any:
            return x, length

    found = errors("augmentation", Colours)["check_generator_decides"]
    assert found == "its domain is 'colours'; give one of audio, features, utterances"


def test_a_decoder_that_forgets() -> None:
    class Forgetful:
        def __init__(self, labels: tuple[str, ...]) -> None:
            self.labels = labels

        def init(self) -> tuple[int, ...]:
            return ()

        def step(self, state: Any, log_probs: np.ndarray) -> tuple[Any, str]:
            best = int(log_probs.sum(0).argmax())
            return (best,), str(best)

        def finish(self, state: Any) -> str:
            return str(state)

        def restore(self, values: Any) -> Any:
            return tuple(values)

    found = errors("decoder", Forgetful)["check_chunks_change_nothing"]
    assert found.startswith("texts by frames at a time")


def test_a_decoder_that_writes_into_the_scores() -> None:
    class Writing(GreedyCTC):
        def step(self, state: Any, log_probs: np.ndarray) -> tuple[Any, str]:
            log_probs[:, 0] = 0
            return super().step(state, log_probs)

    found = errors("decoder", Writing)["check_chunks_change_nothing"]
    assert "read-only" in found


class Growing(Method):
    """A method whose loss grows with its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def extra_loss(self, batch: Any, output: Any, *features: Any) -> Tensor:
        self.calls += 1
        return self.calls * output.scores.square().mean((1, 2))


class Steady(Growing):
    """The same with a loss that does not grow."""

    def extra_loss(self, batch: Any, output: Any, *features: Any) -> Tensor:
        return output.scores.square().mean((1, 2))


def test_a_method_that_does_not_resume() -> None:
    assert not errors("method", Steady)
    found = errors("method", Growing)["check_method_resumes"]
    assert "differs where a run was stopped after a step and went on" in found


OF_EACH_PROCESS = """
import speechkit as sk
import torch
from speechkit.train import Method


class Noise(Method):
    @torch.no_grad()
    def after_step(self, model, step, optimizer):
        generator = self.generator(step) if {seeded} else None
        for weight in model.parameters():
            weight += 0.01 * torch.randn(weight.shape, generator=generator)


@sk.hookimpl
def speechkit_methods():
    return [sk.Component(name="noise", factory=Noise, summary="Noise", formula="w + n")]
"""


def test_a_count_that_matters_late() -> None:
    class Later(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += self.training
            return x * (2 if self.calls > 1000 else 1)

    found = errors("activation", Later)["check_state_dict_round_trip"]
    assert "its attribute module.calls is 3 after training and 0 in a layer" in found


def test_a_method_that_differs_between_processes(tmp_path: Path) -> None:
    check = "check_method_in_two_processes"
    for name, seeded in (("same_noise", True), ("own_noise", False)):
        (tmp_path / f"{name}.py").write_text(OF_EACH_PROCESS.replace("{seeded}", str(seeded)))
        (outcome,) = run_checks(str(tmp_path / f"{name}.py"), [check])
        assert ("differs between the two processes" in outcome.error) is not seeded, outcome.error


def test_a_method_that_needs_another_net() -> None:
    class OfTanh(Steady):
        def start(self, model: Any, dataset: Any) -> None:
            if not any(isinstance(module, nn.Hardtanh) for module in model.modules()):
                raise ValueError("give activation=hardtanh")

    assert "give activation=hardtanh" in errors("method", OfTanh)["check_method_resumes"]
    assert not errors("method", OfTanh, needs={"activation": "hardtanh"})


def test_exporters() -> None:
    class Copies:
        suffix = ".bin"

        def __init__(self, streaming: bool = False, features: bool = True) -> None:
            pass

        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            path.write_bytes(b"weights")
            return 0.0

    class Empty(Copies):
        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            path.touch()
            return 0.0

    class Rounds(Copies):
        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            for parameter in model.parameters():
                parameter.data.round_()
            return super().__call__(model, example, path)

    class Nameless(Copies):
        suffix = ""

    class Elsewhere(Copies):
        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            return super().__call__(model, example, path.with_suffix(".other"))

    class Louder(Copies):
        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            example[0].mul_(2)
            return super().__call__(model, example, path)

    class Far(Copies):
        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            return super().__call__(model, example, path) + 0.5

    class Lost(Far):
        def __call__(self, model: nn.Module, example: Any, path: Path) -> float:
            return super().__call__(model, example, path) * math.nan

    class Refuses(Copies):
        def __init__(self, streaming: bool, features: bool) -> None:
            if streaming:
                raise ConfigError("no form for a stream; leave out --streaming")

    class Unready(Copies):
        def __init__(self, streaming: bool, features: bool) -> None:
            if streaming:
                raise NotImplementedError

    def found(exporter: type) -> str:
        return errors("exporter", exporter).get("check_export_is_written", "")

    assert not found(Copies)
    assert not found(Refuses)
    assert "NotImplementedError" in found(Unready)
    assert found(Elsewhere) == "it writes no file at the path that it is given"
    assert found(Louder) == "it changes the sounds that it is given"
    assert found(Far) == "the file's scores are off by 0.5"
    assert found(Lost) == "the file's scores are off by nan"
    assert found(Empty) == "the file is empty"
    assert found(Rounds) == "it changes the model's weights"
    assert "suffix is ''" in found(Nameless)

    def narrow() -> Any:
        return Copies()

    assert "`speechkit export` gives streaming too" in found(narrow)


@pytest.mark.parametrize("liar", PROBES, ids=lambda liar: liar.__name__)
def test_a_planted_probe_fails_its_check(liar: type) -> None:
    assert PROBES[liar] in errors("probe", liar)["check_probe_finds_the_same"]


@pytest.mark.parametrize("liar", TRANSFORMS, ids=lambda liar: liar.__name__)
def test_a_planted_transform_fails_its_check(liar: type) -> None:
    assert TRANSFORMS[liar] in errors("transform", liar)["check_transform_makes_a_model"]


def test_what_the_planted_probes_and_transforms_are_made_of_passes() -> None:
    assert not errors("probe", LargestScore)
    assert not errors("transform", HalvesItsHead)


@pytest.mark.parametrize("liar", TASKS, ids=lambda liar: liar.__name__)
def test_a_planted_task_fails_its_check(liar: type) -> None:
    check, says = TASKS[liar]
    assert says in of_clips(liar)[check]


def test_what_the_planted_tasks_are_made_of_passes() -> None:
    assert not of_clips(Classification)


def of_clips(task: type) -> dict[str, str]:
    """What the kit says of a task that a head over clips serves."""
    head = component("liar", clip_head, task="liar", time="utterance")
    loss = component("of_the_batch", lambda: lambda scores, *targets: scores.mean())
    return errors("task", task, {"head": head, "loss": loss})


def test_a_task_that_no_head_serves() -> None:
    found = errors("task", Classification)["check_task_trains"]
    assert "head ctc serves task ctc; no head serves this one" in found


@pytest.mark.parametrize(
    ("task", "says"),
    [("", "its component names no task, such as task='clip'"), ("clp", "Did you mean 'clip'?")],
)
def test_a_head_that_serves_no_task(task: str, says: str) -> None:
    found = errors("head", clip_head, task=task, time="utterance")["check_head_serves_a_task"]
    assert says in found


def test_a_head_over_clips_that_streams_something_else() -> None:
    found = errors("head", StreamsTheLastFrames, task="clip", time="utterance")
    assert set(found) == {"check_clip_head_streams"}
    assert "running() at the last frame: differs" in found["check_clip_head_streams"]


def test_a_head_is_given_the_labels() -> None:
    class Named(PooledHead):
        def __init__(self, channels: int, labels: int, names: tuple[str, ...]) -> None:
            assert len(names) == labels
            super().__init__(AveragePool(), Pointwise(channels, labels, bias=True))

    assert not errors("head", Named, task="clip", time="utterance")


def test_a_config_of_another_kind() -> None:
    found = errors("net", MatchboxNet, example={"labels": ["a"]})["check_config_round_trip"]
    assert found == "its kind is 'matchboxnet', the component's name 'liar'"
    found = errors("net", dict)["check_config_round_trip"]
    assert found == "dict is not derived from models.Net"
