"""What the three families share: the config's fields and the way from a config to layers."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

from speechkit.component import Spec
from speechkit.config import Config, check_component, check_range
from speechkit.errors import ConfigError
from speechkit.limits import HIGHEST_RATE, LOWEST_RATE, MAX_BLOCKS, MAX_WEIGHTS, MAX_WIDTH
from speechkit.nn import BodyMaker, LookAhead, StreamLayer, as_layer
from speechkit.plugins import Registry

Name = Spec | str
"""A component by name, in any spelling of `Spec`; a config stores the Spec."""


@dataclass(frozen=True, kw_only=True)
class Block(Config):
    """One row of a paper's table: `copies` equal blocks of `repeat` sub-blocks each."""

    channels: int
    kernel: int
    repeat: int = 1
    stride: int = 1
    dilation: int = 1
    residual: bool = False
    separable: bool = True
    copies: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("channels", "kernel", "stride", "dilation"):
            check_range(f"block {name}", getattr(self, name), 1, MAX_WIDTH)
        for name in ("repeat", "copies"):
            check_range(f"block {name}", getattr(self, name), 1, MAX_BLOCKS)
        span = self.dilation * (self.kernel - 1)
        check_range("block dilation * (kernel - 1)", span, 0, MAX_WIDTH)
        if self.stride > 1 and (self.repeat > 1 or self.residual):
            raise ConfigError(
                f"block with stride {self.stride} has repeat {self.repeat} and residual "
                f"{self.residual}: give a block with a stride repeat=1, residual=False"
            )


@dataclass(frozen=True, kw_only=True)
class Net(Config):
    """The fields of every family's config.

    `lookahead` is what each convolution over time may read ahead: "same" for half its span, a
    number of its input frames, or one of these for each block, the stem included.
    """

    kind: str
    size: str = ""
    labels: tuple[str, ...]
    blocks: tuple[Block, ...] = ()
    sample_rate: int = 16000
    frontend: Name = "log_mel"
    stem: Name = "plain"
    block: Name = "plain"
    stack: Name = "serial"
    head: Name = "frame"
    activation: Name = "relu"
    norm: Name = "batch"
    channel: Name = "linear"
    mixer: Name = "depthwise"
    residual: Name = "add"
    init: Name = "xavier_uniform"
    lookahead: LookAhead | tuple[LookAhead, ...] = "same"
    dropout: float = 0.0
    behaviour: int = 1

    def __post_init__(self) -> None:
        for kind in COMPONENTS:
            object.__setattr__(self, kind, Spec.parse(getattr(self, kind)))
            check_component(kind, getattr(self, kind))
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "blocks", tuple(self.blocks))
        super().__post_init__()
        check_range("sample_rate", self.sample_rate, LOWEST_RATE, HIGHEST_RATE)
        check_range("dropout", self.dropout, 0, 1)
        check_range("number of labels", len(self.labels), 0, MAX_WIDTH)
        if not self.labels or len(set(self.labels)) < len(self.labels):
            raise ConfigError(f"labels={self.labels}: give at least one label, each of them once")
        if not isinstance(self.lookahead, int | str):
            object.__setattr__(self, "lookahead", tuple(self.lookahead))
            count = sum(block.copies for block in self.blocks)
            if self.blocks and len(self.lookahead) != count:
                raise ConfigError(
                    f"lookahead has {len(self.lookahead)} entries for {count} blocks; "
                    "give one for each block, the stem first"
                )
        aheads = self.lookahead if isinstance(self.lookahead, tuple) else (self.lookahead,)
        for ahead in aheads:
            if isinstance(ahead, int):
                check_range("lookahead", ahead, 0, MAX_WIDTH)
        self._check_size()
        if self.behaviour != 1:
            raise ConfigError(f"behaviour={self.behaviour}: this version knows behaviour 1")

    def _check_size(self) -> None:
        """Raises ConfigError for blocks that are too many or too large together."""
        layers, weights, channels, stride = 0, 0, 0, 1
        for block in self.blocks:
            layers += block.copies * block.repeat
            check_range("sub-blocks", layers, 0, MAX_BLOCKS)
            widths = (channels, *(block.channels,) * (block.copies * block.repeat - 1))
            taps = [block.kernel + block.channels, block.kernel * block.channels]
            weights += sum(widths) * taps[not block.separable]
            check_range("weights", weights, 0, MAX_WEIGHTS)
            stride *= block.stride**block.copies
            check_range("stride of all blocks", stride, 1, MAX_WIDTH)
            channels = block.channels

    @property
    def task(self) -> Literal["ctc", "clip", "frame"]:
        """What the scores are: text by CTC, one label per clip, or one per frame."""
        raise AssertionError("a family says what it is for")

    def rows(self) -> list[tuple[Block, LookAhead]]:
        """Each block with its look-ahead, copies written out, the stem first."""
        blocks = [replace(b, copies=1) for b in self.blocks for _ in range(b.copies)]
        ahead = self.lookahead
        each = list(ahead) if isinstance(ahead, tuple) else [ahead] * len(blocks)
        return list(zip(blocks, each, strict=True))

    def components(self) -> list[tuple[str, Spec]]:
        """Every (kind, spec) the config names."""
        return [(kind, getattr(self, kind)) for kind in COMPONENTS]


