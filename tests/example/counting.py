"""A plugin in one file: counts the words of an utterance, with a mixer, a method, a transform and a
probe of its own. docs/plugins.md walks through it; tests/example/test_counting.py uses it as a
person would, by `--plugin tests/example/counting.py`.
"""

import copy

import torch
from torch import nn

import speechkit as sk
from speechkit.errors import ComponentError, ManifestError
from speechkit.nn import Chunk, ClipHead, FrameWise, Pointwise, Recurrent, Serial, scan
from speechkit.tasks import Task
from speechkit.train import Method

# a mixer with state


class Fading(Recurrent):
    """h_t = a h_{t−1} + (1 − a) x_t, a = sigmoid(θ) for each channel.

    It remembers instead of looking through a window: `kernel` only says how fast it forgets at
    first, 1 − a = 1 / kernel, and `dilation` and `lookahead` say nothing. Invalid frames change
    nothing. Shape: `[B, C, T]` →
    `[B, C, T / stride]`; state `[B, C]`, in float32 at least.
    """

    undecayed = ("theta",)

    def __init__(self, channels, kernel, stride, dilation, lookahead):
        super().__init__()
        self.stride = stride
        # sigmoid(log(k - 1)) = 1 - 1 / k
        start = torch.tensor(max(kernel - 1.0, 1e-3)).log()
        self.theta = nn.Parameter(start.repeat(channels))

    def init_state(self, batch, c_in, dtype=torch.float32, device=None):
        return torch.zeros(
            batch, c_in, dtype=torch.promote_types(dtype, torch.float32), device=device
        )

    def step(self, c, state):
        self.check_chunk(c)
        if not c.x.shape[2]:
            return c, state
        a = torch.sigmoid(self.theta.to(state.dtype))
        real = c.valid[:, :, None]
        x = c.masked.transpose(1, 2).to(state.dtype)
        h = scan(torch.where(real, a, 1.0), torch.where(real, (1 - a) * x, 0.0), state)
        y = h[:, :: self.stride].to(c.x.dtype).transpose(1, 2)
        # a state of its own: the caller may write over what a step returned
        return Chunk(y, c.valid[:, :: self.stride]), h[:, -1].clone()


@sk.hookimpl
def speechkit_mixers():
    return [
        sk.Component(
            name="fading",
            factory=Fading,
            summary="A fading memory of each channel",
            formula="h_t = a * h_{t-1} + (1 - a) * x_t",
            time="causal",
        )
    ]


# a method that prunes while training


class GradualPruning(Method, nn.Module):
    """After step t, share · (1 − (1 − t / until)³) of each of the encoder's matrices is 0.

    The smallest weights are taken, and what is 0 stays so. Zhu and Gupta, arXiv:1710.01878.
    """

    def __init__(self, share=0.5, until=100):
        super().__init__()
        if not 0 <= share < 1 or until < 1:
            raise ComponentError(
                f"gradual_pruning: share={share}, until={until}; give a share from 0 to 1 and a "
                "step from 1 up"
            )
        self.share, self.until = share, until

    def start(self, model, dataset):
        # buffers, so that a run that goes on finds them
        for name, weight in self._weights(model):
            self.register_buffer(name, torch.ones_like(weight))

    @torch.no_grad()
    def after_step(self, model, step, optimizer):
        share = self.share * (1 - (1 - min(step / self.until, 1)) ** 3)
        for name, weight in self._weights(model):
            kept = self.get_buffer(name)
            # what is pruned already comes first
            order = (weight * kept).abs().flatten().argsort(stable=True)
            kept.view(-1)[order[: round(share * weight.numel())]] = 0
            weight.mul_(kept)

    @torch.no_grad()
    def after_average(self, average, step):
        for name, weight in self._weights(average):
            weight.mul_(self.get_buffer(name))

    @staticmethod
    def _weights(model):
        for name, weight in model.encoder.named_parameters():
            if weight.ndim > 1:
                # names of buffers have no dot
                yield name.replace(".", "_"), weight


@sk.hookimpl
def speechkit_methods():
    return [
        sk.Component(
            name="gradual_pruning",
            factory=GradualPruning,
            summary="Sets more and more of the smallest weights to 0",
            formula="share * (1 - (1 - t / until)^3)",
            paper="arXiv:1710.01878",
        )
    ]


# a transform


