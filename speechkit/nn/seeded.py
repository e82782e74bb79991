"""A context with seeded random numbers that does not change the global generators."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within the block the global generators of torch, numpy and Python start at `seed`.

    Afterwards they continue as before.
    """
    python, words = random.getstate(), np.random.get_state()
    # all named, or torch warns that there are several
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(words)