COMPONENTS = tuple(field.name for field in fields(Net) if field.type == Name)


def choose_blocks(
    config: Net, table: Callable[[str], tuple[Block, ...] | None], default: str
) -> None:
    """Fills in `size` and `blocks` from each other; `table` gives a named size's blocks."""
    size = config.size or ("custom" if config.blocks else default)
    blocks = config.blocks if size == "custom" else table(size)
    if not blocks:
        raise ConfigError(f"size={size!r}: {config.kind} has no such size; or give blocks")
    if config.blocks not in ((), blocks):
        raise ConfigError(
            f"size={size!r} has other blocks than those given; set blocks=[] to take the size's, "
            "or size=custom to keep the blocks"
        )
    object.__setattr__(config, "size", size)
    object.__setattr__(config, "blocks", blocks)
    Net.__post_init__(config)


def encoder_layers(
    config: Net, c_in: int, registry: Registry
) -> tuple[StreamLayer, StreamLayer, int]:
    """The stem and the stack of blocks for `c_in` features, and the channels they give."""
    (first, first_ahead), *rest = config.rows()
    maker = partial(_body_maker, config, registry)
    stem = registry.build("stem", config.stem, c_in, first.channels, maker(first, first_ahead))
    channels = first.channels
    blocks = []
    for index, (row, ahead) in enumerate(rest):
        # blocks without a residual (the ends of the net) keep the papers' plain form
        design = config.block if row.residual else "plain"
        body = maker(row, ahead)
        blocks.append(
            registry.build("block", design, channels, row.channels, body, index, len(rest))
        )
        channels = row.channels
    return stem, registry.build("stack", config.stack, blocks), channels


def _body_maker(config: Net, registry: Registry, row: Block, lookahead: LookAhead) -> BodyMaker:
    def layer(kind: str, c_out: Callable[..., int | None] = lambda *_: None) -> Callable[..., Any]:
        spec = getattr(config, kind)
        return lambda *args: as_layer(registry.build(kind, spec, *args), c_out(*args))

    return BodyMaker(
        kernel=row.kernel,
        repeat=row.repeat,
        stride=row.stride,
        dilation=row.dilation,
        lookahead=lookahead,
        separable=row.separable,
        residual=row.residual,
        dropout=config.dropout,
        widening=registry.find(
            "activation", Spec.parse(config.activation).name
        ).component.in_factor,
        mixer=layer("mixer"),
        channel=layer("channel", lambda c_in, c_out: c_out),
        norm=layer("norm"),
        activation=layer("activation", lambda channels: channels),
        merge=lambda *args: registry.build("residual", config.residual, *args),
    )
