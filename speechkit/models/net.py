"""The base class of configs: common fields, and how layers are made from them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar, TypeVar

from speechkit.component import Spec
from speechkit.config import Config, check_component, check_range
from speechkit.errors import ConfigError
from speechkit.limits import HIGHEST_RATE, LOWEST_RATE, MAX_BLOCKS, MAX_WEIGHTS, MAX_WIDTH
from speechkit.nn import BodyMaker, LookAhead, StreamLayer, as_layer
from speechkit.plugins import Registry, offered, registry

T = TypeVar("T")
N = TypeVar("N", bound="Net")
Name = Spec | str
"""A component by name, in any spelling of `Spec`; a config stores the Spec."""


@dataclass(frozen=True, kw_only=True)
class Block(Config):
    """One row of a paper's table: `copies` equal blocks of `repeat` sub-blocks each.

    `block`, `activation`, `norm`, `channel`, `mixer`, `merge` and `dropout` override the net's;
    `merge` overrides the net's `residual`. `kernel`, `activation` and `channel` may have an entry
    for each sub-block. Then the shortcut has the channel layer of the first one, and the activation
    after the sum is that of the last one.
    """

    stores_none: ClassVar[bool] = False
    channels: int
    kernel: int | tuple[int, ...]
    repeat: int = 1
    stride: int = 1
    dilation: int = 1
    residual: bool = False
    separable: bool = True
    copies: int = 1
    block: Name | None = None
    activation: Name | tuple[Name, ...] | None = None
    norm: Name | None = None
    channel: Name | tuple[Name, ...] | None = None
    mixer: Name | None = None
    merge: Name | None = None
    dropout: float | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            value = getattr(self, part)
            if isinstance(value, list | tuple) and part in EACH:
                object.__setattr__(self, part, tuple(map(Spec.parse, value)))
            elif value is not None:
                object.__setattr__(self, part, Spec.parse(value))
        if not isinstance(self.kernel, int):
            object.__setattr__(self, "kernel", tuple(self.kernel))
        super().__post_init__()
        for name in ("repeat", "copies"):
            check_range(f"block {name}", getattr(self, name), 1, MAX_BLOCKS)
        for name in EACH:
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.repeat:
                raise ConfigError(
                    f"block {name} has {len(value)} entries for repeat={self.repeat}; "
                    "give one entry for all sub-blocks, or one for each of them"
                )
        for name in ("channels", "stride", "dilation"):
            check_range(f"block {name}", getattr(self, name), 1, MAX_WIDTH)
        if self.dropout is not None:
            check_range("block dropout", self.dropout, 0, 1)
        for kernel in self.kernels:
            check_range("block kernel", kernel, 1, MAX_WIDTH)
            check_range("block dilation * (kernel - 1)", self.dilation * (kernel - 1), 0, MAX_WIDTH)
        for kind, spec in self.components():
            check_component(f"block {kind}", spec)
        if self.stride > 1 and (self.repeat > 1 or self.residual):
            raise ConfigError(
                f"block with stride {self.stride} has repeat {self.repeat} and residual "
                f"{self.residual}: give a block with a stride repeat=1, residual=False"
            )

    @property
    def kernels(self) -> tuple[int, ...]:
        """The kernel of each sub-block."""
        return self.kernel if isinstance(self.kernel, tuple) else (self.kernel,) * self.repeat

    def components(self) -> list[tuple[str, Spec]]:
        """Every (kind, spec) of the row itself."""
        given = [(PARTS[part], getattr(self, part)) for part in PARTS]
        return [
            (kind, spec)
            for kind, specs in given
            if specs is not None
            for spec in (specs if isinstance(specs, tuple) else (specs,))
        ]

    def each(self) -> "list[Block]":
        """The row split into rows of one sub-block each, with that one's entries."""
        entries = {name: value for name in EACH if isinstance(value := getattr(self, name), tuple)}
        return [
            replace(self, repeat=1, **{name: value[index] for name, value in entries.items()})
            for index in range(self.repeat)
        ]


PARTS = {
    "block": "block",
    "activation": "activation",
    "norm": "norm",
    "channel": "channel",
    "mixer": "mixer",
    "merge": "residual",
}
"""The parts that a row may override, and their kinds."""
EACH = "kernel", "activation", "channel"
"""The parts that may differ between sub-blocks."""


