"""Checks of losses, optimisers, schedules, augmentations, inits and decoders."""

import copy
import json
import math
import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from speechkit.data import Utterance
from speechkit.data.augment import DOMAINS
from speechkit.nn import DenseConv, DepthwiseConv, Pointwise
from speechkit.plugins import Entry, offered
from speechkit.testing.checks.pure import generators, same
from speechkit.testing.specimen import LABELS, SAMPLE_RATE
from speechkit.testing.stream import assert_close

STEPS = 200
MAX_DURATION_S = 10.0
UTTERANCES = [
    Utterance(audio=Path(f"{n}.wav"), duration_s=float(n), text="a" if n % 3 else None)
    for n in range(1, 10)
]


def check_losses_are_finite(entry: Entry) -> None:
    """Each utterance has a finite loss and gradient, for at least one form of targets; scores after
    an utterance's length have no effect."""
    loss = entry.factory()(**entry.component.example)
    taken = []
    refused: dict[str, list[str]] = {}
    for form, batch in _loss_batches().items():
        try:
            taken.append((form, batch, *_loss_and_gradient(loss, batch)))
        # a loss may raise any error for the targets of another task
        except Exception as error:
            refused.setdefault(shorten(str(error), 90), []).append(form)
    reasons = (f"{', '.join(forms)}: {reason}" for reason, forms in refused.items())
    assert taken, f"it takes none of the targets tried; {'; '.join(reasons)}"
    for form, (scores, lengths, *targets), losses, gradient in taken:
        assert torch.isfinite(losses).all(), f"{form}: losses {losses.tolist()}"
        assert torch.isfinite(gradient).all(), f"{form}: the gradient is not finite"
        if scores.ndim == 3:
            garbage = scores.clone()
            garbage[1, lengths[1] :] = 7.0
            name = f"{form}: the losses, with other scores in padding"
            assert_close(name, losses, loss(garbage, lengths, *targets), rtol=1e-6)


def check_step_lowers_a_loss(entry: Entry) -> None:
    """Steps on a quadratic loss lower it, with finite numbers."""
    weight = nn.Parameter(torch.ones(4, 3))
    optimizer = entry.factory()([weight], **entry.component.example)
    values = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = (weight - torch.linspace(-1, 0, 3)).square().sum()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert all(map(math.isfinite, values)), f"{values[0]:.3g} becomes NaN or infinity"
    assert values[-1] < values[0], f"{STEPS} steps went from {values[0]:.3g} to {values[-1]:.3g}"


def check_factors_are_finite(entry: Entry) -> None:
    """The factor of each step is finite and from 0 up, not always 0, and equal if asked again."""
    schedule = entry.factory()(STEPS, **entry.component.example)
    factors = [schedule(step) for step in range(STEPS)]
    for step, factor in enumerate(factors):
        assert 0 <= factor < math.inf, f"the factor at step {step} is {factor}"
    assert any(factors), "every factor is 0"
    again = [schedule(step) for step in reversed(range(STEPS))][::-1]
    assert factors == again, "a step has another factor when it is asked for again"


def check_generator_decides(entry: Entry) -> None:
    """All random numbers come from the given generator."""
    before = generators()
    run = {"augmentation": _augmented, "init": _initialised}[entry.kind]
    first, second = run(entry), run(entry)
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other), "the same seed gave something else the second time"
        assert torch.isfinite(one).all(), "gives NaN or infinity"
    for name, state in generators().items():
        assert same(state, before[name]), f"draws from {name}'s global generator"


def check_chunks_change_nothing(entry: Entry) -> None:
    """The text does not depend on the size of chunks, which are numpy arrays of scores.

    A state is plain data; `step` changes neither the given state nor the scores.
    """
    decoder = entry.factory()(tuple(" abc"), **entry.component.example)
    chance = torch.Generator().manual_seed(0)
    log_probs = (3 * torch.randn(30, 5, generator=chance)).log_softmax(1).numpy()
    # an engine's memory, which a decoder must not write
    log_probs.flags.writeable = False
    texts = {}
    for size in (1, 4, len(log_probs)):
        state = decoder.init()
        for part in np.split(log_probs, range(size, len(log_probs), size)):
            kept = copy.deepcopy(state)
            once, twice = decoder.step(state, part), decoder.step(state, part)
            assert state == kept, "step changes the state that it is given"
            assert once[1] == twice[1], f"one step twice: {once[1]!r} and {twice[1]!r}"
            stored = json.loads(json.dumps(once[0]))
            state = decoder.restore(stored)
            assert decoder.finish(state) == decoder.finish(once[0]), "restore loses some of a state"
        texts[size] = decoder.finish(state)
    assert len(set(texts.values())) == 1, f"texts by frames at a time: {texts}"


