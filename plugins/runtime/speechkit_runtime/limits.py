"""The largest recordings that are read, and the memory of a net."""

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
"""Sample rates in hertz that recordings may have."""
MAX_FRAMES = 2**30
"""Samples of a recording: 18 hours at 16 kHz."""
MAX_FRAMES_PER_BYTE = 8_192
"""Samples for each byte of a file that its header may promise; FLAC reaches 4,700 in silence."""
MAX_MP3_BYTES = 2**29
"""Bytes of an MP3 whose frames are counted; the length of a longer one is its header's."""
MAX_PIPED_BYTES = 2**30
"""Bytes of a recording that standard input brings."""
MAX_NET_GB = 0.9
"""Gigabytes that the nets of a process may take; the environment variable SPEECHKIT_NET_GB gives
another number."""
