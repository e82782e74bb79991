"""What a plan says of a model."""

from pathlib import Path

from speechkit.card import read_card
from speechkit.folders import digests
from speechkit.models import Model
from speechkit.models.profile import profile
from speechkit.packages import core_version
from speechkit.plans.about import About, Facts
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
