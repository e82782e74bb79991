"""The loss on attention weights, against its formula and in runs."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from speechkit_mixers.attention import Heads, Weights
from speechkit_mixers.attention_reg import row_loss
from torch import Tensor

import speechkit as sk
from speechkit.data import Utterance, write_manifest
from speechkit.errors import ComponentError, TrainingError
from speechkit.train import Data, Run, fit

REG = "mixers/attention_reg"


def loss(a: Tensor, *valid: bool) -> float:
    """Of one query of one head, where some keys are allowed."""
    allowed = torch.tensor(valid)[None, None, None]
    return float(row_loss(a[None, None, None], allowed, 0.7))


def test_paper_035_the_loss_is_its_formula() -> None:
    a = torch.tensor([0.5, 1.0, 0.5, 1.0, 0.0])
    entropy = -sum(p * math.log(p) for p in (1 / 6, 1 / 3, 1 / 6, 1 / 3))
    expected = math.log(3) + entropy - 0.7 * math.log(5)
    assert loss(a, *[True] * 5) == pytest.approx(expected, rel=1e-5)
    # ln n is that of the allowed keys
    expected = math.log(3) + entropy - 0.7 * math.log(4)
    assert loss(a, True, True, True, True, False) == pytest.approx(expected, rel=1e-5)


def test_paper_035_weights_of_sum_1_with_little_entropy_cost_nothing() -> None:
    assert loss(torch.tensor([1.0, 0, 0, 0]), *[True] * 4) == 0
    assert loss(torch.tensor([0.9, 0.1, 0, 0]), *[True] * 4) == pytest.approx(0, abs=1e-6)
    assert loss(torch.tensor([0.5, 0, 0, 0]), *[True] * 4) == pytest.approx(math.log(2), rel=1e-5)
    uniform = torch.full((4,), 0.25)
    assert loss(uniform, *[True] * 4) == pytest.approx(0.3 * math.log(4), rel=1e-5)


def test_paper_035_rows_without_keys_do_not_count() -> None:
    a, allowed = torch.rand(2, 3, 4, 6), torch.ones(2, 1, 4, 6, dtype=torch.bool)
    allowed[1, :, 2:] = False
    a = torch.where(allowed, a, 0)
    short = row_loss(a[1:, :, :2], allowed[1:, :, :2], 0.7)
    torch.testing.assert_close(row_loss(a, allowed, 0.7)[1:], short)


def test_paper_035_a_gradient_reaches_the_scale_of_each_head() -> None:
    heads = Heads(8, 4, weights := Weights(4, "relu", "learned"), 5, 0)
    x = torch.randn(2, 24, 20, generator=torch.Generator().manual_seed(0))
    a = heads.implicit_attention(sk.nn.Chunk.of(x, torch.tensor([20, 7])))
    row_loss(a, a >= 0, 0.7).sum().backward()
    assert weights.log_scale.grad is not None
    assert weights.log_scale.grad.abs().min() > 0


@pytest.fixture
def run(tmp_path: Path) -> Run:
    chance = np.random.default_rng(0)
    rows = []
    for i in range(6):
        path = tmp_path / f"{i}.wav"
        soundfile.write(path, chance.normal(0, 0.1, 6400 + 320 * i), 16000)
        label = "low" if i % 2 else "high"
        rows.append(Utterance(audio=path, duration_s=0.4 + 0.02 * i, label=label))
    write_manifest(tmp_path / "all.jsonl", rows)
    mixer = "mixers/attention:weight=reluformer,window=16"
    blocks = (sk.Block(channels=8, kernel=5, stride=2), sk.Block(channels=8, kernel=5, mixer=mixer))
    return Run(
        model=sk.MatchboxNet(labels=("low", "high"), blocks=blocks, frontend="log_mel:n_mels=16"),
        data=Data(train=tmp_path / "all.jsonl", dev=tmp_path / "all.jsonl", batch_size=3),
        steps=6,
        eval_every=6,
    )


def weights_of(run: Run, out: Path) -> dict[str, Tensor]:
    fit(run, out, device="cpu")
    return load_file(out / "last/training/weights.safetensors")


def test_paper_035_without_weight_it_is_the_plain_run_to_the_bit(run: Run, tmp_path: Path) -> None:
    plain = weights_of(run, tmp_path / "plain")
    nothing = weights_of(replace(run, method=(f"{REG}:weight=0",)), tmp_path / "nothing")
    assert all(torch.equal(plain[name], nothing[name]) for name in plain)
    changed = weights_of(replace(run, method=(REG,)), tmp_path / "changed")
    assert not all(torch.equal(plain[name], changed[name]) for name in plain)


def test_paper_035_a_run_with_it_brings_the_sums_to_one(run: Run, tmp_path: Path) -> None:
    def spread(method: tuple[str, ...]) -> float:
        fit(replace(run, method=method, steps=20), out := tmp_path / f"{len(method)}", device="cpu")
        model = sk.load(out / "last").eval()
        layer = next(m for m in model.modules() if isinstance(m, Heads))
        with sk.nn.Taps({"heads": layer}) as taps, torch.no_grad():
            model(torch.randn(1, 6400, generator=torch.Generator().manual_seed(5)) * 0.1)
            (c,) = taps.take()[0].args
            return float(layer.implicit_attention(c).sum(-1).clamp(min=1e-6).log().abs().mean())

    assert spread((f"{REG}:weight=1",)) < 0.7 * spread(())


def test_wrong_parameters_and_a_model_without_attention_are_refused(
    run: Run, tmp_path: Path
) -> None:
    plain = replace(run, model=sk.MatchboxNet(labels=("low", "high")), method=(REG,))
    with pytest.raises(TrainingError, match="the model has no attention; give mixer=attention"):
        fit(plain, tmp_path / "out", device="cpu")
    with pytest.raises(ComponentError, match=r"weight=0.1, margin=2; give a weight from 0 up"):
        fit(replace(run, method=(f"{REG}:margin=2",)), tmp_path / "out", device="cpu")
