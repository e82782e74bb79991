"""Streaming: sessions that take samples as they come and return events.

The sessions are imported on first use, since they need much more than states and listeners.
"""

import importlib
from typing import TYPE_CHECKING, Any

# for editors and type checkers, which do not call __getattr__
if TYPE_CHECKING:
    from speechkit.streaming.pool import SessionPool as SessionPool
    from speechkit.streaming.session import Stream as Stream
    from speechkit.streaming.session import StreamBatch as StreamBatch
    from speechkit.streaming.session import stream as stream
    from speechkit.streaming.windowed import WindowedStream as WindowedStream

_HOME = {
    "SessionPool": "speechkit.streaming.pool",
    "Stream": "speechkit.streaming.session",
    "StreamBatch": "speechkit.streaming.session",
    "WindowedStream": "speechkit.streaming.windowed",
    "stream": "speechkit.streaming.session",
}

__all__ = sorted(_HOME)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        raise AttributeError(f"module 'speechkit.streaming' has no attribute {name!r}")
