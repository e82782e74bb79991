"""Serves models over HTTP and WebSockets; needs the extra `serve`."""
