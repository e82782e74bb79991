"""A torch net whose step runs in C++: its plan for blocks of one size, and the layer around it."""

import weakref
from typing import Any

import torch
from torch import nn

from speechkit.errors import ConfigError
from speechkit.implementation import PLANS, asked
from speechkit.models import Model
from speechkit.models.fingerprint import weights_version
from speechkit.nn import Chunk, Serial, State, StreamLayer, fuse
from speechkit.nn.lowering import Lowering, TorchLayers
from speechkit.nn.stream import unwrapped
from speechkit.ops.explain import Choice
from speechkit.ops.separable_conv import Precision
from speechkit.plans.engine import LoadedPlan
from speechkit.plans.program import LoweringError
from speechkit.plans.sessions import Sessions


class NativeLayer(StreamLayer):
    """A net over audio `[B, 1, N]` whose step is one native call for blocks of one size.

    It replaces `layer` in a session: it has the same stride, rate and delay, and the same scores up
    to the rounding of float32, or of `precision`. Layers without a native form run in torch, as
    `in_torch` lists. `c_in` is 1 for audio, or the number of features of a net without front end.
    Raises LoweringError if no part of the net is native.
    """

    def __init__(
        self,
        layer: StreamLayer,
        block_samples: int,
        precision: Precision = "float32",
        c_in: int = 1,
    ) -> None:
        super().__init__()
        self.stride, self.rate, self.delay = layer.stride, layer.rate, layer.delay
        self.block_samples, self.c_in = block_samples, c_in
        program = Lowering()
        program.end(program.add(fuse(layer, precision), program.input(layer.stride, c_in)))
        if not program.instructions:
            raise LoweringError("no instruction gives the scores")
        self.outside = program.outside
        # registered as modules, so that `explain` lists them
        self.torch = nn.ModuleList(unwrapped(layer) for layer, _ in program.outside)
        self.in_torch = [type(module).__name__ for module in self.torch]
        strides = block_samples // layer.stride
        table, weights = program.table, program.weights.array
        try:
            self.plan = LoadedPlan(table, weights, layer.stride, c_in, strides)
        except ConfigError as error:
            raise LoweringError(str(error)) from error
        self.rows, self.channels = self.plan.rows_out, self.plan.channels_out

    def channels_out(self, c_in: int) -> int:
        return self.channels

    def implementation(self) -> Choice:
        """The engine, and the layers that it hands to torch."""
        return Choice("stream", "native", dict.fromkeys(self.in_torch, "it runs in torch"))

    def new_sessions(self, sessions: int) -> Sessions:
        """The states of sessions before their first sample."""
        outside = TorchLayers(self.outside, sessions) if self.outside else None
        return Sessions(self.plan, sessions, outside)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return self.new_sessions(batch)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        """The next block; unlike other layers it writes into its input state."""
        x = c.x.transpose(1, 2).contiguous().numpy()
        # allocated here, not stored, since sessions in other threads share this layer
        steps = state.steps(len(x), 1)
        steps.real[:] = c.valid.sum(1).numpy()
        steps(x)
        return Chunk(
            torch.from_numpy(steps.y[:, 0]).transpose(1, 2), torch.from_numpy(steps.valid[:, 0])
        ), state


_layers: weakref.WeakKeyDictionary[Model, dict[Any, tuple[Any, NativeLayer | str]]]
_layers = weakref.WeakKeyDictionary()


def native_layer(
    model: Model, layer: Serial, block_samples: int, key: Any, precision: Precision = "float32"
) -> NativeLayer | str:
    """The native form of one of a model's layers, or the reason in one line why there is none.

    It is cached under `key` and shared by all sessions, until a weight of the model changes.
    """
    weight = next(model.parameters())
    for impl in (asked(), model.prepared and model.prepared.impl):
        if impl not in (None, *PLANS):
            return f"implementation {impl!r} was asked for"
    if weight.dtype != torch.float32 or weight.device.type != "cpu":
        return f"it computes in float32 on the CPU, not {weight.dtype} on {weight.device.type}"
    version = weights_version(model.state_dict())
    kept = _layers.setdefault(model, {})
    if key not in kept or kept[key][0] != version:
        found: NativeLayer | str
        try:
            found = NativeLayer(layer, block_samples, precision)
        except LoweringError as error:
            found = str(error)
        kept[key] = version, found
    return kept[key][1]
