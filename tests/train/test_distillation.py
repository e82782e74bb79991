"""Distillation: the teacher's frames, kept once, and how far the student is from them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from speechkit.checkpoint import save
from speechkit.data import Batch, UtteranceDataset, collate, read_manifest
from speechkit.errors import TrainingError
from speechkit.models import Model, Output, build
from speechkit.tasks import task_of
from speechkit.train import Data, Run, fit
from speechkit.train.distillation import Distillation

Corpus = Callable[..., Path]


@pytest.fixture
def teacher(nets: dict[str, Any]) -> Model:
    return build(nets["ctc"], seed=1).eval()


@pytest.fixture
def folder(teacher: Model, tmp_path: Path) -> str:
    save(teacher, tmp_path / "teacher")
    return str(tmp_path / "teacher")


@pytest.fixture
def dataset(teacher: Model, corpus: Corpus) -> UtteranceDataset:
    return UtteranceDataset(read_manifest(corpus(4, "train")), task_of(teacher).encode)


def batch_of(dataset: UtteranceDataset) -> Batch:
    # not in the manifest's order: rows are found by their index
    return collate([dataset[index] for index in (2, 0, 1)])


def test_the_divergence_is_that_of_the_valid_frames(
    teacher: Model, folder: str, dataset: UtteranceDataset, tmp_path: Path
) -> None:
    method = Distillation(teacher=folder, cache=str(tmp_path / "cache"), weight=0.5)
    method.prepare(teacher, dataset)
    batch = batch_of(dataset)
    with torch.no_grad():
        same = teacher(batch.audio, batch.lengths)
        other = build(teacher.config, seed=2).eval()(batch.audio, batch.lengths)
    assert method.extra_loss(batch, same).abs().max() < 1e-2
    expected = []
    for row, length in enumerate(same.lengths.tolist()):
        t, s = same.scores[row, :length], other.scores[row, :length]
        expected.append(0.5 * torch.nn.functional.kl_div(s, t, reduction="sum", log_target=True))
    torch.testing.assert_close(
        method.extra_loss(batch, other), torch.stack(expected), rtol=1e-2, atol=1e-2
    )


def test_padding_takes_no_part(
    teacher: Model, folder: str, dataset: UtteranceDataset, tmp_path: Path
) -> None:
    method = Distillation(teacher=folder, cache=str(tmp_path / "cache"))
    method.prepare(teacher, dataset)
    batch = batch_of(dataset)
    output = teacher(batch.audio, batch.lengths)
    scores = output.scores.detach().clone()
    for row, length in enumerate(output.lengths.tolist()):
        scores[row, length:] = torch.nan
    scores.requires_grad_()
    loss = method.extra_loss(batch, Output(scores, output.lengths))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert scores.grad is not None
    valid = torch.arange(scores.shape[1]) < output.lengths[:, None]
    assert scores.grad[valid].isfinite().all()


def test_the_teacher_reads_each_utterance_once(
    teacher: Model, folder: str, dataset: UtteranceDataset, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    Distillation(teacher=folder, cache=str(cache)).prepare(teacher, dataset)
    written = cache.stat().st_mtime_ns
    again = Distillation(teacher=folder, cache=str(cache))
    again.start(teacher, dataset)
    again.prepare(teacher, dataset)
    assert len(again.scores) == 4
    assert cache.stat().st_mtime_ns == written
    fewer = UtteranceDataset(dataset.utterances[1:], dataset.encode)
    with pytest.raises(TrainingError, match="other utterances"):
        again.start(teacher, fewer)
    cache.write_bytes(b"not a cache")
    with pytest.raises(TrainingError, match="cannot be read"):
        again.start(teacher, dataset)


def test_what_does_not_fit_is_refused(
    teacher: Model, folder: str, dataset: UtteranceDataset, nets: dict[str, Any], tmp_path: Path
) -> None:
    method = Distillation(teacher=folder, cache=str(tmp_path / "cache"))
    with pytest.raises(TrainingError, match="labels"):
        method.start(build(replace(nets["ctc"], labels=("a", "b"), normalization="none")), dataset)
    method.prepare(teacher, dataset)
    batch = batch_of(dataset)
    short = Output(torch.zeros(3, 5, len(teacher.labels) + 1), torch.tensor([5, 5, 5]))
    with pytest.raises(TrainingError, match="change the duration"):
        method.extra_loss(batch, short)


def test_a_run_follows_its_teacher(
    nets: dict[str, Any], folder: str, corpus: Corpus, tmp_path: Path
) -> None:
    first, second = corpus(4, "first"), corpus(4, "second")
    run = Run(
        model=nets["ctc"],
        data=Data(train=(first, second), dev=first, batch_size=8),
        steps=12,
        optimizer="adamw:lr=0.01",
        method=(f"distill:teacher={folder},cache={tmp_path / 'cache'},weight=100",),
        log_every=1,
        seed=3,
    )
    fit(run, tmp_path / "out", device="cpu")
    rows = map(json.loads, (tmp_path / "out" / "metrics.jsonl").read_text().splitlines())
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.7 * losses[0]
