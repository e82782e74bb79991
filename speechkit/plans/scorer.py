"""The scores of whole recordings by a plan, computed about a second at a time."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from speechkit.plans.checks import check_length, finite
from speechkit.plans.engine import LoadedPlan, Steps
from speechkit.plans.plan import Plan
from speechkit.plans.timing import blocks_to_end

Floats = NDArray[np.float32]

STEP_S = 1.0
"""The duration of a piece: longer ones do not fit the cache, shorter ones need more calls."""


class PlanScorer:
    """Computes the scores of recordings with a plan, each from a state of its own."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self.about = plan, plan.about
        # an invalid plan is refused here
        self._laid_out(self.about.per_clip)

    def parts(self, blocks: Iterable[Floats]) -> Iterator[Floats]:
        """The scores `[T, n]` of one recording in blocks `[N]`, piece by piece; T may be 0.

        Those of a clip are the last row. Raises AudioError if it is shorter than a frame.
        """
        return self._parts(blocks, clips=self.about.per_clip)

    def _parts(self, blocks: Iterable[Floats], clips: bool) -> Iterator[Floats]:
        about, loaded = self.about, self._laid_out(clips)
        size, steps = loaded.rows_in, Steps(loaded, loaded.new_states(1), 1, 1)
        pending, filled, samples = np.zeros((1, size), np.float32), 0, 0

        def step(real: int) -> Floats:
            steps.real[0] = real
            steps(pending)
            return finite(steps.y[0, 0][steps.valid[0, 0]])

        for block in blocks:
            samples += len(block)
            at = 0
            while at < len(block):
                take = min(size - filled, len(block) - at)
                pending[0, filled : filled + take] = block[at : at + take]
                filled, at = filled + take, at + take
                if filled == size:
                    yield step(size)
                    filled = 0
        check_length(samples, about.sample_rate, about.shortest)
        pending[0, filled:] = 0
        for _ in range(blocks_to_end(about, filled, size)):
            yield step(filled)
            filled = 0
            pending[:] = 0

    def _laid_out(self, clips: bool) -> LoadedPlan:
        strides = max(1, round(STEP_S * self.about.sample_rate / self.about.stride))
        return self._plan.laid_out(strides, clips)

    def clips(self, windows: Floats) -> Floats:
        """The scores `[B, n]` of clips `[B, N]`."""
        return np.stack([np.concatenate([*self.parts([window])])[-1] for window in windows])

    def sliding(self, samples: Floats) -> Floats:
        """The scores `[T, n]` of the window before each frame of a clip `[N]`."""
        return np.concatenate([*self._parts([samples], clips=False)])
