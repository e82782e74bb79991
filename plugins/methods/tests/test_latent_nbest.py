"""Labels through transcripts: the bound, what is trained, and runs.

That a run goes on bit by bit is checked by `test_conformance.py`.
"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from speechkit_methods.latent_nbest import ABSENT, LatentNBest, bound
from torch import Tensor

from speechkit.data import UtteranceDataset, read_manifest, write_manifest
from speechkit.errors import ComponentError, TrainingError
from speechkit.models import Model, Output, QuartzNet, build
from speechkit.tasks import task_of
from speechkit.testing.runs import fit_in_two
from speechkit.train import Run, fit

METHOD = "latent_nbest:n=3"


@pytest.fixture
def spelled(run: Run, tmp_path: Path) -> Run:
    """The same run for a recogniser that spells the two labels, `hi` and `lo`."""
    names = {"low": "lo", "high": "hi"}
    rows = [replace(u, text=names[u.label or ""]) for u in read_manifest(run.data.dev)]
    write_manifest(tmp_path / "texts.jsonl", rows)
    net = QuartzNet(labels=tuple("hilo"), blocks=run.model.blocks, frontend=run.model.frontend)
    data = replace(run.data, train=tmp_path / "texts.jsonl", dev=tmp_path / "texts.jsonl")
    return replace(run, model=net, data=data)


def started(run: Run, **settings: float) -> tuple[LatentNBest, Model, UtteranceDataset]:
    model = build(run.model)
    encode = task_of(model).encode
    dataset = UtteranceDataset(
        read_manifest(run.data.train),  # type: ignore[arg-type]
        lambda u: torch.zeros(0) if u.text is None else encode(u),
        sample_rate=16000,
    )
    method = LatentNBest(**settings)  # type: ignore[arg-type]
    method.start(model, dataset)
    return method, model, dataset


def sharp(frames: int, seed: int) -> Tensor:
    """Log-probabilities of one row of the four labels and blank."""
    chance = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(1, frames, 5, generator=chance)).log_softmax(2)


def test_the_bound_is_the_likelihood_at_tau_1_and_less_at_others() -> None:
    joint = 3 * torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    whole = joint.logsumexp(1)
    torch.testing.assert_close(bound(joint, 1.0), whole, rtol=0, atol=1e-7)
    for tau in (0.3, 0.9, 1.1, 1e9):
        assert (bound(joint, tau) < whole - 1e-6).all(), tau
    # of a uniform q
    uniform = joint.mean(1) + np.log(6)
    torch.testing.assert_close(bound(joint, 1e9), uniform)


def test_its_gradient_is_q() -> None:
    joint = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    for tau in (1.0, 2.0):
        (gradient,) = torch.autograd.grad(bound(joint, tau).sum(), joint)
        torch.testing.assert_close(gradient, (joint / tau).softmax(1))


def test_the_transcripts_have_the_probabilities_of_ctc_and_of_their_letters(spelled: Run) -> None:
    method, _, _ = started(spelled, n=4)
    scores = sharp(6, seed=0)
    # an h that all transcripts begin with
    scores[0, 0] = torch.tensor([20.0, 0, 0, 0, 0]).log_softmax(0)
    joint = method.joint(Output(scores, torch.tensor([5])))
    assert joint.shape == (1, 4, 2)
    found = method._transcripts(scores[0], torch.tensor(5))
    assert len({tuple(ids.tolist()) for ids in found}) == 4
    for place, ids in enumerate(found):
        assert ids[0] == 0
        log_p = -F.ctc_loss(
            scores.transpose(0, 1), ids[None], [5], [len(ids)], blank=4, reduction="none"
        )
        counts = torch.tensor([int((ids == label).sum()) for label in range(4)]).float()
        label = (method.characters @ counts + method.bias).log_softmax(0)
        torch.testing.assert_close(joint[0, place], log_p + label)


def test_all_transcripts_together_are_all_alignments(spelled: Run) -> None:
    method, _, _ = started(spelled, n=1000)
    method.decoder = type(method.decoder)(tuple("hilo"), beam=1000, min_log_prob=-99, margin=99)
    scores = sharp(3, seed=1)
    joint = method.joint(Output(scores, torch.tensor([3])))
    assert (joint[0, :, 0] > ABSENT).sum() < 1000
    # every path is the alignment of one transcript
    expected = torch.zeros(2, dtype=torch.float64)
    for path in itertools.product(range(5), repeat=3):
        p = sum(float(scores[0, frame, label]) for frame, label in enumerate(path))
        ids = [label for label, _ in itertools.groupby(path) if label < 4]
        counts = torch.bincount(torch.tensor(ids, dtype=torch.int64), minlength=4).float()
        label = (method.characters @ counts + method.bias).softmax(0)
        expected += np.exp(p) * label.detach().double()
    torch.testing.assert_close(joint.logsumexp(1)[0].exp().double(), expected, rtol=1e-4, atol=0)


def test_the_classifier_knows_the_texts_before_the_first_step(spelled: Run) -> None:
    method, model, dataset = started(spelled)
    assert method.classes == ["high", "low"]
    texts = [task_of(model).encode(u) for u in dataset.utterances]
    with torch.no_grad():
        log_p = method._log_p(method._counts(texts))
    right = log_p.gather(1, method.targets[:, None])
    assert (right.exp() > 0.9).all()
    rows = [replace(u, text=None) for u in dataset.utterances]
    write_manifest(spelled.data.dev, rows)
    without, _, _ = started(spelled)
    assert not without.characters.any()


def test_a_label_alone_teaches_the_recogniser_its_text(spelled: Run) -> None:
    method, _, _ = started(spelled, n=4)
    logits = torch.zeros(1, 8, 5)
    logits[0, :, 4] = 1
    logits[0, 1, [0, 2]] = 2
    logits[0, 4, [1, 3]] = 2
    logits.requires_grad_()
    for target, better, worse in ((0, 0, 2), (1, 2, 0)):
        joint = method.joint(Output(logits.log_softmax(2), torch.tensor([8])))
        (gradient,) = torch.autograd.grad(-bound(joint[:, :, target], 1.0).sum(), logits)
        # h of hi, l of lo
        assert gradient[0, 1, better] < gradient[0, 1, worse]


def test_weight_0_is_the_plain_run(spelled: Run, tmp_path: Path) -> None:
    fit(spelled, tmp_path / "plain", device="cpu")
    fit(replace(spelled, method=("latent_nbest:weight=0",)), tmp_path / "nothing", device="cpu")
    # the optimizer's state has that of the classifier too
    for name in ("last/model", "last/training/weights", "last/training/rng", "best/model"):
        file = f"{name}.safetensors"
        one, other = (tmp_path / out / file for out in ("plain", "nothing"))
        assert one.read_bytes() == other.read_bytes(), file


@pytest.mark.slow
def test_two_processes_are_as_one_with_twice_the_batch(spelled: Run, tmp_path: Path) -> None:
    run = replace(
        spelled,
        model=replace(spelled.model, dropout=0.0),
        data=replace(spelled.data, batch_size=4),
        method=(METHOD,),
        steps=4,
    )
    two = replace(run, data=replace(run.data, batch_size=2), devices=2)
    done = fit_in_two(tmp_path, (two, "two", False))
    assert done.returncode == 0, done.stderr
    fit(run, tmp_path / "one", device="cpu")
    for file in ("weights", "methods"):
        one, other = (
            load_file(tmp_path / out / f"last/training/{file}.safetensors")
            for out in ("one", "two")
        )
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5, msg=name)


def test_utterances_need_a_label_but_no_text(spelled: Run, tmp_path: Path) -> None:
    rows = read_manifest(spelled.data.dev)
    write_manifest(spelled.data.dev, [replace(rows[0], text=None), *rows[1:]])
    run = replace(spelled, method=(METHOD,), steps=2, eval_every=2)
    dev = replace(run.data, dev=tmp_path / "dev.jsonl")
    write_manifest(dev.dev, rows)
    fit(replace(run, data=dev), tmp_path / "out", device="cpu")
    assert load_file(tmp_path / "out/last/training/methods.safetensors")
    write_manifest(spelled.data.dev, [replace(rows[0], label=None), *rows[1:]])
    with pytest.raises(TrainingError, match=r"texts\.jsonl:1.* has no label; add the key 'label'"):
        fit(replace(run, data=dev), tmp_path / "refused", device="cpu")


def test_other_models_and_numbers_are_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="latent_nbest works on log-probabilities of CTC"):
        fit(replace(run, method=(METHOD,)), tmp_path / "out", device="cpu")
    for wrong in ({"n": 0}, {"tau": 0.0}, {"weight": -1.0}):
        with pytest.raises(ComponentError, match="give 1 or more, a number above 0"):
            LatentNBest(**wrong)  # type: ignore[arg-type]
