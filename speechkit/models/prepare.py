"""A model made ready for use: norms folded, layers joined, implementations chosen, once."""

import copy

import torch

from speechkit.errors import ConfigError
from speechkit.models.model import Model, Prepared
from speechkit.nn import fuse
from speechkit.ops._dispatch import asked
from speechkit.ops.separable_conv import PRECISIONS, Precision


def prepare(
    model: Model,
    impl: str | None = None,
    dtype: Precision = "float32",
    threads: int | None = None,
) -> Model:
    """A new model for inference that gives the same scores faster; `model` stays as it is.

    `dtype` is the precision of the 1×1 products of stem and encoder: "bfloat16" and "int8" change
    the scores a little. `threads` sets torch's number of threads for the process. The new model
    cannot be trained or saved. Raises ConfigError where `impl` cannot compute in `dtype` here.
    """
    if dtype not in PRECISIONS:
        raise ConfigError(f"dtype={dtype!r}: give one of {', '.join(PRECISIONS)}")
    if model.prepared is not None:
        raise ConfigError(
            f"this model is prepared already ({model.prepared}); prepare the original"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    ready.stem = fuse(ready.stem, dtype, impl)
    ready.encoder = fuse(ready.encoder, dtype, impl)
    ready.prepared = Prepared(dtype, asked(impl))
    return ready
