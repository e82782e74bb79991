"""Phones beside the text: the loss, what it teaches, and how its weights go on."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from speechkit.checkpoint import load
from speechkit.data import Utterance, UtteranceDataset, collate, read_manifest, write_manifest
from speechkit.errors import ManifestError, TrainingError
from speechkit.models import Model, build
from speechkit.tasks import task_of
from speechkit.train import Data, Run, fit
from speechkit.train.phone_ctc import PhoneCTC
from speechkit.train.resume import LAST

Change = Callable[[Utterance], Utterance]


def in_phones(utterance: Utterance) -> Utterance:
    """As a corpus has it that was written down in phones alone."""
    spoken = {"hi": "HH AY", "lo": "L OW"}[utterance.text or ""]
    return replace(utterance, text=None, label=None, segments=None, phones=spoken)


def in_both(utterance: Utterance) -> Utterance:
    return replace(in_phones(utterance), text=utterance.text)


def in_text(utterance: Utterance) -> Utterance:
    return replace(utterance, label=None, segments=None)


@pytest.fixture
def manifest(corpus: Any) -> Callable[..., Path]:
    """The manifest of utterances that are changed in turn."""

    def write(*changes: Change) -> Path:
        path: Path = corpus(2 * len(changes), "spoken")
        rows = read_manifest(path)
        changed = [changes[index % len(changes)](row) for index, row in enumerate(rows)]
        write_manifest(path, changed)
        return path

    return write


@pytest.fixture
def model(nets: dict[str, Any]) -> Model:
    return build(nets["ctc"]).train()


def dataset(manifest: Path, model: Model) -> UtteranceDataset:
    def target(utterance: Utterance) -> torch.Tensor:
        return torch.zeros(0, dtype=torch.int64) if utterance.unlabeled else encode(utterance)

    encode = task_of(model).encode
    return UtteranceDataset(read_manifest(manifest), target)


def test_the_loss_is_that_of_the_phones_from_the_block(
    model: Model, manifest: Callable[..., Path]
) -> None:
    data = dataset(manifest(in_both, in_phones, in_text), model)
    method = PhoneCTC(after=0, weight=0.5)
    method.start(model, data)
    assert method.head.out_features == 4 + 1
    batch = collate([data[index] for index in (4, 1, 2, 0)])
    losses = method.extra_loss(batch, model(batch.audio, batch.lengths))

    model.encoder[0].register_forward_hook(lambda block, args, output: seen.append(output))
    seen: list[Any] = []
    model(batch.audio, batch.lengths)
    scores = method.head(seen[0].x.transpose(1, 2)).log_softmax(2)
    phones = ["AY", "HH", "L", "OW"]
    for row, spoken in enumerate(["HH AY", "L OW", "", "HH AY"]):
        ids = torch.tensor([[phones.index(phone) for phone in spoken.split()]])
        frames = seen[0].lengths[row]
        expected = F.ctc_loss(
            scores[row, :frames, None], ids, frames[None], torch.tensor([ids.shape[1]]), blank=4
        )
        # torch divides by the target's length
        expected = 0.5 * expected * ids.shape[1]
        torch.testing.assert_close(losses[row], expected if spoken else torch.tensor(0.0))


def test_it_teaches_the_blocks_below(model: Model, manifest: Callable[..., Path]) -> None:
    data = dataset(manifest(in_both), model)
    method = PhoneCTC(after=0)
    method.start(model, data)
    batch = collate([data[0], data[1]])
    method.extra_loss(batch, model(batch.audio, batch.lengths)).sum().backward()
    learns = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, weight in model.named_parameters()
        if weight.grad is not None and weight.grad.any()
    }
    assert learns == {"stem.body", "encoder.0"}
    assert method.head.weight.grad is not None


def test_evaluation_is_not_recorded(model: Model, manifest: Callable[..., Path]) -> None:
    data = dataset(manifest(in_both), model)
    method = PhoneCTC(after=0)
    method.start(model, data)
    model.eval()(torch.zeros(1, 8000))
    assert method.taps.take() == []


def run_of(nets: dict[str, Any], train: Path, dev: Path, **settings: Any) -> Run:
    return Run(
        model=nets["ctc"],
        data=Data(train=train, dev=dev, batch_size=2),
        steps=4,
        eval_every=2,
        save_every=1,
        schedule="constant",
        method=("phones:after=0",),
        **settings,
    )


def test_what_has_no_text_counts_for_phones_alone(
    nets: dict[str, Any], manifest: Callable[..., Path], corpus: Any, tmp_path: Path
) -> None:
    run = run_of(nets, manifest(in_phones), corpus(2, "dev"), optimizer="sgd:lr=0.1")
    fit(run, tmp_path / "run", device="cpu")
    before, after = build(nets["ctc"]).state_dict(), load(tmp_path / "run" / LAST).state_dict()
    assert after.keys() == before.keys(), "the model has none of the method's weights"
    assert not torch.equal(
        after["stem.body.0.channel.weight"], before["stem.body.0.channel.weight"]
    )
    for name, value in before.items():
        if name.startswith(("head.", "encoder.1.")) and "running" not in name:
            assert value.dtype == torch.int64 or torch.equal(after[name], value), name


def test_without_the_method_texts_are_asked_for(
    nets: dict[str, Any], manifest: Callable[..., Path], corpus: Any, tmp_path: Path
) -> None:
    run = run_of(nets, manifest(in_phones), corpus(2, "dev"))
    with pytest.raises(ManifestError, match="has no text"):
        fit(replace(run, method=()), tmp_path / "run", device="cpu")


def test_its_weights_go_on_where_a_run_was(
    nets: dict[str, Any], manifest: Callable[..., Path], corpus: Any, tmp_path: Path
) -> None:
    run = run_of(nets, manifest(in_both, in_phones), corpus(2, "dev"), ema=0.9)
    fit(run, tmp_path / "whole", device="cpu")
    fit(replace(run, steps=2), tmp_path / "parts", device="cpu")
    fit(run, tmp_path / "parts", resume=True, device="cpu")
    for file in (
        "model.safetensors",
        "training/weights.safetensors",
        "training/methods.safetensors",
    ):
        whole, parts = (load_file(tmp_path / out / LAST / file) for out in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(value, parts[name]) for name, value in whole.items()), file
    assert set(whole) == {"0.head.weight", "0.head.bias"}


@pytest.mark.parametrize(
    ("after", "change", "message"),
    [
        (0, in_text, "no utterance has phones; add the key 'phones'"),
        (2, in_both, "after=2; give one of the 2 blocks that the encoder has in a row, from 0"),
        (-1, in_both, "after=-1; give one of the 2 blocks"),
    ],
)
def test_unusable_data_and_settings_are_refused(
    model: Model, manifest: Callable[..., Path], after: int, change: Change, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        PhoneCTC(after=after).start(model, dataset(manifest(change), model))


def test_phones_that_are_too_many_for_their_frames_are_counted(
    model: Model, manifest: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    def in_many(utterance: Utterance) -> Utterance:
        return replace(in_both(utterance), phones="HH AY " * 40)

    PhoneCTC(after=0).start(model, dataset(manifest(in_both, in_many), model))
    (line,) = (record.getMessage() for record in caplog.records)
    assert "2 of 4 utterances are too short for their phones" in line
    assert "spoken1.wav: 80 phones in 0.42 s of frames of 20 ms" in line
    with pytest.raises(TrainingError, match=r"2 of 2 utterances .*; correct the phones"):
        PhoneCTC(after=0).start(model, dataset(manifest(in_many), model))
