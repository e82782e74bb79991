"""The one exception raised on purpose: what was given, what was expected, what to type."""


class RuntimeFailure(Exception):  # noqa: N818
    """Something that the caller can fix; the command line prints one line of it."""
