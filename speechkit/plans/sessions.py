"""The states of the sessions of a native engine."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechkit.plans.engine import LoadedPlan, OutsideLayers, Steps


class OutsideSessions(OutsideLayers, Protocol):
    """Layers that run outside the engine, with their states of each session."""

    def start(self, session: int) -> None:
        """Sets the states of a session to those before its first row."""
        ...

    def arrays(self, session: int) -> dict[str, NDArray[Any]]:
        """The arrays of a session's states by name."""
        ...

    def restore(self, session: int, arrays: dict[str, NDArray[Any]]) -> None:
        """Restores what `arrays` returned."""
        ...


class Sessions:
    """The states of a batch of sessions: `native [sessions, S]`, and those of layers `outside`."""

    def __init__(
        self, plan: LoadedPlan, sessions: int, outside: OutsideSessions | None = None
    ) -> None:
        self.plan, self.outside = plan, outside
        self.native = plan.new_states(sessions)

    def steps(self, sessions: int, blocks: int) -> Steps:
        """Steps of some of the sessions, `blocks` blocks at a time."""
        return Steps(self.plan, self.native, sessions, blocks, self.outside)

    def state(self, session: int) -> dict[str, NDArray[Any]]:
        """The arrays that the next block of a session depends on, by name."""
        layers = {} if self.outside is None else self.outside.arrays(session)
        return {"native": self.native[session], **layers}

    def restore(self, session: int, state: dict[str, NDArray[Any]]) -> None:
        """Restores what `state` returned."""
        state = dict(state)
        self.native[session] = np.asarray(state.pop("native"))
        if self.outside is not None:
            self.outside.restore(session, state)

    def start(self, session: int) -> None:
        """Starts a session anew."""
        self.plan.start(self.native[session])
        if self.outside is not None:
            self.outside.start(session)
