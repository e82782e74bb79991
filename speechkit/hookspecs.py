"""The plugin interface: one hook per kind of component, one for commands, and four for runs.

A plugin is a module with functions of these names, marked `@speechkit.hookimpl`, that return a
list of `Component`. Hooks that list components have no side effects. `factory(...)` below shows the
arguments of `Component.factory`; every tensor is `[B, C, T]` in channels-last layout.
"""

# mypy: disable-error-code="empty-body"
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from speechkit.component import Component

PROJECT = "speechkit"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def speechkit_activations() -> list[Component]:
    """`factory(channels, **p)` → Module applied to each frame; a NaN stays in its frame."""


@hookspec
def speechkit_norms() -> list[Component]:
    """`factory(channels, **p)` → Module per frame, or StreamLayer if statistics depend on time."""


@hookspec
def speechkit_channel_layers() -> list[Component]:
    """`factory(c_in, c_out, **p)` → Module mixing channels frame by frame (1×1 conv, KAN)."""


@hookspec
def speechkit_mixers() -> list[Component]:
    """`factory(channels, kernel, stride, dilation, lookahead, **p)` → StreamLayer over time."""


@hookspec
def speechkit_residuals() -> list[Component]:
    """`factory(channels, index, depth, **p)` → Module `(shortcut, body) -> y`, per frame.

    A merge rule only: the core aligns the two branches' delays. `index` of `depth` blocks.
    """


@hookspec
def speechkit_blocks() -> list[Component]:
    """`factory(c_in, c_out, make_body, index, depth, **p)` → StreamLayer calling the body itself.

    `make_body(c_in, c_out)` is the block's sub-blocks up to the last norm; `make_body.shortcut`,
    `.merge`, `.norm`, `.activation` and the block's shape come with it (`speechkit.nn.BodyMaker`).
    """


@hookspec
def speechkit_stacks() -> list[Component]:
    """`factory(blocks, **p)` → StreamLayer over the whole list of blocks (columns, dense links).

    A parameter `channels` of the factory is given the number of input channels.
    """


@hookspec
def speechkit_stems() -> list[Component]:
    """`factory(c_in, c_out, make_body, **p)` → StreamLayer, the first layer after the front end."""


@hookspec
def speechkit_heads() -> list[Component]:
    """`factory(channels, labels, **p)` → StreamLayer giving scores; `labels` is their number.

    The component's `task` names what the scores are for. A factory with a parameter `names` is
    given the labels themselves. A head that pools over time is a `speechkit.nn.ClipHead`.
    """


@hookspec
def speechkit_inits() -> list[Component]:
    """`factory(**p)` → `f(model, generator)`, which sets the initial weights in place."""


@hookspec
def speechkit_pools() -> list[Component]:
    """`factory(channels, **p)` → StreamLayer pooling over time (`[B, C, 1]` or one per frame)."""


@hookspec
def speechkit_frontends() -> list[Component]:
    """`factory(sample_rate, **p)` → StreamLayer from audio `[B, 1, N]` to features `[B, F, T]`."""


@hookspec
def speechkit_normalizers() -> list[Component]:
    """`factory(features, **p)` → StreamLayer over features `[B, F, T]`, in a front end.

    Where it has a method `fit(chunks)`, that is given features of the training data before the
    first step.
    """


@hookspec
def speechkit_augmentations() -> list[Component]:
    """`factory(**p)` → `f(x, length, generator)` → (x, length).

    `x` is one utterance: audio `[1, N]` or features `[F, T]`, as the factory's attribute `domain`
    says (`"audio"`, `"features"`). Every random choice is drawn from the generator. A factory with
    a parameter `sample_rate` is given the model's.

    With the domain `"utterances"` it is `f(index, utterances, generator)` → the indices of the
    utterances that are read one after another in place of `index`. A parameter `max_duration_s`
    receives the most that they may last together.
    """


@hookspec
def speechkit_losses() -> list[Component]:
    """`factory(**p)` → `f(scores, lengths, targets, target_lengths)` → losses `[B]`."""


