"""Codes of frames, gradients of utterances and patches of features."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

import speechkit as sk
from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.nn import Chunk
from speechkit.probes import Examples, probe
from speechkit.probes.codes import codes

Corpus = Callable[..., Path]


def found(model: sk.Model, manifest: Path, spec: str) -> dict[str, torch.Tensor]:
    return probe(model, [spec], Examples(model, manifest, batch_size=3))[spec]


def test_the_codes_of_frames_are_counted(model: sk.Model, corpus: Corpus) -> None:
    manifest = corpus(1)
    seen = found(model, manifest, "activation_regions")
    for _, features in Examples(model, manifest):
        bits = list(codes(model, features).values())
    assert {name: len(x) for name, x in seen.items()} == dict.fromkeys(
        ("adjacent", "far", "unique", "dead"), len(bits)
    )
    for index, c in enumerate(bits):
        rows = c.x[0].T
        changes = (rows[1:] != rows[:-1]).float().mean()
        assert seen["adjacent"][index] == pytest.approx(changes.item())
        assert seen["unique"][index] == pytest.approx(
            len(set(map(tuple, rows.tolist()))) / len(rows)
        )
        assert seen["dead"][index] == pytest.approx((~rows.any(0)).float().mean().item())


def test_a_dead_layer_has_one_code(model: sk.Model, corpus: Corpus) -> None:
    stem: Any = model.stem
    norm = stem.body[0].norm
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.fill_(-1)
    seen = found(model, corpus(4), "activation_regions")
    assert seen["dead"][0] == 1
    assert seen["adjacent"][0] == seen["far"][0] == 0
    assert 0 < seen["unique"][0] < 0.05


def test_an_utterance_agrees_with_its_copy(nets: dict[str, Net], corpus: Corpus) -> None:
    manifest = corpus(1)
    write_manifest(manifest, read_manifest(manifest) * 2)
    model = sk.build(nets["clip"], 1).eval()
    seen = found(model, manifest, "gradient_confusion:pairs=2")
    for name in ("mean", "lowest", "same"):
        assert seen[name] == pytest.approx(1)
    assert "other" not in seen


def test_the_cosine_is_that_of_the_gradients(model: sk.Model, corpus: Corpus) -> None:
    manifest = corpus(2)
    seen = found(model, manifest, "gradient_confusion:pairs=1")
    rows = []
    for row in read_manifest(manifest):
        alone = Examples(model, [row])
        for batch, features in alone:
            model.zero_grad()
            alone.loss(model.score(features), batch).sum().backward()
        parts = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        rows.append(torch.cat(parts))
    assert seen["mean"] == pytest.approx(
        torch.cosine_similarity(rows[0], rows[1], 0).item(), abs=1e-4
    )


def test_patches_of_a_constant_sound_are_alike(nets: dict[str, Net], tmp_path: Path) -> None:
    at_s = torch.arange(16000) / 16000
    tone = 0.3 * torch.sin(2 * torch.pi * 1000 * at_s)
    noise = 0.1 * torch.randn(16000, generator=torch.Generator().manual_seed(0))
    model = sk.build(nets["clip"], 1).eval()
    values = {}
    for name, sound in ("tone", tone), ("noise", noise):
        soundfile.write(tmp_path / f"{name}.wav", sound.numpy(), 16000)
        write_manifest(
            tmp_path / f"{name}.jsonl", [Utterance(audio=tmp_path / f"{name}.wav", duration_s=1.0)]
        )
        values[name] = found(model, tmp_path / f"{name}.jsonl", "patch_similarity:kernels=1 5 500")
    assert values["noise"]["size"].tolist() == [1, 5], "500 frames are too many"
    assert torch.all(values["noise"]["cosine"].abs() < 1)
    x = Examples(model, tmp_path / "noise.jsonl")
    for _, features in x:
        row = features.x[0].double()
        expected = torch.cosine_similarity(row[:, 1:], row[:, :-1], 0).mean()
    assert values["noise"]["cosine"][0] == pytest.approx(expected.item())


def test_equal_patches_have_the_cosine_1(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: Any
) -> None:
    model = sk.build(nets["clip"], 1).eval()
    ones = Chunk.of(torch.ones(2, 16, 30), torch.tensor([30, 20]))
    monkeypatch.setattr(Examples, "__iter__", lambda self: iter([(None, ones)]))
    seen = found(model, corpus(2), "patch_similarity:kernels=3")
    assert seen["cosine"].tolist() == pytest.approx([1.0])


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("activation_regions:pairs=0", "give at least 1"),
        ("gradient_confusion:pairs=0", "give at least 1"),
        ("gradient_confusion", "give at least 2"),
        ("patch_similarity:kernels=0", "give numbers of frames"),
        ("patch_similarity:kernels=x", "kernels='x'; give numbers of frames"),
    ],
)
def test_bad_parameters_are_refused(
    spec: str, says: str, nets: dict[str, Net], corpus: Corpus
) -> None:
    with pytest.raises(ComponentError, match=says):
        found(sk.build(nets["clip"], 1).eval(), corpus(1), spec)


def test_a_pair_needs_a_label_on_both_sides(nets: dict[str, Net], corpus: Corpus) -> None:
    manifest = corpus(2)
    one, other = read_manifest(manifest)
    model = sk.build(nets["frame"], 1).eval()
    write_manifest(manifest, [one, replace(other, label=None)])
    assert set(found(model, manifest, "gradient_confusion:pairs=9")) == {"mean", "lowest"}
