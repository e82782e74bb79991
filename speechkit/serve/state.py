"""What the requests of one server share."""

import asyncio
import threading
from collections.abc import Mapping

from speechkit.serve.metrics import Metrics
from speechkit.serve.models import Models, Net
from speechkit.serve.sessions import Sessions
from speechkit.serve.settings import Settings
from speechkit.serve.uploads import Workers


class State:
    """Models, threads and counters; `reading` are the tasks that read live sound."""

    def __init__(self, nets: Mapping[str, Net], settings: Settings) -> None:
        self.settings, self.models = settings, Models(nets)
        self.workers, self.metrics = Workers(settings.limits), Metrics()
        self.sessions: dict[str, Sessions] = {}
        self._opening = threading.Lock()
        self.reading: set[asyncio.Task[None]] = set()
        self.live: set[asyncio.Task[None]] = set()
        self.stopping = False
        self.metrics.sessions.set_function(lambda: sum(map(len, self.sessions.values())))

    def sessions_of(self, name: str, net: Net) -> Sessions:
        """The sessions of a model; raises StreamError if it cannot stream."""
        # clients that are the first at the same time get the same sessions
        with self._opening:
            if name not in self.sessions:
                self.sessions[name] = Sessions(net, self.settings.limits.sessions)
            return self.sessions[name]

    async def drain(self) -> None:
        """Takes no more live sound, and waits until its last events are sent."""
        self.stopping = True
        for task in self.reading:
            task.cancel()
        if self.live:
            await asyncio.wait(self.live, timeout=self.settings.limits.drain_s)

    def close(self) -> None:
        """Ends all threads."""
        for sessions in self.sessions.values():
            sessions.close()
        self.workers.close()
