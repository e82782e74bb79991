"""Plans: files that run in C++ without torch (`speechkit.plans`)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from speechkit.errors import ConfigError
from speechkit.export import int8
from speechkit.export.graph import Example, UnexportableError
from speechkit.models import Model, evaluating
from speechkit.nn import Chunk
from speechkit.plans.plan import Plan, load_plan
from speechkit.plans.program import LoweringError
from speechkit.plans.scorer import PlanScorer
from speechkit.tasks.plans import facts_of, plan_of

TOLERANCE = 1e-4


class Native:
    """Writes the plan of a model, which serves recordings and streams.

    Given the model's `folder`, it stores the digests of the files there, so the plan may lie there.
    With `int8` the 1×1 products of stem and encoder are in int8.
    """

    suffix = ".safetensors"

    def __init__(
        self,
        streaming: bool = False,
        features: bool = True,
        int8: bool = False,
        folder: Path | None = None,
    ) -> None:
        if streaming or not features:
            raise ConfigError(
                "a plan serves recordings and streams and holds the front end; leave out "
                "--streaming and --no-features"
            )
        self.int8, self.folder = int8, folder

    def __call__(self, model: Model, example: Example, path: Path) -> float:
        """The largest difference between the plan's scores and the model's, relative to the
        largest."""
        try:
            plan = plan_of(model, "int8" if self.int8 else "float32")
        except LoweringError as error:
            raise UnexportableError(f"{error}, or use --format onnx") from error
        replace(plan, facts=facts_of(model, self.folder)).save(path)
        with evaluating(model):
            worst = difference(load_plan(path), model, example)
        tolerance = int8.TOLERANCE if self.int8 else TOLERANCE
        if not worst <= tolerance:
            raise UnexportableError(
                f"the plan's scores are off by {worst:.1e} of the largest, more than "
                f"{tolerance:.0e}; nothing was written"
            )
        return worst


@torch.inference_mode()
def difference(plan: Plan, model: Model, example: Example) -> float:
    """The largest difference of a plan's scores from the model's, as recordings and as streams."""
    stream = replace(plan, about=replace(plan.about, per_clip=False), clip_program=None)
    layer = model.stream_layer(plan.about.window_s)
    most, off = 0.0, 0.0
    for audio, length in zip(*example, strict=True):
        x = audio[: int(length)]
        streamed = np.concatenate([*PlanScorer(stream).parts([x.numpy()])])
        pairs = [(streamed, layer(Chunk.of(x[None, None])).x[0].T)]
        if plan.about.per_clip:
            pairs.append((PlanScorer(plan).clips(x[None].numpy()), model(x[None]).scores))
        for scores, expected in pairs:
            want = expected.numpy()
            if scores.shape != want.shape:
                return np.inf
            most = max(most, float(np.abs(want).max()))
            off = max(off, float(np.abs(scores - want).max()))
    return off / most if most else off
