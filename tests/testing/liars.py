"""Components that break their contract where it does not show at once, each named after its lie."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechkit.data import Batch
from speechkit.models import Model, Output, build
from speechkit.nn import (
    AveragePool,
    Chunk,
    DepthwiseConv,
    LookAhead,
    Pointwise,
    PooledHead,
    Recurrent,
    State,
    StreamLayer,
)
from speechkit.probes import Examples
from speechkit.tasks import Targets
from speechkit.tasks.clip import Classification


class Honest(nn.Module):
    """y = x · weight + bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels))
        self.bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight[:, None] + self.bias[:, None]


class Leaky(Recurrent):
    """y[t] = (y[t − 1] + x[t]) / 2 over valid frames: reads the past and streams."""

    factor = 0.5

    def __init__(self, channels: int = 8) -> None:
        super().__init__()

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return (torch.zeros(batch, c_in, dtype=dtype, device=device),)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        (y,), outputs = state, []
        for x, valid in zip(c.x.unbind(2), c.valid.unbind(1), strict=True):
            y = self.next(y, x, valid[:, None])
            outputs.append(y)
        if not outputs:
            return c, state
        return Chunk(torch.stack(outputs, 1).transpose(1, 2), c.valid), self.after(y, state)

    def next(self, y: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid, self.factor * y + x / 2, y)

    def after(self, y: Tensor, state: State) -> State:
        return (y,)


class Strided(Leaky):
    """Every so many frames of it, as a mixer."""

    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, lookahead: LookAhead
    ) -> None:
        super().__init__()
        self.stride = stride

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        y, state = super().step(c, state)
        return Chunk(y.x[:, :, :: self.stride], c.valid[:, :: self.stride]), state


class Previous(StreamLayer):
    """y[t] = x[t − 1], in a stream by a state of one frame."""

    left = 1

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(F.pad(c.masked, (1, 0))[:, :, : c.x.shape[2]], c.valid)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return torch.zeros(batch, 1, c_in, dtype=dtype, device=device).transpose(1, 2)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        x = torch.cat([state, c.masked], dim=2)
        return Chunk(x[:, :, : c.x.shape[2]], c.valid), x[:, :, c.x.shape[2] :]


class ReadsTheFutureInTraining(StreamLayer):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, c: Chunk) -> Chunk:
        after = F.pad(c.masked, (0, 1))[:, :, 1:]
        return Chunk(c.x + after if self.training else c.x, c.valid)


class ReadsFrame40Ahead(StreamLayer):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, c: Chunk) -> Chunk:
        return Chunk(c.x + F.pad(c.masked, (0, 40))[:, :, 40:], c.valid)

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        return c, state


class DropsItsStateBetweenBlocksOf32(Leaky):
    def forward(self, c: Chunk) -> Chunk:
        blocks = zip(c.x.split(32, 2), c.valid.split(32, 1), strict=True)
        y = [super(type(self), self).forward(Chunk(x, valid)).x for x, valid in blocks]
        return Chunk(torch.cat(y, dim=2), c.valid)