@dataclass(frozen=True, kw_only=True)
class Net(Config):
    """The fields of every family's config.

    `lookahead` is the look-ahead of each convolution over time: "same" for half its span, a number
    of its input frames, or one of these for each block, the stem included.
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
        """Raises ConfigError if the blocks are too many or too large in total."""
        layers, weights, channels, stride = 0, 0, 0, 1
        for block in self.blocks:
            layers += block.copies * block.repeat
            check_range("sub-blocks", layers, 0, MAX_BLOCKS)
            widths = (channels, *(block.channels,) * (block.copies * block.repeat - 1))
            kernels = block.kernels * block.copies
            for c_in, kernel in zip(widths, kernels, strict=True):
                taps = kernel + block.channels if block.separable else kernel * block.channels
                weights += c_in * taps
            check_range("weights", weights, 0, MAX_WEIGHTS)
            stride *= block.stride**block.copies
            check_range("stride of all blocks", stride, 1, MAX_WIDTH)
            channels = block.channels

    @property
    def task(self) -> str:
        """The name of the task that the head serves; ConfigError where its component has none."""
        head = Spec.parse(self.head)
        entry = registry().find("head", head.name)
        if not entry.component.task:
            raise ConfigError(
                f"head {head} serves no task; its Component must name one, such as task='frame'"
            )
        return str(registry().qualified("task", entry.component.task, [entry.plugin]))

    def qualified(self: N, plugins: Iterable[str]) -> N:
        """The config with each short name that several plugins offer qualified by that of `plugins`
        which offers it."""

        def own(kind: str, value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(own(kind, one) for one in value)
            return registry().qualified(kind, value, plugins) if value is not None else None

        blocks = tuple(
            replace(row, **{part: own(kind, getattr(row, part)) for part, kind in PARTS.items()})
            for row in self.blocks
        )
        components = {kind: own(kind, getattr(self, kind)) for kind in COMPONENTS}
        return replace(self, blocks=blocks, **components)

    def rule(self, kind: type[T]) -> T:
        """The config's rule of a kind such as `PostProcessing`, or the kind's defaults.

        A config with its own rule has a field for it, such as `postprocess`.
        """
        own = (value for value in vars(self).values() if isinstance(value, kind))
        return next(own, None) or kind()

    def rows(self) -> list[tuple[Block, LookAhead]]:
        """Each block with its look-ahead, with copies expanded, the stem first."""
        blocks = [replace(b, copies=1) for b in self.blocks for _ in range(b.copies)]
        ahead = self.lookahead
        each = list(ahead) if isinstance(ahead, tuple) else [ahead] * len(blocks)
        return list(zip(blocks, each, strict=True))

    def components(self) -> list[tuple[str, Spec]]:
        """Every (kind, spec) of the config, followed by those of its rows."""
        own = [(kind, getattr(self, kind)) for kind in COMPONENTS]
        return own + [named for block in self.blocks for named in block.components()]


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
    """The stem and the stack of blocks for `c_in` features, and their output channels."""
    (first, first_ahead), *rest = config.rows()
    if first.block is not None:
        raise ConfigError(
            f"the first row has block={first.block}: it is the stem; set stem instead"
        )
    maker = partial(_body_maker, config, registry)
    stem = registry.build("stem", config.stem, c_in, first.channels, maker(first, first_ahead))
    channels = first.channels
    blocks = []
    for index, (row, ahead) in enumerate(rest):
        # blocks without a residual (the ends of the net) keep the papers' plain form
        design = row.block or (config.block if row.residual else "plain")
        body = maker(row, ahead)
        block = registry.build("block", design, channels, row.channels, body, index, len(rest))
        if block.stride != row.stride * block.rate:
            raise ConfigError(
                f"block {design} has stride {Fraction(block.stride, block.rate)} in a row of "
                f"stride {row.stride}; give that row block=plain"
            )
        blocks.append(block)
        channels = row.channels
    make_stack = registry.find("stack", Spec.parse(config.stack).name).factory()
    width = offered(make_stack, channels=first.channels)
    return stem, registry.build("stack", config.stack, blocks, **width), channels


def _body_maker(config: Net, registry: Registry, row: Block, lookahead: LookAhead) -> BodyMaker:
    each = row.each()
    make = partial(_uniform_body_maker, config, registry, lookahead)
    if all(one == each[0] for one in each):
        return make(replace(each[0], repeat=row.repeat))
    makers = tuple(map(make, each))

    def refuse(*_: Any) -> Any:
        raise ConfigError(
            f"block {row.block or config.block} needs one kernel, channel layer and activation for "
            "all sub-blocks of a row; give that row one of each, or block=plain"
        )

    last = replace(makers[-1], repeat=row.repeat, each=makers)
    # a block design that calls these makes its own sub-blocks
    return replace(last, mixer=refuse, channel=refuse, activation=refuse)


def _uniform_body_maker(
    config: Net, registry: Registry, lookahead: LookAhead, row: Block
) -> BodyMaker:
    def chosen(part: str) -> Spec:
        return Spec.parse(getattr(row, part) or getattr(config, PARTS[part]))

    def layer(part: str, c_out: Callable[..., int | None] = lambda *_: None) -> Callable[..., Any]:
        spec = chosen(part)
        return lambda *args: as_layer(registry.build(part, spec, *args), c_out(*args))

    return BodyMaker(
        kernel=row.kernels[0],
        repeat=row.repeat,
        stride=row.stride,
        dilation=row.dilation,
        lookahead=lookahead,
        separable=row.separable,
        residual=row.residual,
        dropout=config.dropout if row.dropout is None else row.dropout,
        widening=registry.find("activation", chosen("activation").name).component.in_factor,
        mixer=partial(registry.build, "mixer", chosen("mixer")),
        channel=layer("channel", lambda c_in, c_out: c_out),
        norm=layer("norm"),
        activation=layer("activation", lambda channels: channels),
        merge=partial(registry.build, "residual", chosen("merge")),
    )
