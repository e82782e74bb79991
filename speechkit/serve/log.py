"""One JSON line for each request, without its content."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any


def request_log() -> logging.Logger:
    """The log of requests, on stderr unless it has a handler."""
    log = logging.getLogger("speechkit.serve.requests")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
    log.setLevel(logging.INFO)
    log.propagate = False
    return log


def write(log: logging.Logger, **row: Any) -> None:
    """Writes one line with the time in UTC."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    log.info("%s", json.dumps({"time": time, **row}))
