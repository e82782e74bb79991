"""Listening: sessions that take samples as they come and say what they hear."""

from speechkit.streaming.session import Stream, StreamBatch, stream
from speechkit.streaming.windowed import WindowedStream

__all__ = ["Stream", "StreamBatch", "WindowedStream", "stream"]