def _loss_batches() -> dict[str, tuple[Tensor, ...]]:
    """Scores, lengths, targets and target lengths, by the form of the targets."""
    chance = torch.Generator().manual_seed(0)
    frames, labels = torch.tensor([12, 7]), LABELS
    scores = torch.randn(2, 12, labels, generator=chance).log_softmax(2)
    texts = torch.tensor([[0, 1, 2], [3, 0, 0]]), torch.tensor([3, 1])
    each = torch.randint(labels, (2, 12), generator=chance)
    numbers = torch.rand(2, 12, generator=chance)
    clip, one = scores[:, 0], scores[:, :, :1]
    return {
        "texts [2, 3]": (scores, frames, *texts),
        "labels of clips [2]": (clip, frames, each[:, 0], frames),
        "labels of frames [2, 12]": (scores, frames, each, frames),
        "numbers of clips [2]": (one[:, 0], frames, numbers[:, 0], frames),
        "numbers of frames [2, 12]": (one, frames, numbers, frames),
        f"rows of numbers [2, {labels}]": (clip, frames, numbers[:, :labels], frames),
    }


def _loss_and_gradient(loss: Any, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """The losses of a batch and the gradient of their sum; ValueError for another shape."""
    scores = batch[0].clone().requires_grad_()
    with warnings.catch_warnings():
        # torch's losses combine other shapes, and only warn
        warnings.filterwarnings("error", "Using a target size")
        losses = loss(scores, *batch[1:])
    if losses.shape != (len(scores),):
        raise ValueError(f"losses {list(losses.shape)}, not [{len(scores)}]")
    (gradient,) = torch.autograd.grad(losses.sum(), scores)
    return losses.detach(), gradient


def _augmented(entry: Entry) -> list[Tensor]:
    factory = entry.factory()
    given = offered(factory, sample_rate=SAMPLE_RATE, max_duration_s=MAX_DURATION_S)
    change = factory(**{**entry.component.example, **given})
    known = f"its domain is {change.domain!r}; give one of {', '.join(DOMAINS)}"
    assert change.domain in DOMAINS, known
    if change.domain == "utterances":
        return [_joins(change, index) for index in range(len(UTTERANCES))]
    shape = {"audio": (1, SAMPLE_RATE // 2), "features": (32, 60)}[change.domain]
    generator = torch.Generator().manual_seed(1)
    x = 0.1 * torch.randn(shape, generator=generator)
    kept, length = x.clone(), 3 * shape[1] // 4
    y, y_length = change(x, length, generator)
    assert torch.equal(x, kept), "writes into its input"
    assert y.dtype == x.dtype, f"{x.dtype} becomes {y.dtype}"
    assert y.shape[0] == x.shape[0], f"{list(x.shape)} becomes {list(y.shape)}"
    assert 0 < y_length <= y.shape[1], f"says length {y_length} of {y.shape[1]}"
    return [y[:, :y_length]]


def _joins(join: Any, index: int) -> Tensor:
    parts = join(index, UTTERANCES, torch.Generator().manual_seed(index))
    assert index in parts, f"utterance {index} is not in {parts}"
    assert set(parts) <= set(range(len(UTTERANCES))), f"{parts} of {len(UTTERANCES)} utterances"
    lasts_s = sum(UTTERANCES[part].duration_s for part in parts)
    alone = parts == [index]
    assert alone or lasts_s <= MAX_DURATION_S, f"joined, {lasts_s:g} s of {MAX_DURATION_S:g} s"
    return torch.tensor(parts)


def _initialised(entry: Entry) -> list[Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(Pointwise(4, 6, bias=True), DepthwiseConv(6, 5), DenseConv(6, 4, 3))
    entry.factory()(**entry.component.example)(model, Generator().manual_seed(1))
    return [parameter.detach() for parameter in model.parameters()]
