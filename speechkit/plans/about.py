"""The properties of a model that sessions and commands need besides instructions and weights."""

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from speechkit.card import ModelCard
from speechkit.config import Config, check_range
from speechkit.errors import ConfigError
from speechkit.limits import HIGHEST_RATE, LOWEST_RATE, MAX_COUNT, MAX_LATENCY_S, MAX_WIDTH
from speechkit.rules.changed import RULES, changed_rules
from speechkit.rules.endpointing import Endpointing
from speechkit.rules.spotting import Spotting, check_skips
from speechkit.rules.vad import PostProcessing
from speechkit.text.confidence import Confidence

T = TypeVar("T")

COMMANDS = {"transcribe": "transcribe", "classify": "classify", "detect": "vad"}
"""The verbs that are functions of `sk`, and their commands."""
TASKS = "ctc", "clip", "frame"
"""The tasks whose scores become events without torch; others are those of plugins."""
SHORTEST_BLOCK_S = 0.001


def usage(verb: str) -> str:
    """The function or the command to type for a verb."""
    if verb in COMMANDS:
        return f"sk.{verb} or `speechkit {COMMANDS[verb]}`"
    return f"`speechkit {verb}`"


@dataclass(frozen=True, kw_only=True)
class About(Config):
    """A model's family `kind`, its task with its verb, its labels, times and rules.

    `stride` samples make `rate` frames of scores, which are `delay` frames late in a stream.
    `shortest` are the samples of one frame. A stream computes blocks of about `block_s`. The scores
    of a clip are one row (`per_clip`); in a stream they are those of the last `window_s` seconds. A
    task that `decodes` gives CTC log-probabilities of the labels and the blank. A rule that the
    family does not have is None.
    """

    kind: str
    task: str
    verb: str
    decodes: bool
    per_clip: bool
    labels: tuple[str, ...]
    sample_rate: int
    stride: int
    rate: int
    delay: int
    shortest: int
    block_s: float
    window_s: float | None = None
    postprocess: PostProcessing | None = None
    spotting: Spotting | None = None
    endpointing: Endpointing | None = None
    confidence: Confidence = (1.0, 0.0)
    normalization: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("sample_rate", self.sample_rate, LOWEST_RATE, HIGHEST_RATE)
        check_range("number of labels", len(self.labels), 1, MAX_WIDTH)
        for name in ("stride", "shortest"):
            check_range(name, getattr(self, name), 1, MAX_COUNT)
        check_range("rate", self.rate, 1, MAX_WIDTH)
        check_range("delay", self.delay, 0, MAX_COUNT)
        check_range("block_s", self.block_s, SHORTEST_BLOCK_S, MAX_LATENCY_S)
        check_range("delay in seconds", self.delay * self.frame_s, 0, MAX_LATENCY_S)
        if self.window_s is not None and not self.window_s > 0:
            raise ConfigError(f"window_s={self.window_s:g}: give seconds above 0")
        if self.spotting is not None:
            check_skips(self.spotting, self.labels)

    @property
    def frame_s(self) -> float:
        """The time from one frame of scores to the next, in seconds."""
        return self.stride / self.rate / self.sample_rate

    @property
    def detects(self) -> bool:
        """Whether the model detects speech, frame by frame or clip by clip."""
        return self.verb == "detect" or self.postprocess is not None

    @property
    def usage(self) -> str:
        """The function or the command to type for the verb."""
        return usage(self.verb)

    @property
    def rules(self) -> dict[str, Any]:
        """The rules that the family has, by name."""
        given = {name: getattr(self, name) for name in RULES}
        return {name: rule for name, rule in given.items() if rule is not None}

    def rule(self, kind: type[T]) -> T:
        """The model's rule of a kind such as `PostProcessing`, or the kind's defaults."""
        own = (rule for rule in self.rules.values() if isinstance(rule, kind))
        return next(own, None) or kind()

    def require(self, verb: str) -> None:
        """Raises ConfigError with the right verb if the model's is another."""
        if self.verb != verb:
            raise ConfigError(f"this {self.kind} cannot {verb}; use {self.usage}")

    def with_(self, **rules: Any) -> "About":
        """The same with changed rules, as `Model.with_` takes them."""
        return replace(self, **changed_rules(self, **rules))


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Figures of one model.

    `macs_per_s` are the multiply-adds per second of audio, without the front end: those of layers
    with `macs(frames)`, and of torch's linear layers and convolutions. `not_counted` names the
    types of other layers that hold matrices. `lookahead_s` and `receptive_field_s` include the
    front end and are None if unbounded; `latency_s` is None if the model does not stream.
    """

    parameters: int
    macs_per_s: int
    not_counted: tuple[str, ...]
    frame_s: float
    lookahead_s: float | None
    receptive_field_s: float | None
    latency_s: float | None
    streamable: bool
    why_not_streamable: str | None


@dataclass(frozen=True, kw_only=True)
class Facts(Config):
    """What `speechkit info` prints of a plan's model, and the files that the plan was made from.

    `components` are kinds and names. `files` maps those of the model folder to their SHA-256; a
    plan beside files that have changed since is not used.
    """

    speechkit: str
    components: tuple[str, ...]
    profile: Profile
    card: ModelCard | None = None
    files: dict[str, str] = field(default_factory=dict)
