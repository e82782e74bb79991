"""How the outputs of blocks are arranged."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from speechkit_probes.geometry import across, cka, parallelism

import speechkit as sk
from speechkit.data import read_manifest, write_manifest
from speechkit.errors import ComponentError
from speechkit.models import Net
from speechkit.probes import Examples, probe

Corpus = Callable[..., Path]


@pytest.fixture
def factors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A code that is the sum of a label's and a speaker's direction, three of each."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(12)
    speakers = torch.arange(3).repeat(12)
    directions = torch.randn(2, 3, 40, generator=generator).double()
    states = directions[0][labels] + directions[1][speakers]
    return states, labels, speakers


def test_alignment_is_1_for_a_rotated_and_scaled_copy() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=generator).double()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    assert cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    other = torch.randn(30, 5, generator=generator).double()
    assert cka(x, other) < 0.4


def test_alignment_is_that_of_the_kernels() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(12, n, generator=generator).double() for n in (4, 7))
    centre = torch.eye(12).double() - 1 / 12
    k, m = (centre @ (x @ x.T) @ centre for x in (a, b))
    assert cka(a, b) == pytest.approx(((k * m).sum() / (k.norm() * m.norm())).item())


def test_a_factorised_code_is_parallel_and_a_random_one_is_not(
    factors: tuple[torch.Tensor, ...],
) -> None:
    states, labels, speakers = factors
    assert parallelism(states, labels, speakers) == pytest.approx(1)
    assert across(states, labels, speakers) == 1
    generator = torch.Generator().manual_seed(1)
    cells = torch.randn(9, 512, generator=generator).double()
    apart = cells[3 * labels + speakers]
    assert abs(parallelism(apart, labels, speakers)) < 0.15
    assert across(apart, labels, speakers) < 0.7


def test_each_block_has_its_numbers_and_padding_does_not_count(
    nets: dict[str, Net], corpus: Corpus
) -> None:
    manifest = corpus(8)
    rows = [replace(u, speaker="ab"[i // 4]) for i, u in enumerate(read_manifest(manifest))]
    write_manifest(manifest, rows)
    model = sk.build(nets["clip"], 1).eval()
    examples = Examples(model, manifest, batch_size=3)
    found = probe(model, ["geometry"], examples)["geometry"]
    assert {name: len(x) for name, x in found.items()} == dict.fromkeys(
        ("cka_in", "cka_label", "parallelism", "across"), 4
    )
    alone = probe(model, ["geometry"], Examples(model, manifest, batch_size=1))["geometry"]
    for name, x in found.items():
        torch.testing.assert_close(x, alone[name], atol=1e-4, rtol=1e-4)


def test_without_speakers_only_alignment_is_found(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    found = probe(model, ["geometry"], Examples(model, corpus(4)))["geometry"]
    assert set(found) == {"cka_in", "cka_label"}


def test_one_label_is_refused(nets: dict[str, Net], corpus: Corpus) -> None:
    model = sk.build(nets["clip"], 1).eval()
    with pytest.raises(ComponentError, match="two labels or more"):
        probe(model, ["geometry"], Examples(model, corpus(1)))
