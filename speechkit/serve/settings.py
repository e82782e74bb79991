"""The settings of a server: where it listens, who may ask, and how much."""

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path

from speechkit.config import Config, check_range
from speechkit.errors import ConfigError
from speechkit.limits import MAX_SESSIONS

TOKEN = "SPEECHKIT_TOKEN"
"""The environment variable with the token, where no file is given."""
SHORTEST_TOKEN = 16


@dataclass(frozen=True, kw_only=True)
class Limits(Config):
    """How much a server takes; what is over a limit is refused with the limit in the message.

    `headers_s` and `stall_s` are the times in which a request's headers, and the next piece of a
    body or of live sound, must come; `drain_s` is the time to answer open requests at the end.
    """

    upload_bytes: int = 100 * 2**20
    upload_s: float = 3600.0
    session_s: float = 14_400.0
    sessions: int = 128
    per_address: int = 64
    workers: int = 2
    waiting: int = 32
    headers_s: float = 10.0
    stall_s: float = 30.0
    drain_s: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sessions", self.sessions, 1, MAX_SESSIONS, whole=True)
        for name in ("upload_bytes", "per_address", "workers"):
            check_range(name, getattr(self, name), 1, 2**40, whole=True)
        check_range("waiting", self.waiting, 0, 2**20, whole=True)
        for name in ("upload_s", "session_s", "headers_s", "stall_s", "drain_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: give seconds above 0")


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """Where a server listens, its token, the web pages that may use it, and its limits.

    Raises ConfigError for an address that other machines reach, without a token.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("port", self.port, 0, 65535, whole=True)
        for origin in self.origins:
            if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/*]+", origin):
                raise ConfigError(
                    f"--origin {origin}: give a scheme and a host, such as https://page.example"
                )
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: other machines would reach a server without a token; give "
                f"--token FILE or {TOKEN}, or --host 127.0.0.1"
            )
        if self.token is not None and len(self.token) < SHORTEST_TOKEN:
            raise ConfigError(
                f"a token of {len(self.token)} characters; give at least {SHORTEST_TOKEN}, as from "
                "openssl rand -hex 32"
            )


def is_loopback(host: str | None) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def token_of(file: Path | None) -> str | None:
    """The token in a file, else that of the environment, else None; ConfigError if it is empty."""
    if file is None:
        return os.environ.get(TOKEN) or None
    token = file.read_text("utf-8").strip()
    if not token:
        raise ConfigError(f"--token {file}: the file is empty; write the token into it")
    return token
