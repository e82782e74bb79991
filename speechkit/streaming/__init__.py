"""Streaming: sessions that take samples as they come and return events."""

from speechkit.streaming.pool import SessionPool
from speechkit.streaming.session import Stream, StreamBatch, stream
from speechkit.streaming.windowed import WindowedStream

__all__ = ["SessionPool", "Stream", "StreamBatch", "WindowedStream", "stream"]
