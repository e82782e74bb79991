"""Adaptive gradient clipping: the rows it shortens, and runs with it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from speechkit_compression.agc import AdaptiveClipping

import speechkit as sk
from speechkit.errors import ComponentError
from speechkit.testing.runs import assert_same_files, fit_in_parts, fit_in_two
from speechkit.train import Data, Run, fit

Corpus = Callable[..., Path]


@pytest.fixture
def run(corpus: Corpus) -> Run:
    """Six steps of a classifier of tones, which draws random numbers."""
    manifest = corpus(8)
    blocks = (
        sk.Block(channels=8, kernel=5, stride=2),
        sk.Block(channels=8, kernel=5, residual=True, block="ab_bnn"),
    )
    return Run(
        model=sk.MatchboxNet(
            labels=("low", "high"), blocks=blocks, activation="qprelu", dropout=0.1
        ),
        data=Data(train=manifest, dev=manifest, batch_size=4),
        steps=6,
        schedule="constant",
        augment=("white_noise",),
        clip_norm=1.0,
        eval_every=3,
        save_every=2,
        log_every=1,
    )


def test_a_row_is_as_long_as_its_weights_allow() -> None:
    model = sk.build(sk.MatchboxNet(labels=("a", "b"), size="1x1x16"), 0)
    generator = torch.Generator().manual_seed(0)
    given = {}
    for name, p in model.named_parameters():
        scale = 10 ** torch.randint(-6, 2, (len(p), *(1,) * (p.ndim - 1)), generator=generator)
        p.grad = scale * torch.randn(p.shape, generator=generator)
        given[name] = p.grad.clone()
    AdaptiveClipping(clip=0.02, eps=1e-2).before_step(model, 1)
    clipped = kept = 0
    for name, p in model.named_parameters():
        assert p.grad is not None
        if name.startswith("head."):
            assert torch.equal(p.grad, given[name])
            continue
        rows = zip(*(x if x.ndim > 1 else x[None] for x in (p, p.grad, given[name])), strict=True)
        for w, found, gradient in rows:
            longest = 0.02 * max(w.norm().item(), 1e-2)
            if gradient.norm() <= longest:
                kept += 1
                assert torch.equal(found, gradient)
            else:
                clipped += 1
                torch.testing.assert_close(found, gradient * (longest / gradient.norm()))
    assert min(clipped, kept) > 50


def test_a_method_of_nothing_is_the_plain_run_to_the_bit(run: Run, tmp_path: Path) -> None:
    fit(run, tmp_path / "plain", device="cpu")
    fit(replace(run, method=("agc:clip=1e9",)), tmp_path / "nothing", device="cpu")
    assert_same_files(tmp_path / "plain", tmp_path / "nothing")
    fit(replace(run, method=("agc:clip=1e-5",)), tmp_path / "clipped", device="cpu")
    one, other = (
        load_file(tmp_path / out / "last/training/weights.safetensors")
        for out in ("plain", "clipped")
    )
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_a_run_goes_on_bit_by_bit(run: Run, tmp_path: Path) -> None:
    run = replace(run, method=("agc",))
    fit(run, tmp_path / "whole", device="cpu")
    fit_in_parts(run, tmp_path / "parts")
    assert_same_files(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_are_as_one_with_twice_the_batch(run: Run, tmp_path: Path) -> None:
    rows = tuple(replace(row, block=None) for row in run.model.blocks)
    # binary layers turn rounding into other signs
    model = replace(run.model, blocks=rows, dropout=0.0)
    run = replace(run, model=model, steps=4, method=("agc",))
    half = replace(run, data=replace(run.data, batch_size=2), devices=2)
    done = fit_in_two(tmp_path, (half, "two", False))
    assert done.returncode == 0, done.stderr
    fit(run, tmp_path / "one", device="cpu")
    one, other = (
        load_file(tmp_path / out / "last/training/weights.safetensors") for out in ("one", "two")
    )
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5, msg=name)
    one_rows, other_rows = (
        [json.loads(line) for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        for out in ("one", "two")
    )
    for mine, theirs in zip(one_rows, other_rows, strict=True):
        assert theirs == pytest.approx(mine, abs=1e-4)


@pytest.mark.parametrize("wrong", [{"clip": 0.0}, {"eps": -1.0}])
def test_numbers_up_to_0_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ComponentError, match=r"method agc: .*; give numbers above 0"):
        AdaptiveClipping(**wrong)
