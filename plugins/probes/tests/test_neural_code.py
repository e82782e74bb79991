"""Utterances as codes of bits."""

from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from speechkit_probes.neural_code import _votes

import speechkit as sk
from speechkit.data import Utterance, read_manifest, write_manifest
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


def found(model: sk.Model, manifest: Path, spec: str = "neural_code") -> dict[str, torch.Tensor]:
    return probe(model, [spec], Examples(model, manifest, batch_size=3))[spec]


@pytest.fixture
def tones(tmp_path: Path) -> Path:
    """A manifest of six low and six high tones, all different."""
    at_s = torch.arange(8000) / 16000
    rows = []
    for i in range(12):
        tone = 0.3 * torch.sin(2 * torch.pi * (400 if i % 2 else 3000) * (1 + 0.03 * i) * at_s)
        soundfile.write(tmp_path / f"{i}.wav", tone[: 8000 - 300 * i].numpy(), 16000)
        label = "low" if i % 2 else "high"
        rows.append(
            Utterance(audio=tmp_path / f"{i}.wav", duration_s=0.5 - 300 * i / 16000, label=label)
        )
    write_manifest(tmp_path / "tones.jsonl", rows)
    return tmp_path / "tones.jsonl"


def test_a_copy_of_an_utterance_has_its_code(nets: dict[str, Net], tones: Path) -> None:
    model = sk.build(nets["clip"], 1).eval()
    before = found(model, tones)
    rows = read_manifest(tones)
    write_manifest(tones, [*rows, rows[2]])
    after = found(model, tones)
    assert after["nearest"][2] == after["nearest"][12] == 0
    assert before["nearest"].max() > 0
    codes = 12 * (1 - before["redundancy"])
    assert codes > 4
    assert 13 * (1 - after["redundancy"]) == pytest.approx(codes.item(), abs=1e-4)


def test_codes_do_not_depend_on_the_batch(model: sk.Model, tones: Path) -> None:
    one, three = (
        probe(model, ["neural_code"], Examples(model, tones, batch_size=n))["neural_code"]
        for n in (1, 3)
    )
    assert torch.equal(one["nearest"], three["nearest"])


def test_two_tones_are_told_apart_by_their_codes(nets: dict[str, Net], tones: Path) -> None:
    model = sk.build(nets["clip"], 1).eval()
    seen = found(model, tones)
    assert seen["knn"] > 0.9
    rows = read_manifest(tones)
    accuracy = [sk.classify(model, row.audio).label == row.label for row in rows]
    assert seen["net"] == pytest.approx(sum(accuracy) / 12)


def test_most_neighbours_decide_and_a_tie_goes_to_the_nearer() -> None:
    inf = torch.inf
    distances = torch.tensor([[inf, 1, 2, 3], [1, inf, 1, 1], [1, 2, inf, 9], [9, 8, 7, inf]])
    labels = torch.tensor([0, 1, 0, 0])
    assert _votes(distances, labels, 1).tolist() == [1, 0, 0, 0]
    assert _votes(distances, labels, 2).tolist() == [1, 0, 0, 0], "a tie goes to the nearer"
    assert _votes(distances, labels, 3).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("values", ["share=1", "share=-0.1", "neighbours=0"])
def test_bad_parameters_are_refused(values: str, model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give a share from 0"):
        found(model, corpus(2), f"neural_code:{values}")


def test_one_utterance_is_refused(model: sk.Model, corpus: Corpus) -> None:
    with pytest.raises(ComponentError, match="give two utterances"):
        found(model, corpus(1))


def test_entropy_and_idle_units_are_those_of_the_codes(
    nets: dict[str, Net], corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    bits = torch.tensor([[0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 0, 1]]).bool()
    monkeypatch.setattr("speechkit_probes.neural_code._bits", lambda *_: (bits, None))
    seen = found(sk.build(nets["ctc"], 1).eval(), corpus(4))
    assert [float(seen[name]) for name in ("off", "on")] == pytest.approx([0.4, 0.2])
    assert seen["redundancy"] == 0.25
    assert seen["entropy"] == pytest.approx(1.5)
    assert seen["nearest"].tolist() == [0, 0, 0.5, 0.5]
