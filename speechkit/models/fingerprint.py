"""Digests of a model's weights and settings; a state is restored only to a model with the same."""

import json
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from speechkit.config import to_dict
from speechkit.io.arrays import digest_of
from speechkit.models import Model

RULES = {"postprocess", "spotting", "endpointing", "confidence"}
"""Settings that may differ when a state is restored: `Model.with_` changes only decisions."""


Digest = Callable[[Model], str]
_known: weakref.WeakKeyDictionary[Model, dict[Digest, tuple[Any, str]]]
_known = weakref.WeakKeyDictionary()


def cached(digest: Digest, model: Model) -> str:
    """A digest of a model, which is computed again only after a weight has changed."""
    version, known = weights_version(model.state_dict()), _known.setdefault(model, {})
    if digest not in known or known[digest][0] != version:
        known[digest] = version, digest(model)
    return known[digest][1]


def fingerprint(model: Model) -> str:
    """A digest of a model's weights and config."""
    config = to_dict(model.config)
    net = {name: value for name, value in config.items() if name not in RULES}
    about = [net, model.prepared and model.prepared.dtype]
    arrays = {
        # numpy has no bfloat16
        name: (x.view(torch.int16) if x.dtype == torch.bfloat16 else x).numpy(force=True)
        for name, x in model.state_dict().items()
    }
    return digest_of(arrays, json.dumps(about).encode()).hex()


def weights_version(tensors: Mapping[str, Tensor]) -> Any:
    """A value that changes when a tensor is replaced or changed in place, except in inference
    mode."""
    return tuple((x.data_ptr(), 0 if x.is_inference() else x._version) for x in tensors.values())
