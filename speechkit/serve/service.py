"""What the requests of one server share."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from starlette.requests import HTTPConnection

from speechkit.errors import SpeechkitError
from speechkit.serve.limits import Addresses, Jobs
from speechkit.serve.metrics import Metrics
from speechkit.serve.models import Models, Served
from speechkit.serve.sessions import Sessions
from speechkit.serve.settings import Settings


@dataclass
class Service:
    """The models, limits, figures and live sessions of a server.

    Calling one of `live` makes that live connection finish what is spoken.
    """

    settings: Settings
    models: Models
    metrics: Metrics = field(default_factory=Metrics)
    stopping: bool = False
    live: set[Callable[[], None]] = field(default_factory=set)
    sessions: dict[str, Sessions] = field(default_factory=dict)

    @cached_property
    def jobs(self) -> Jobs:
        """The uploads that are computed."""
        return Jobs(self.settings.workers, self.settings.queue)

    @cached_property
    def addresses(self) -> Addresses:
        """The connections of each address."""
        return Addresses(self.settings.max_connections_per_address)

    def sessions_of(self, served: Served) -> Sessions:
        """The live sessions of a model; raises SpeechkitError if it does not stream."""
        if served.name not in self.sessions:
            self.sessions[served.name] = Sessions(served, self.settings.max_sessions)
        return self.sessions[served.name]

    def open(self) -> None:
        """Makes the live sessions of all models that stream."""
        for served in self.models:
            # a request for one that does not stream is told why
            with suppress(SpeechkitError):
                self.sessions_of(served)

    def stop_listening(self) -> None:
        """Refuses new requests, and ends the audio of all live connections."""
        self.stopping = True
        for stop in list(self.live):
            stop()

    def close(self) -> None:
        """Waits for uploads and ends all threads."""
        self.jobs.close()
        for sessions in self.sessions.values():
            sessions.close()


def service_of(connection: HTTPConnection) -> Service:
    """The service that a request is for."""
    service: Service = connection.app.state.service
    return service