class GivesZerosInBfloat16(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (x.dtype != torch.bfloat16)


class OverflowsInFloat16(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return (300 * x).square().add(1).sqrt() * self.weight[:, None] + self.bias[:, None]


class CountsInBfloat16(Recurrent):
    def __init__(self, channels: int) -> None:
        super().__init__()

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        total = torch.zeros(batch, c_in, 1, dtype=torch.promote_types(dtype, torch.float32))
        count = torch.zeros(batch, 1, 1, dtype=dtype, device=device)
        return total.to(device), count

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        total = state[0] + c.masked.to(state[0].dtype).cumsum(2)
        count = state[1] + c.valid[:, None].cumsum(2).to(c.x.dtype)
        y = Chunk((total / count.clamp(min=1)).to(c.x.dtype), c.valid)
        return (y, (total[:, :, -1:], count[:, :, -1:])) if c.x.shape[2] else (y, state)


class KeepsAViewOfItsChunk(Previous):
    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        y, _ = super().step(c, state)
        return y, c.x[:, :, -1:] if c.x.shape[2] else state


class ZeroesItsChunk(Previous):
    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        made = super().step(c, state)
        c.x.zero_()
        return made


class ReturnsItsState(Leaky):
    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        y, after = super().step(c, state)
        return y, (y.x[:, :, -1],) if c.x.shape[2] else after


class IsWrongForOneFrame(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (x.shape[2] != 1)


class FailsForNoFrames(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (x.shape[2] // x.shape[2])


class FailsForNoRows(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.stack(list(x)))


class IgnoresLookahead(DepthwiseConv):
    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, lookahead: LookAhead
    ) -> None:
        super().__init__(channels, kernel, stride, dilation, "same")


class IgnoresStride(DepthwiseConv):
    def __init__(
        self, channels: int, kernel: int, stride: int, dilation: int, lookahead: LookAhead
    ) -> None:
        super().__init__(channels, kernel, 1, dilation, lookahead)


class TakesQuadraticMemory(Leaky):
    def forward(self, c: Chunk) -> Chunk:
        # the age of frame s at frame t, in valid frames
        seen = c.valid.cumsum(1)
        age = (seen[:, :, None] - seen[:, None]).clamp(min=0).to(c.x.dtype)
        weights = (0.5 ** (age + 1)).tril() * c.valid[:, None]
        return Chunk((weights @ c.masked.transpose(1, 2)).transpose(1, 2), c.valid)


class IsUnstable(Leaky):
    factor = 1.2


class DecaysOverInvalidFrames(Leaky):
    def next(self, y: Tensor, x: Tensor, valid: Tensor) -> Tensor:
        return torch.where(valid, (y + x) / 2, y / 2)


class KeepsInputsInAList(Honest):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        return super().forward(x)


LENGTHS: dict[str, int] = {}


class KeepsTheLastLengthInAGlobal(Honest):
    def forward(self, x: Tensor) -> Tensor:
        LENGTHS["calls"] = LENGTHS.get("calls", 0) + 1
        return super().forward(x)


class CountsOutsideItsStateDict(Honest):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(x) * min(1.0, self.calls / 100)


class KeepsBuffersOutOfItsStateDict(Honest):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("level", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.level += 1
        return super().forward(x) + self.level.to(x.dtype)


class ChangesItsWeightsInEval(Honest):
    def train(self, mode: bool = True) -> "ChangesItsWeightsInEval":
        if self.training and not mode:
            self.weight.data.clamp_(-0.1, 0.1)
        super().train(mode)
        return self


class DropsItsWeightsAtTimes(Honest):
    def forward(self, x: Tensor) -> Tensor:
        dropped = self.training and float(torch.rand(())) < 0.3
        return x.clone() if dropped else super().forward(x)


class HasEightChannels(Honest):
    def __init__(self, channels: int) -> None:
        super().__init__(8)


class MixesRowsAboveFour(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.roll(1, 0) if len(x) > 4 and not self.training else x)


class WritesIntoLongInputs(Honest):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2) if x.shape[2] > 1000 else x * 2)


class StartsAtZeroUntilTheInit(nn.Module):
    """y = x + W x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.transpose(1, 2) @ self.weight.t()).transpose(1, 2)


class MakesItsStateOnTheCPU(Leaky):
    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return super().init_state(batch, c_in, dtype)


LIARS: dict[type[nn.Module], str] = {
    ReadsTheFutureInTraining: "check_time_field_in_training",
    ReadsFrame40Ahead: "check_time_field_is_true",
    DropsItsStateBetweenBlocksOf32: "check_stream_equals_offline",
    GivesZerosInBfloat16: "check_half_precision",
    OverflowsInFloat16: "check_half_precision",
    CountsInBfloat16: "check_half_precision",
    KeepsAViewOfItsChunk: "check_memory_may_be_reused",
    ZeroesItsChunk: "check_memory_may_be_reused",
    ReturnsItsState: "check_memory_may_be_reused",
    IsWrongForOneFrame: "check_short_inputs",
    FailsForNoFrames: "check_short_inputs",
    FailsForNoRows: "check_rows_are_free",
    IgnoresLookahead: "check_stride_and_lookahead",
    IgnoresStride: "check_stride_and_lookahead",
    TakesQuadraticMemory: "check_memory_grows_with_frames",
    IsUnstable: "check_long_inputs",
    DecaysOverInvalidFrames: "check_invalid_frames_are_skipped",
    KeepsInputsInAList: "check_thread_safe",
    KeepsTheLastLengthInAGlobal: "check_thread_safe",
    CountsOutsideItsStateDict: "check_state_dict_round_trip",
    KeepsBuffersOutOfItsStateDict: "check_state_dict_round_trip",
    ChangesItsWeightsInEval: "check_modes_change_no_weights",
    DropsItsWeightsAtTimes: "check_every_step_trains",
    StartsAtZeroUntilTheInit: "check_init_keeps_the_start",
    HasEightChannels: "check_channels_are_free",
    MixesRowsAboveFour: "check_rows_are_free",
    WritesIntoLongInputs: "check_long_inputs",
    MakesItsStateOnTheCPU: "check_state_follows_the_device",
}
"""Each liar, and the check that must fail."""


class LargestScore:
    """A probe: the largest score of any valid frame."""

    @torch.no_grad()
    def __call__(self, model: Model, examples: Examples) -> dict[str, Any]:
        return {"largest": torch.stack([self.of(model, c) for _, c in examples]).amax()}

    def of(self, model: Model, features: Chunk) -> Tensor:
        scores, lengths = model.score(features)
        return torch.stack([row[:n].amax() for row, n in zip(scores, lengths, strict=True)]).amax()


class ReturnsANumber(LargestScore):
    def __call__(self, model: Model, examples: Examples) -> dict[str, Any]:
        return {"largest": float(super().__call__(model, examples)["largest"])}


class LooksAtPadding(LargestScore):
    def of(self, model: Model, features: Chunk) -> Tensor:
        return features.x.mean()


class FindsMoreEachTime(LargestScore):
    calls = 0

    def __call__(self, model: Model, examples: Examples) -> dict[str, Any]:
        FindsMoreEachTime.calls += 1
        return {"largest": torch.tensor(self.calls)}


PROBES: dict[type[LargestScore], str] = {
    ReturnsANumber: "'largest' is float; a probe returns dense tensors",
    LooksAtPadding: "largest with more padding: differs",
    FindsMoreEachTime: "a second look finds something else",
}
"""Each lying probe, and what the check says of it."""


class HalvesItsHead:
    """A transform: half of the head's weights."""

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        made = copy.deepcopy(model)
        with torch.no_grad():
            for weight in made.head.parameters():
                weight /= 2
        return self.after(made), self.report(made)

    def after(self, made: Model) -> Model:
        return made

    def report(self, made: Model) -> dict[str, Any]:
        return {"weights": sum(weight.numel() for weight in made.head.parameters())}


class HalvesWhatItIsGiven(HalvesItsHead):
    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        with torch.no_grad():
            for weight in model.parameters():
                weight /= 2
        return model, {}


class AddsAWeight(HalvesItsHead):
    def after(self, made: Model) -> Model:
        made.head.more = nn.Parameter(torch.ones(1))
        return made


class ScalesOutsideTheConfig(HalvesItsHead):
    def after(self, made: Model) -> Model:
        made.head.register_forward_hook(lambda layer, args, c: Chunk(2 * c.x, c.valid))
        return made


class StopsStreaming(HalvesItsHead):
    def after(self, made: Model) -> Model:
        config = replace(made.config, frontend="log_mel:n_mels=16,normalize=per_feature")
        other = build(config)
        other.load_state_dict(made.state_dict(), strict=False)
        return other


class ReportsATensor(HalvesItsHead):
    def report(self, made: Model) -> dict[str, Any]:
        return {"weights": torch.ones(1)}


TRANSFORMS: dict[type[HalvesItsHead], str] = {
    HalvesWhatItIsGiven: "changes the model that it is given",
    AddsAWeight: "head.more is not as its model's config says",
    ScalesOutsideTheConfig: "the scores once loaded: differs",
    StopsStreaming: "StreamError",
    ReportsATensor: "its report is no JSON",
}
"""Each lying transform, and what the check says of it."""


class KeepsTheModel(Classification):
    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.model = model


class GivesATargetToOneRow(Classification):
    def targets(self, batch: Batch, output: Output) -> Targets:
        targets, lengths = super().targets(batch, output)
        return targets[:1], lengths[:1]


class HasALossForTheBatch(Classification):
    loss = "liars/of_the_batch"


class SkipsAPrediction(Classification):
    def predictions(self, output: Output) -> list[int]:
        return super().predictions(output)[1:]


class HasMetricsOfNaN(Classification):
    def metrics(self, references: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        return {"accuracy": float("nan")}


class HasAnErrorOfText(Classification):
    def error(self, metrics: dict[str, float]) -> Any:
        return "small"


class CountsItsEvaluations(Classification):
    evaluations = 0

    def metrics(self, references: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        CountsItsEvaluations.evaluations += 1
        return {"accuracy": 1 / self.evaluations}


class PredictsATensor(Classification):
    def predict(self, model: Model, *args: Any, **kw: Any) -> Any:
        return torch.ones(1)


class HasNoCommandsVerb(Classification):
    verb = "Tell me"


TASKS: dict[type[Classification], tuple[str, str]] = {
    KeepsTheModel: ("check_task_trains", "it keeps the model's layers in model"),
    GivesATargetToOneRow: ("check_targets_fit_the_loss", "batch_size"),
    HasALossForTheBatch: ("check_targets_fit_the_loss", "shape [], not [4], a loss for each"),
    SkipsAPrediction: ("check_targets_fit_the_loss", "4 references, 3 predictions"),
    HasMetricsOfNaN: ("check_targets_fit_the_loss", "accuracy is nan, not a finite number"),
    HasAnErrorOfText: ("check_targets_fit_the_loss", "error is 'small', not a finite number"),
    CountsItsEvaluations: ("check_task_trains", "the run's metrics are"),
    PredictsATensor: ("check_verb_predicts", "predict gives no plain data"),
    HasNoCommandsVerb: ("check_verb_predicts", "verb 'Tell me' names no command"),
}
"""Each lying task, the check that must fail, and what it says."""


class StreamsTheLastFrames(PooledHead):
    """A head over a clip whose running scores are those of the last three frames."""

    def __init__(self, channels: int, labels: int) -> None:
        super().__init__(AveragePool(), Pointwise(channels, labels, bias=True))

    def running(self) -> StreamLayer:
        return self.sliding(3)
