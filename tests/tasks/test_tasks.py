"""Targets, predictions and metrics of the three tasks."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from speechkit.checkpoint import load
from speechkit.data import Batch, Item, Utterance, collate, read_manifest
from speechkit.errors import ConfigError, ManifestError
from speechkit.models import Net, Output, build
from speechkit.models.model import evaluating
from speechkit.tasks import IGNORED, Task, require, task_of
from speechkit.tasks.clip import Classification
from speechkit.tasks.ctc import Recognition
from speechkit.tasks.frame import Detection

UTTERANCE = Utterance(
    audio=Path("a.wav"), duration_s=1.0, text="Hi lo", label="high", segments=((0.05, 0.1),)
)
# one 20 ms frame of scores
FRAME_S = 0.02


@pytest.fixture
def tasks(nets: dict[str, Net]) -> dict[str, Task]:
    return {name: task_of(build(net)) for name, net in nets.items()}


def batch(task: Task, *utterances: Utterance) -> Batch:
    items = [Item(torch.zeros(1600), task.encode(u), i, "") for i, u in enumerate(utterances)]
    return collate(items)


def test_the_config_chooses_the_task(tasks: dict[str, Task]) -> None:
    kinds = {"ctc": Recognition, "clip": Classification, "frame": Detection}
    assert {name: type(task) for name, task in tasks.items()} == kinds


def test_text_becomes_labels_and_labels_text(tasks: dict[str, Task]) -> None:
    task = tasks["ctc"]
    # the labels are " hilo" and the blank
    assert task.encode(UTTERANCE).tolist() == [1, 2, 0, 3, 4]
    both = batch(task, UTTERANCE, replace(UTTERANCE, text="oh"))
    path = [[1, 1, 5, 2, 0, 3, 4], [4, 5, 4, 4, 1, 2, 2]]
    scores = torch.nn.functional.one_hot(torch.tensor(path), 6).float().log_softmax(2)
    output = Output(scores, torch.tensor([7, 5]))
    assert task.references(both, output) == ["hi lo", "oh"]
    assert task.predictions(output) == ["hi lo", "ooh"]
    targets, lengths = task.targets(both, output)
    assert targets.tolist()[1][:2] == [4, 1]
    assert lengths.tolist() == [5, 2]


@pytest.mark.parametrize("samples", [[8000, 10], [79], [1, 20000, 0]])
def test_a_clip_shorter_than_a_frame_has_scores_where_windows_are_left_out(
    samples: list[int],
) -> None:
    model = load("digits")
    audio, lengths = torch.zeros(len(samples), max(samples)), torch.tensor(samples)
    with torch.inference_mode(), evaluating(model):
        found = task_of(model).output(model, audio, lengths).scores
        whole = model(audio, lengths).scores
    assert found.shape == (len(samples), len(model.labels))
    short = lengths < 80
    torch.testing.assert_close(found[short], whole[short], atol=1e-6, rtol=0)


def test_a_label_becomes_a_class(tasks: dict[str, Task]) -> None:
    task = tasks["clip"]
    both = batch(task, UTTERANCE, replace(UTTERANCE, label="low"))
    output = Output(torch.tensor([[0.0, 1.0], [0.5, 1.0]]), torch.tensor([1, 1]))
    assert task.references(both, output) == [1, 0]
    assert task.predictions(output) == [1, 1]
    assert task.targets(both, output)[0].tolist() == [1, 0]


def test_segments_become_classes_of_frames_and_padding_does_not_count(
    tasks: dict[str, Task],
) -> None:
    task = tasks["frame"]
    silence = replace(UTTERANCE, segments=())
    two = replace(UTTERANCE, segments=((0.0, 0.02), (0.04, 0.06)))
    all_three = batch(task, UTTERANCE, silence, two)
    scores = torch.zeros(3, 6, 2)
    scores[0, :, 1] = torch.arange(6.0)
    output = Output(scores, torch.tensor([6, 4, 3]))
    # a frame is speech if its start is in a segment: 0.05 s <= frame · 0.02 s < 0.1 s
    expected = [
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, IGNORED, IGNORED],
        [1, 0, 1, IGNORED, IGNORED, IGNORED],
    ]
    assert task.targets(all_three, output)[0].tolist() == expected
    assert task.references(all_three, output) == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 1]
    predictions = task.predictions(output)
    assert predictions == pytest.approx(torch.arange(6.0).sigmoid().tolist() + [0.5] * 7)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ctc", {"text": None}, "a.wav has no text; add the key 'text' to its line"),
        ("clip", {"label": "hihg"}, "a.wav: no label 'hihg'. Did you mean 'high'?"),
        ("clip", {"label": None}, "a.wav: no label None. Known: high, low"),
        ("frame", {"segments": None}, "a.wav has no segments; add the key 'segments' to its line"),
    ],
)
def test_an_utterance_without_a_target_is_named(
    tasks: dict[str, Task], name: str, changes: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        tasks[name].encode(replace(UTTERANCE, **changes))  # type: ignore[arg-type]
    assert str(caught.value).startswith(message)


def test_text_that_cannot_be_spelled_is_named_with_its_line(
    tasks: dict[str, Task], tmp_path: Path
) -> None:
    row = {"audio_filepath": "a.wav", "duration": 1, "text": "hi 66"}
    (tmp_path / "train.jsonl").write_text("\n" + json.dumps(row))
    (utterance,) = read_manifest(tmp_path / "train.jsonl", check_files=False)
    with pytest.raises(ManifestError, match=r"^train\.jsonl:2: .*a\.wav: text 'hi 66' has '6'"):
        tasks["ctc"].encode(utterance)


def test_metrics_are_fractions_and_the_error_is_what_to_make_small(tasks: dict[str, Task]) -> None:
    metrics = tasks["ctc"].metrics(["hi lo", "oh"], ["hi", "oh"])
    # one of three words, and three of seven characters, is missing
    assert metrics == pytest.approx({"wer": 1 / 3, "cer": 3 / 7})
    assert tasks["ctc"].error(metrics) == metrics["wer"]
    metrics = tasks["clip"].metrics([0, 1, 1, 0], [0, 1, 0, 0])
    assert metrics == {"accuracy": 0.75}
    assert tasks["clip"].error(metrics) == 0.25
    metrics = tasks["frame"].metrics([0, 0, 1, 1], [0.1, 0.6, 0.5, 0.9])
    assert metrics == {"auc": 0.75}
    assert tasks["frame"].error(metrics) == 0.25


def test_the_wrong_verb_names_the_right_one(nets: dict[str, Net]) -> None:
    model = build(nets["clip"])
    require(model, "classify")
    with pytest.raises(
        ConfigError, match=r"cannot transcribe; use sk\.classify or `speechkit classify`$"
    ):
        require(model, "transcribe")
