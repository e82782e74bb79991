"""What a server is started with."""

from dataclasses import dataclass

from speechkit.config import Config, check_range
from speechkit.errors import ConfigError
from speechkit.limits import MAX_SESSIONS

MODELS = ("an4", "vad", "digits")
"""The models of a server that is given none."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that only programs on the same machine can reach."""
HIGHEST_PORT = 65_535
MOST_BYTES = 2**34


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """The models, the address and the limits of a server.

    Without a `token` the host must be loopback. Web pages of `origins` may call it; none may by
    default. At most `workers` uploads are computed at a time while `queue` more wait. A client has
    `headers_s` to send the headers of a request, `body_s` for its body, and `idle_s` between two
    messages of a live connection. Port 0 is any free one.
    """

    models: tuple[str, ...] = MODELS
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    origins: tuple[str, ...] = ()
    max_upload_bytes: int = 100 * 2**20
    max_audio_s: float = 3600.0
    max_sessions: int = 256
    max_connections_per_address: int = 512
    workers: int = 2
    queue: int = 16
    headers_s: float = 10.0
    body_s: float = 120.0
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("port", self.port, 0, HIGHEST_PORT, whole=True)
        check_range("max_upload_bytes", self.max_upload_bytes, 1, MOST_BYTES, whole=True)
        check_range("max_sessions", self.max_sessions, 1, MAX_SESSIONS, whole=True)
        for name in ("max_connections_per_address", "workers"):
            check_range(name, getattr(self, name), 1, MAX_SESSIONS, whole=True)
        check_range("queue", self.queue, 0, MAX_SESSIONS, whole=True)
        if self.token is not None and not self.token.isascii():
            raise ConfigError("the token has characters beyond ASCII, which headers cannot hold")
        if self.token is None and self.host not in LOOPBACK:
            raise ConfigError(
                f"--host {self.host} lets other machines in, and there is no token; give --token "
                "FILE or SPEECHKIT_TOKEN, or --host 127.0.0.1"
            )
