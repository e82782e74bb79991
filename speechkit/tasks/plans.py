"""Makes the plan of a model."""

from pathlib import Path

from speechkit.card import read_card
from speechkit.errors import StreamError
from speechkit.io.folders import digests
from speechkit.models import Model
from speechkit.models.model import refuse_prepared
from speechkit.models.prepare import prepare
from speechkit.models.profile import profile, why_not_streamable
from speechkit.nn import StreamLayer, fuse
from speechkit.nn.lowering import Lowering
from speechkit.nn.stream import unwrapped
from speechkit.ops.separable_conv import Precision
from speechkit.packages import core_version
from speechkit.plans.about import About, Facts
from speechkit.plans.plan import Plan
from speechkit.plans.program import LoweringError
from speechkit.rules.changed import RULES
from speechkit.tasks.base import task_of


def about_of(model: Model) -> About:
    """What a session must know of a model besides its layers."""
    task = task_of(model)
    layer = model.stream_layer(task.window_s)
    return About(
        kind=model.config.kind,
        task=model.config.task,
        verb=task.verb,
        decodes=task.decodes,
        per_clip=model.per_clip,
        labels=model.labels,
        sample_rate=model.sample_rate,
        stride=layer.stride,
        rate=layer.rate,
        delay=layer.delay,
        shortest=model.frontend.stride,
        block_s=task.block_s,
        window_s=task.window_s if model.per_clip else None,
        confidence=model.confidence,
        normalization=model.normalization,
        **{name: getattr(model.config, name, None) for name in RULES},
    )


def plan_of(model: Model, precision: Precision = "float32") -> Plan:
    """The plan of a model that streams, without facts.

    `precision` is that of the 1×1 products of stem and encoder, as in `prepare`. Raises
    LoweringError, which names the first layer without a native form, or StreamError.
    """
    refuse_prepared(model, "plan")
    if reason := why_not_streamable(model):
        raise StreamError(reason)
    about = about_of(model)
    net = model if precision == "float32" else prepare(model, dtype=precision)
    try:
        program = _lowered(net.stream_layer(about.window_s), Lowering())
        clips = _lowered(net.stream_layer(), Lowering(program)) if model.per_clip else None
    except LoweringError as error:
        raise LoweringError(f"this model has no plan: {error}; it runs in torch") from error
    return Plan(about, program.table, program.weights.array, clips.table if clips else None)


def layers_in_torch(model: Model) -> list[str]:
    """The types of the layers without a native form, in a model that streams."""
    program = Lowering()
    layer = model.stream_layer(task_of(model).window_s)
    try:
        program.add(fuse(layer, "float32"), program.input(layer.stride, 1))
    except LoweringError:
        return ["all layers"]
    return _types(program)


def _lowered(layer: StreamLayer, program: Lowering) -> Lowering:
    fused = fuse(layer, "float32", factored=True)
    program.end(program.add(fused, program.input(layer.stride, 1)))
    if names := _types(program):
        raise LoweringError(f"no native {', '.join(names)}")
    return program


def _types(program: Lowering) -> list[str]:
    return sorted({type(unwrapped(layer)).__name__ for layer, _ in program.outside})


def facts_of(model: Model, folder: Path | None = None) -> Facts:
    """What `speechkit info` prints of a model, and the files of its folder, if it has one."""
    components = dict.fromkeys(f"{kind} {spec}" for kind, spec in model.config.components())
    return Facts(
        speechkit=core_version(),
        components=tuple(components),
        profile=profile(model),
        card=None if folder is None else read_card(folder),
        files={} if folder is None else digests(folder),
    )
