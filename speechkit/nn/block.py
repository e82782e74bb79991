"""The blocks of a time-channel-separable net."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from speechkit.errors import ComponentError
from speechkit.nn.conv import DenseConv, LookAhead
from speechkit.nn.frame import Dropout
from speechkit.nn.fused_serial import FusedSerial
from speechkit.nn.stream import FrameWise, Residual, Serial, StreamLayer


@dataclass(frozen=True, kw_only=True)
class BodyMaker:
    """Makes a block's body, and other parts that a block design may need.

    The body is `repeat` × [mixer over time, channel layer, norm] with activation and dropout
    between them, and ends with a norm: the block merges and activates. Without `separable`, one
    dense convolution replaces mixer and channel layer. `activation` has `widening` times more input
    than output channels (2 for the GLU family), so norms are that much wider.
    The callables take numbers of channels and give layers. Where sub-blocks differ, `each` has a
    maker for every one of them, and `mixer`, `channel` and `activation` raise ConfigError.
    """

    kernel: int
    repeat: int = 1
    stride: int = 1
    dilation: int = 1
    lookahead: LookAhead = "same"
    separable: bool = True
    residual: bool = True
    dropout: float = 0.0
    widening: int = 1
    mixer: Callable[[int, int, int, int, LookAhead], StreamLayer]
    channel: Callable[[int, int], StreamLayer]
    norm: Callable[[int], StreamLayer]
    activation: Callable[[int], StreamLayer]
    merge: Callable[[int, int, int], nn.Module]
    each: tuple["BodyMaker", ...] = ()

    def __call__(self, c_in: int, c_out: int) -> FusedSerial:
        """The body; [B, c_in, T] → [B, c_out · widening, T / stride]."""
        makers = self.each or (self,) * self.repeat
        layers: list[StreamLayer] = []
        for index, maker in enumerate(makers):
            if index:
                layers.append(makers[index - 1].after(c_out))
            layers.append(maker.layer(c_out if index else c_in, c_out))
        return FusedSerial(*layers)

    def layer(self, c_in: int, c_out: int) -> Serial:
        """One sub-block: mixer, channel layer, norm."""
        wide = c_out * self.widening
        shape = self.kernel, self.stride, self.dilation, self.lookahead
        if not self.separable:
            return Serial(conv=DenseConv(c_in, wide, *shape), norm=self.norm(wide))
        mixer = self.mixer(c_in, *shape)
        return Serial(mixer=mixer, channel=self.channel(c_in, wide), norm=self.norm(wide))

    def after(self, c_out: int) -> Serial:
        """Activation and dropout, those of the last sub-block."""
        drop = {"dropout": FrameWise(Dropout(self.dropout))} if self.dropout else {}
        maker = self.each[-1] if self.each else self
        return Serial(activation=maker.activation(c_out), **drop)

    def shortcut(self, c_in: int, c_out: int) -> Serial:
        """The projection of the shortcut: the first sub-block's channel layer, and a norm."""
        wide = c_out * self.widening
        maker = self.each[0] if self.each else self
        return Serial(channel=maker.channel(c_in, wide), norm=self.norm(wide))

    def matched(self, c_in: int, c_out: int) -> StreamLayer:
        """The shortcut: the input, or a projection if the block changes the number of channels."""
        return StreamLayer() if c_in == c_out * self.widening else self.shortcut(c_in, c_out)

    def narrow_only(self, block: str) -> None:
        """Raises ComponentError for an activation that returns fewer channels than it reads."""
        if self.widening != 1:
            raise ComponentError(
                f"block {block} activates its own input: choose an activation that keeps the "
                "number of channels, not one of the GLU family"
            )


def plain_block(
    c_in: int, c_out: int, make_body: BodyMaker, index: int = 0, depth: int = 1
) -> StreamLayer:
    """y = activation(merge(shortcut(x), body(x))), or activation(body(x)) without a residual.

    Li et al., Jasper, arXiv:1904.03288; Kriman et al., QuartzNet, arXiv:1910.10261.
    """
    body = make_body(c_in, c_out)
    after = make_body.after(c_out)
    if not make_body.residual:
        return FusedSerial(body=body, after=after)
    merge = make_body.merge(c_out * make_body.widening, index, depth)
    return FusedSerial(sum=Residual(body, make_body.shortcut(c_in, c_out), merge), after=after)


def skip_block(
    c_in: int, c_out: int, make_body: BodyMaker, index: int = 0, depth: int = 1
) -> StreamLayer:
    """y = activation(shortcut(x)): `plain` without its body. Shape: as `plain_block`."""
    return Serial(shortcut=make_body.shortcut(c_in, c_out), after=make_body.after(c_out))
