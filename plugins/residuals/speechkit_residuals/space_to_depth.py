"""Downsampling without loss, as in i-RevNet, arXiv:1802.07088."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from speechkit.nn import BodyMaker, Serial, StreamLayer, Windowed

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value


class SpaceToDepth(Windowed):
    """y[s C + c, t] = x[c, t · stride + s]: concatenates the frames of a stride along channels.

    Shape: `[B, C, T]` → `[B, stride · C, ceil(T / stride)]`.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(left=0, right=stride - 1, stride=stride)

    def channels_out(self, c_in: int) -> int:
        return c_in * self.stride

    def compute(self, x: Tensor, frames: int, valid: Tensor) -> Tensor:
        return depth_of_frames(x[:, :, : frames * self.stride], self.stride)

    def lower(self, program: Lowering, x: Value) -> Value:
        rows, channels = x.rows // self.stride, self.channels_out(x.channels)
        return program.emit(
            "unfold", x, rows=rows, channels=channels, taps=self.stride, stride=self.stride
        )

    def inverse(self, y: Tensor) -> Tensor:
        """The input, padded with zeros at its end to a multiple of the stride."""
        return frames_of_depth(y, self.stride)


def depth_of_frames(x: Tensor, stride: int) -> Tensor:
    """The frames of each stride as channels, `[B, C, T]` → `[B, stride · C, T / stride]`."""
    y: Tensor = (
        x.transpose(1, 2).unflatten(1, (x.shape[2] // stride, stride)).flatten(2).transpose(1, 2)
    )
    return y


def frames_of_depth(y: Tensor, stride: int) -> Tensor:
    """The inverse of `depth_of_frames`."""
    x: Tensor = y.transpose(1, 2).unflatten(2, (stride, -1)).flatten(1, 2).transpose(1, 2)
    return x


def space_to_depth(c_in: int, c_out: int, make_body: BodyMaker) -> StreamLayer:
    """The concatenated frames of a stride, then a channel layer if c_out is not stride · c_in.

    Without the channel layer the stem has an inverse. The row's kernel has no effect.
    """
    fold = SpaceToDepth(make_body.stride)
    wide = fold.channels_out(c_in)
    project = {} if wide == c_out else {"project": make_body.channel(wide, c_out)}
    return Serial(fold=fold, **project)
