"""Tasks, the heads that serve them, and classes of configs."""

import json
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor, nn

from speechkit.checkpoint import AnyNet, load
from speechkit.component import Spec
from speechkit.config import from_dict, to_dict
from speechkit.data import Utterance, read_audio, read_manifest
from speechkit.errors import ConfigError
from speechkit.models import Model, Net, build
from speechkit.nn import Chunk, ClipHead
from speechkit.plugins import Entry, registry
from speechkit.streaming import stream
from speechkit.tasks import outputs, task_of
from speechkit.tasks.evaluation import evaluate
from speechkit.testing.checks.nets import noise, tiny_net
from speechkit.testing.specimen import used
from speechkit.testing.stream import assert_close
from speechkit.train import Data, Run, fit

STEPS = 3


def check_targets_fit_the_loss(entry: Entry) -> None:
    """Of noise with every target a manifest may have: a finite loss for each utterance, as many
    predictions as references, and finite metrics."""
    with _example(entry) as (model, utterances):
        task = task_of(model)
        loss = registry().build("loss", task.loss)
        pairs: list[list[Any]] = [[], []]
        for batch, output in outputs(model, task, utterances, batch_size=len(utterances)):
            losses = loss(output.scores, output.lengths, *task.targets(batch, output))
            assert losses.shape == (len(utterances),), (
                f"loss {task.loss}: shape {list(losses.shape)}, not [{len(utterances)}], a loss "
                "for each utterance"
            )
            assert torch.isfinite(losses).all(), f"loss {task.loss} is NaN or infinite"
            pairs[0] += task.references(batch, output)
            pairs[1] += task.predictions(output)
        assert len(pairs[0]) == len(pairs[1]), (
            f"{len(pairs[0])} references, {len(pairs[1])} predictions; give one for each"
        )
        metrics = task.metrics(*pairs)
        assert metrics, "it has no metrics"
        for name, value in [*metrics.items(), ("error", task.error(metrics))]:
            number = isinstance(value, int | float) and math.isfinite(value)
            assert number, f"{name} is {value!r}, not a finite number"


def check_task_trains(entry: Entry) -> None:
    """A run of three steps on noise chooses a model by its error, and that is what `evaluate` of
    the saved model gives; a task holds no weights."""
    with _example(entry) as (model, utterances), torch.random.fork_rng(devices=[]):
        task = task_of(model)
        if Spec.parse(task.loss).name == "none":
            raise SkipTest("its loss is none, so that a run learns from methods alone")
        heavy = [n for n, v in vars(task).items() if isinstance(v, nn.Module)]
        assert not heavy, f"it keeps the model's layers in {heavy[0]}; calls are given the model"
        manifest = utterances[0].audio.with_name("noise.jsonl")
        run = Run(
            model=model.config,
            data=Data(train=manifest, dev=manifest, batch_size=2),
            steps=STEPS,
            eval_every=STEPS,
        )
        out = manifest.with_name("run")
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            metrics = fit(run, out, device="cpu")
        again = evaluate(load(out / "best"), manifest)
        assert again == metrics, f"the run's metrics are {metrics}, those of its model {again}"


def check_verb_predicts(entry: Entry) -> None:
    """Its verb is a command's name, `predict` gives plain data for a recording, and a stream gives
    events, or says that there are none, in any chunks."""
    with _example(entry) as (model, utterances):
        task = task_of(model)
        assert re.fullmatch("[a-z][a-z0-9-]*", task.verb), f"verb {task.verb!r} names no command"
        found = task.predict(model, utterances[0].audio)
        try:
            json.dumps(to_dict(found))
        except TypeError as error:
            raise AssertionError(f"predict gives no plain data: {error}") from error
        try:
            task.listener(model.frame_s)
        except ConfigError:
            return
        assert isinstance(task.caption(np.zeros(_classes(model), np.float32)), str), (
            "caption is no text"
        )
        events = [_events(model, utterances, size) for size in (400, 8000)]
        assert events[0] == events[1], "a stream's events depend on how it is cut"


def check_head_serves_a_task(entry: Entry) -> None:
    """Its component names a task that there is."""
    name = entry.component.task
    assert name, "its component names no task, such as task='clip'"
    registry().find("task", Spec.parse(name).name)


def check_clip_head_streams(entry: Entry) -> None:
    """`running()` gives at an utterance's last frame what `forward` gives for the utterance, and
    `sliding(n)` the same where there are no more than n frames."""
    for specimen in used(entry):
        if not isinstance(specimen.layer, ClipHead):
            continue
        layer, x = specimen.layer, specimen.input(2)
        frames = x.shape[2]
        lengths = torch.tensor([frames, frames // 2])
        whole = layer(Chunk.of(x, lengths)).x[:, :, 0]
        for name, streamed in (("running", layer.running()), ("sliding", layer.sliding(frames))):
            if streamed is layer:
                continue
            y = streamed(Chunk.of(x, lengths)).x
            last = torch.stack([row[:, n - 1] for row, n in zip(y, lengths, strict=True)])
            assert_close(f"{specimen} {name}() at the last frame", whole, last, 1e-9)


def check_config_round_trip(entry: Entry) -> None:
    """It is a config whose `kind` is the component's name, and JSON gives it back."""
    config = entry.factory()(**entry.component.example)
    assert isinstance(config, Net), f"{type(config).__name__} is not derived from models.Net"
    name = entry.component.name
    assert config.kind == name, f"its kind is {config.kind!r}, the component's name {name!r}"
    again = from_dict(AnyNet, json.loads(json.dumps(to_dict(config))))
    assert again == config, "what JSON gives back is another config"


@contextmanager
def _example(entry: Entry) -> Iterator[tuple[Model, Sequence[Utterance]]]:
    """A tiny model with a head that serves the task, and utterances of noise with all targets."""
    names = {entry.component.name, entry.qualified_name}
    heads = [
        head.qualified_name
        for head in registry().components("head")
        if Spec.parse(head.component.task or "-").name in names
    ]
    needs = {"head": heads[0]} if heads else {}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        config = tiny_net(**{**needs, **entry.component.needs})
        served = Spec.parse(config.task).name
        assert served in names, f"head {config.head} serves task {served}; no head serves this one"
        yield build(config).eval(), read_manifest(noise(Path(folder)))


def _classes(model: Model) -> int:
    with torch.no_grad():
        scores: Tensor = model(torch.zeros(1, model.sample_rate)).scores
    return scores.shape[-1]


def _events(model: Model, utterances: Sequence[Utterance], size: int) -> list[list[Any]]:
    """What the events of a session are, without when each was decided, by utterance."""
    found = []
    for utterance in utterances:
        session = stream(model, vad=None)
        parts = read_audio(utterance.audio).split(size)
        events = [event for part in parts for event in session.feed(part)] + session.finish()
        found.append([(type(event), event.at_s) for event in events])
    return found
