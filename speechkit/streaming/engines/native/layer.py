"""The step of a net as one call of C++: the layer that runs it, and its calls.

The layers are fused first, so that a sub-block is one instruction, and then lowered. A net with a
layer without `lower` runs in torch.
"""

import ctypes
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from speechkit.libraries import load
from speechkit.models import Model
from speechkit.nn import Chunk, Serial, State, StreamLayer, fuse
from speechkit.ops._dispatch import asked
from speechkit.ops.separable_conv import Precision
from speechkit.streaming.engines.native.lowering import Lowering
from speechkit.streaming.engines.native.program import FIELDS, LoweringError
from speechkit.streaming.state import weights_version

SOURCE = Path(__file__).with_name("engine.cpp")
_P, _I = ctypes.c_void_p, ctypes.c_int64


class Steps(ctypes.Structure):
    """The fixed arguments of a call of `engine.cpp`."""

    _fields_ = (
        *(("program", _P), ("length", _I), ("weights", _P), ("state", _P), ("state_size", _I)),
        *(("rows", _I), ("channels", _I), ("sessions", _I), ("blocks", _I)),
        *(("y", _P), ("valid", _P), ("scratch", _P), ("scratch_size", _I)),
    )


class NativeLayer(StreamLayer):
    """A net over audio `[B, 1, N]` whose step is one native call for blocks of one size.

    It replaces `layer` in a session: it has the same stride, rate and delay, and the same scores up
    to the rounding of float32, or of `precision`. The state is one tensor `[B, S]`. `c_in` is 1 for
    audio, or the number of features of a net without front end. Raises LoweringError if the net has
    a layer without a native form.
    """

    def __init__(
        self,
        layer: StreamLayer,
        block_samples: int,
        precision: Precision = "float32",
        c_in: int = 1,
    ) -> None:
        super().__init__()
        library = load(SOURCE)
        if isinstance(library, str):
            raise LoweringError(library)
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        self.block_samples = block_samples
        self.c_in = c_in
        program = Lowering(int(library.stream_lanes()))
        y = program.add(fuse(layer, precision, "cpu"), program.buffer(block_samples, c_in))
        if not program.instructions or program.instructions[-1]["out"] != y.at:
            raise LoweringError("no instruction gives the scores")
        self.rows, self.channels = y.rows, y.channels
        self.state_count = program.state_count
        self._weights = torch.cat(program.weights)
        numbers = [[row[name] for name in FIELDS] for row in program.instructions]
        self._instructions = torch.tensor(numbers, dtype=torch.int64)
        self.scratch_each = program.scratch_count
        self.group = int(library.stream_group())
        self.program = (
            self._instructions.data_ptr(),
            len(self._instructions),
            self._weights.data_ptr(),
        )
        self.function = library.stream_step
        self.function.argtypes, self.function.restype = (_P, _P, _I, _I), None
        self.is_sound = library.stream_is_sound
        self.is_sound.argtypes, self.is_sound.restype = (_P, _I, _I, _I), ctypes.c_bool

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, self.state_count),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        """The next block; unlike other layers it writes into its input state."""
        x = c.x.transpose(1, 2).contiguous().numpy()
        # allocated here, not stored, since sessions in other threads share this layer
        call = Call(self, len(x), 1, state[0], self.scratch(len(x)))
        call(x, int(c.valid[0].sum()))
        return Chunk(call.scores[:, 0].transpose(1, 2), call.valid[:, 0]), state

    def scratch(self, blocks: int) -> Tensor:
        """The memory of a call over `blocks` blocks of all sessions, for one caller only.

        At most `group` blocks are computed together.
        """
        return torch.empty(min(blocks, self.group) * self.scratch_each)


class Call:
    """Steps of `batch` sessions over `blocks` blocks at a time, with prepared arguments.

    `scores [B, blocks, T, n]` and `valid [B, blocks, T]` are the results of the latest call; the
    state is written in place.
    """

    def __init__(
        self, layer: NativeLayer, batch: int, blocks: int, state: Tensor, scratch: Tensor
    ) -> None:
        self.scores = torch.empty(batch, blocks, layer.rows, layer.channels)
        self.valid = torch.empty(batch, blocks, layer.rows, dtype=torch.bool)
        steps = Steps(
            *(*layer.program, state.data_ptr(), layer.state_count),
            *(layer.block_samples, layer.c_in, batch, blocks),
            *(self.scores.data_ptr(), self.valid.data_ptr()),
            *(scratch.data_ptr(), layer.scratch_each),
        )
        # referenced here, so that none is freed before the last call
        self._memory = layer, state, scratch, steps
        self._step, self._steps = layer.function, ctypes.addressof(steps)

    def __call__(self, x: NDArray[np.float32], real: int) -> None:
        """Steps over x `[B, N]` or `[B, N, C]` in C order; the first `real` rows are valid."""
        self.at(x.ctypes.data, x.strides[0] // 4, real)

    def at(self, address: int, x_step: int, real: int) -> None:
        """The same for x at an address, where sessions are `x_step` floats apart."""
        self._step(self._steps, address, x_step, real)


_layers: weakref.WeakKeyDictionary[Model, dict[Any, tuple[Any, NativeLayer | str]]]
_layers = weakref.WeakKeyDictionary()


def native_layer(model: Model, layer: Serial, block_samples: int, key: Any) -> NativeLayer | str:
    """The native form of one of a model's layers, or the reason in one line why there is none.

    It is cached under `key` and shared by all sessions, until a weight of the model changes.
    """
    weight = next(model.parameters())
    if asked() not in ("auto", "cpu"):
        return f"implementation {asked()!r} was asked for"
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return f"it computes in float32 on the CPU, not {weight.dtype} on {weight.device.type}"
    version = weights_version(model.state_dict())
    kept = _layers.setdefault(model, {})
    if key not in kept or kept[key][0] != version:
        found: NativeLayer | str
        try:
            found = NativeLayer(layer, block_samples)
        except LoweringError as error:
            found = str(error)
        kept[key] = version, found
    return kept[key][1]
