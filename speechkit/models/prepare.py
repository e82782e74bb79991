"""Prepares a model for inference: folds norms, fuses layers and chooses implementations."""

import copy

import torch

from speechkit.errors import ConfigError
from speechkit.implementation import asked
from speechkit.models.model import Model, Prepared, refuse_prepared
from speechkit.nn import fuse
from speechkit.ops.separable_conv import PRECISIONS, Precision


def prepare(
    model: Model,
    impl: str | None = None,
    dtype: Precision = "float32",
    threads: int | None = None,
) -> Model:
    """A new model for inference with the same scores, but faster; `model` does not change.

    `dtype` is the precision of the 1×1 products of stem and encoder: "bfloat16" and "int8" change
    the scores a little. `threads` sets torch's number of threads for the process. The new model
    cannot be trained or saved. Raises ConfigError where `impl` cannot compute in `dtype` here.
    """
    if dtype not in PRECISIONS:
        raise ConfigError(f"dtype={dtype!r}: give one of {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads={threads}: give at least 1")
    refuse_prepared(model, "prepare")
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    ready.stem = fuse(ready.stem, dtype, impl)
    ready.encoder = fuse(ready.encoder, dtype, impl)
    if threads is not None:
        torch.set_num_threads(threads)
    ready.prepared = Prepared(dtype, asked(impl))
    return ready