@hookspec
def speechkit_optimizers() -> list[Component]:
    """`factory(params, **p)` → `torch.optim.Optimizer`; `lr` is one of the parameters.
    `params` are groups; that of what layers keep out of weight decay has `weight_decay` 0."""


@hookspec
def speechkit_schedules() -> list[Component]:
    """`factory(steps, **p)` → `f(step)` → the factor of the base learning rate at that step."""


@hookspec
def speechkit_methods() -> list[Component]:
    """`factory(**p)` → a `speechkit.train.Method`: what adds losses, changes gradients or changes
    weights in training; docs/methods.md."""


@hookspec
def speechkit_tasks() -> list[Component]:
    """`factory(model, **p)` → a `speechkit.tasks.Task`: the targets, loss, metrics, verb, events
    and report of models with a head for it; docs/tasks.md."""


@hookspec
def speechkit_nets() -> list[Component]:
    """`factory(**fields)` → a config, a dataclass derived from `speechkit.models.Net`: the factory
    is that class, and the component has the name that its field `kind` has."""


@hookspec
def speechkit_decoders() -> list[Component]:
    """`factory(labels, **p)` → `init()`, `step(state, log_probs)` → (state, text so far),
    `finish(state)` → text, and the rest of `speechkit.decode.Decoder`; pure in state. `log_probs`
    are a numpy array `[T, V + 1]`, float32."""


@hookspec
def speechkit_exporters() -> list[Component]:
    """`factory(streaming, features, **p)` → `f(model, example, path)`, which writes a file and
    returns the largest difference of its scores relative to the largest, or None.

    The factory's attribute `suffix` ends the file's name. The file is for a block of a stream where
    `streaming`, else for an utterance; it has the front end in it where `features`. A factory with
    a parameter `folder` gets the model's, or None. `example` is audio `[B, N]` and lengths `[B]`;
    what `f` raises leaves no file behind (docs/export.md).
    """


@hookspec
def speechkit_probes() -> list[Component]:
    """`factory(**p)` → `f(model, examples)` → `dict[str, Tensor]`: measurements of a trained model;
    docs/probes.md."""


@hookspec
def speechkit_transforms() -> list[Component]:
    """`factory(**p)` → `f(model, examples)` → (model, report): a new model from a trained one;
    docs/transforms.md."""


@hookspec
def speechkit_commands(cli: Any) -> None:
    """Adds commands to the `speechkit` command line (a `typer.Typer`)."""


@hookspec
def speechkit_run_start(run: Any) -> None:
    """Called once before the first step of a training run."""


@hookspec
def speechkit_run_step(run: Any, step: int, loss: float) -> None:
    """Called after each optimiser step."""


@hookspec
def speechkit_run_eval(run: Any, metrics: dict[str, float]) -> None:
    """Called after each evaluation."""


@hookspec
def speechkit_run_end(run: Any) -> None:
    """Called once after the last save."""


KINDS: dict[str, str] = {
    "activation": "speechkit_activations",
    "norm": "speechkit_norms",
    "channel": "speechkit_channel_layers",
    "mixer": "speechkit_mixers",
    "residual": "speechkit_residuals",
    "block": "speechkit_blocks",
    "stack": "speechkit_stacks",
    "stem": "speechkit_stems",
    "head": "speechkit_heads",
    "init": "speechkit_inits",
    "pool": "speechkit_pools",
    "frontend": "speechkit_frontends",
    "normalizer": "speechkit_normalizers",
    "augmentation": "speechkit_augmentations",
    "loss": "speechkit_losses",
    "optimizer": "speechkit_optimizers",
    "schedule": "speechkit_schedules",
    "method": "speechkit_methods",
    "task": "speechkit_tasks",
    "net": "speechkit_nets",
    "decoder": "speechkit_decoders",
    "exporter": "speechkit_exporters",
    "probe": "speechkit_probes",
    "transform": "speechkit_transforms",
}
"""Each kind of component and the hook that lists it."""