def coarse(bits=8):
    """Each matrix of the encoder in 2^bits − 1 values at equal distances, the largest its own."""
    if not 2 <= bits <= 16:
        raise ComponentError(f"coarse: bits={bits}; give a number from 2 to 16")
    levels = 2 ** (bits - 1) - 1

    @torch.no_grad()
    def transform(model, examples):
        new, largest = copy.deepcopy(model), 0.0
        for weight in new.encoder.parameters():
            if weight.ndim > 1 and weight.any():
                unit = weight.abs().max() / levels
                rounded = (weight / unit).round() * unit
                largest = max(largest, float((rounded - weight).abs().max()))
                weight.copy_(rounded)
        return new, {"bits": bits, "largest_change": largest}

    return transform


@sk.hookimpl
def speechkit_transforms():
    return [
        sk.Component(
            name="coarse",
            factory=coarse,
            summary="Rounds weights to a few values",
            formula="round(w / u) * u, u = max|w| / (2^(bits - 1) - 1)",
        )
    ]


# a probe


def quiet_channels(below=1e-3):
    """The share of the encoder's output channels whose deviation over valid frames is small."""

    def probe(model, examples):
        sums = torch.zeros(3, 1, dtype=torch.float64)
        with torch.no_grad():
            for _, features in examples:
                c = model.encoder(model.stem(features))
                x = c.masked.double()
                n = c.valid.sum().expand(x.shape[1])
                sums = sums + torch.stack([n, x.sum((0, 2)), x.square().sum((0, 2))])
        n, total, squares = sums
        deviation = (squares / n - (total / n).square()).clamp(min=0).sqrt()
        return {"share": (deviation < below).double().mean(), "deviation": deviation}

    return probe


@sk.hookimpl
def speechkit_probes():
    return [
        sk.Component(
            name="quiet_channels",
            factory=quiet_channels,
            summary="Channels that hardly vary",
            formula="mean_c(std_t(x_c) < below)",
        )
    ]


# a task with its head, loss, metric and verb


class Total(Recurrent):
    """y_t = Σ_{s ≤ t} x_s over valid frames. Shape: `[B, C, T]` → the same; state `[B, C]`."""

    def init_state(self, batch, c_in, dtype=torch.float32, device=None):
        return torch.zeros(
            batch, c_in, dtype=torch.promote_types(dtype, torch.float32), device=device
        )

    def step(self, c, state):
        if not c.x.shape[2]:
            return c, state
        total = state[:, :, None] + c.masked.to(state.dtype).cumsum(2)
        return Chunk(total.to(c.x.dtype), c.valid), total[:, :, -1].clone()


class CountHead(ClipHead):
    """y = Σ_t softplus(w x_t + b) over valid frames: every frame adds a part of a word."""

    def __init__(self, channels, labels):
        super().__init__()
        self.linear = Pointwise(channels, labels, bias=True)
        # at first a frame adds little
        nn.init.constant_(self.linear.bias, -4.0)

    def channels_out(self, c_in):
        return self.linear.channels_out(c_in)

    def forward(self, c):
        per_frame = Chunk(nn.functional.softplus(self.linear(c).x), c.valid)
        some = c.valid.new_ones(len(c.valid), 1)
        return Chunk(per_frame.masked.sum(2, keepdim=True), some)

    def running(self):
        return Serial(linear=self.linear, softplus=FrameWise(nn.Softplus()), total=Total())


class Counting(Task):
    """The number of words in a recording. An utterance needs a `text`. Metric: `words_off`."""

    verb = "count"
    loss = "count_error"

    def encode(self, utterance):
        if utterance.text is None:
            raise ManifestError(f"{utterance.place} has no text; add the key 'text' to its line")
        return torch.tensor(float(len(utterance.text.split())))

    def predictions(self, output):
        return output.scores[:, 0].tolist()

    def metrics(self, references, predictions):
        pairs = zip(references, predictions, strict=True)
        off = [abs(a - b) for a, b in pairs]
        return {"words_off": sum(off) / max(len(off), 1)}


def count_error():
    """(count − target)² for each utterance."""

    def loss(scores, lengths, targets, target_lengths):
        return (scores[:, 0] - targets).square()

    return loss


@sk.hookimpl
def speechkit_tasks():
    return [
        sk.Component(
            name="counting",
            factory=Counting,
            summary="How many words a recording has",
            formula="words(text)",
        )
    ]


@sk.hookimpl
def speechkit_heads():
    return [
        sk.Component(
            name="count",
            factory=CountHead,
            task="counting",
            summary="A sum of what each frame adds",
            formula="sum_t(softplus(w x_t + b))",
            time="utterance",
        )
    ]


@sk.hookimpl
def speechkit_losses():
    return [
        sk.Component(
            name="count_error",
            factory=count_error,
            summary="Squared error of a count",
            formula="(count - target)^2",
        )
    ]
