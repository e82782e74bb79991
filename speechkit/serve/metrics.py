"""Counters in the text format of Prometheus."""

# prometheus_client is pure Python without dependencies, and escapes and orders as scrapers expect
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.responses import Response


class Metrics:
    """What one server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "speechkit_requests", "Requests", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "speechkit_request_seconds", "Duration of requests", ["path"], registry=self.registry
        )
        self.sessions = Gauge("speechkit_sessions", "Live sessions", registry=self.registry)
        self.audio_s = Counter(
            "speechkit_audio_seconds", "Sound taken", ["source"], registry=self.registry
        )
        self.events = Counter("speechkit_events", "Live events", ["event"], registry=self.registry)

    def response(self) -> Response:
        """All counters now."""
        return Response(generate_latest(self.registry), media_type=CONTENT_TYPE_LATEST)
