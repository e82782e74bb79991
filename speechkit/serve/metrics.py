"""Figures of a server for Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


class Metrics:
    """The figures of one server.

    prometheus_client has no dependencies, and knows the rules for names, escapes and histograms.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "speechkit_requests", "Requests.", ["route", "status"], registry=self._registry
        )
        self.request_seconds = Histogram(
            "speechkit_request_seconds", "Durations.", ["route"], registry=self._registry
        )
        self.upload_bytes = Counter(
            "speechkit_upload_bytes", "Bytes of bodies.", registry=self._registry
        )
        self.sessions = Gauge(
            "speechkit_live_sessions", "Live sessions now.", ["model"], registry=self._registry
        )
        self.live_audio_seconds = Counter(
            "speechkit_live_audio_seconds", "Live audio.", ["model"], registry=self._registry
        )

    def text(self) -> bytes:
        """The figures in Prometheus's text format."""
        return generate_latest(self._registry)
