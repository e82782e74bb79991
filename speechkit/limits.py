"""The largest sizes that speechkit accepts from outside; SECURITY.md lists them for users.

A file, a config or a message that asks for more is refused in one line, before anything is
allocated for it.
"""

LOWEST_RATE, HIGHEST_RATE = 4_000, 384_000
"""Sample rates in hertz that recordings may have."""
MAX_CHANNELS = 32
"""Channels of a recording."""
MAX_CHAINED = 2_048
"""Channels of all recordings that are joined in one file, together."""
MAX_FRAMES_AT_ONCE = 2**24
"""Samples of each channel that are decoded at a time."""
MAX_FRAMES_PER_BYTE = 8_192
"""Samples for each byte of a file that its header may promise; FLAC reaches 4,700 in silence."""

MAX_HEADER_BYTES = 2**20
"""Bytes before the sound of a WAV that comes through a pipe."""
MAX_KEPT_BYTES = 2**30
"""Bytes of standard input, where it is read for each channel or cut."""
MAX_MP3_BYTES = 2**29
"""Bytes of an MP3 whose frames are counted; the length of a longer one is its header's."""

MAX_MEMBER_BYTES = 2**30
"""Bytes of one recording in a shard."""

MAX_JSON_BYTES = 64 * 2**20
"""Bytes of one JSON or YAML document, or of one line of a manifest."""
MAX_JSON_DEPTH = 64
"""Lists and objects inside each other in JSON or YAML."""
MAX_JSON_VALUES = 2_000_000
"""Commas, lists and objects of a JSON document."""
MAX_CARD_BYTES = 2**20
"""Bytes of a model's card."""
MAX_REPORT_BYTES = 2**16
"""Bytes of what one transform reports."""
MAX_TRANSFORMS_BYTES = 2**23
"""Bytes of what all transforms that made a model report."""
MAX_TENSORS_HEADER_BYTES = 2**23
"""Bytes of the header of a safetensors file, which names its tensors."""
MAX_YAML_CHARACTERS = 10_000
"""Characters of a YAML value that is no text."""
MAX_YAML_VALUES = 200_000
"""Values of a YAML document with its aliases written out."""
MAX_TEXT_BYTES = 2**30
"""Bytes of a text, a manifest, a table or an ARPA file, unpacked."""
MAX_ARCHIVE_BYTES = 2**29
"""Bytes of an archive's members together, unpacked, or of a folded checkpoint."""
MAX_ARCHIVE_MEMBERS = 1_000
"""Members of an archive of another toolkit."""
MAX_PICKLE_BYTES = 2**23
"""Bytes of the pickle in a checkpoint of another toolkit, its tensors apart."""
MAX_REDIRECTS = 5
"""Redirects of one download."""
MAX_SILENT_S = 30.0
"""Seconds that a server of a download may take to answer, or between two pieces."""
MAX_NUMBER = 1e15
"""The absolute value of a number in JSON or YAML; integers up to here are exact in float64."""

MAX_EXPRESSION_CHARACTERS = 10_000
"""Characters of the expression of an activation."""
MAX_EXPRESSION_NODES = 512
"""Operations and numbers of the expression of an activation."""
MAX_EXPRESSION_NUMBERS = 256
"""Different numbers in the expression of an activation, and vectors."""

MAX_BLOCKS = 1_000
"""Blocks of a net, and repeats or copies of one."""
MAX_WIDTH = 65_536
"""Channels of a layer, taps of a kernel, labels of a model, frames of a dilation or stride."""
MAX_NESTED_COMPONENTS = 16
"""Components inside each other, as parameters."""
MAX_WEIGHTS = 2**27
"""Weights of a net's convolutions together; half a gigabyte in float32."""
MAX_INSTRUCTIONS = 65_536
"""Instructions of a plan."""
MAX_LATENCY_S = 600.0
"""Seconds by which the scores of a plan may be late, or of one block of its stream."""
MAX_FEATURES = 1_024
"""Mel bands of a front end."""
MAX_TIME_S = 86_400.0
"""Seconds of a window, a pause, a pad or any other time in a config."""
MAX_COUNT = 1_000_000_000
"""Steps of a run, or utterances of a batch or a window."""
MAX_BEAM = 65_536
"""Hypotheses that a beam search keeps."""
MAX_HORIZON = 65_536
"""Labels back from the end in which a beam search's hypotheses may differ."""
MAX_ORDER = 16
"""Words of an n-gram."""
MAX_HOTWORDS = 10_000
"""Phrases of a list of hotwords."""
MAX_HOTWORD_CHARACTERS = 200
"""Characters of one phrase among hotwords."""
MAX_PROCESSES = 1_024
"""Processes of a run on a machine, machines, or workers of a loader or of a check."""
MAX_PROCESSES_PER_CPU = 8
"""Processes of a run, of a loader or of an ablation for each processor of the machine."""

MAX_KEPT_S = 600.0
"""Seconds before the start of speech, of one segment, of an approximate session's window, or that
wait in a pool, whose samples a session keeps."""
MAX_SESSIONS = 65_536
"""Sessions of a pool or a batch."""

MAX_MESSAGE_CHARACTERS = 450
"""Characters of one line of error or warning on the terminal."""
