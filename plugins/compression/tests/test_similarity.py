"""Similarities of frames."""

import pytest
import torch
from speechkit_compression.similarity import angle, cosine, means

U = torch.randn(50, 7, generator=torch.Generator().manual_seed(0))


def test_the_angle_is_exact_at_its_ends() -> None:
    assert angle(U, U).max() == 0
    assert angle(U, 3 * U).max() < 1e-7
    torch.testing.assert_close(angle(U, -U), torch.ones(50).double(), atol=1e-7, rtol=0)
    right = angle(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    assert right.item() == pytest.approx(0.5, abs=1e-12)


def test_the_angle_is_the_arccos_of_the_cosine() -> None:
    v = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(cosine(U, v), torch.cosine_similarity(U.double(), v.double()))
    torch.testing.assert_close(angle(U, v), cosine(U, v).acos() / torch.pi)


def test_a_mean_counts_each_frame_once() -> None:
    batches = [{"a": torch.tensor([1.0, 2.0, 3.0])}, {"a": torch.tensor([10.0])}]
    assert means(batches) == {"a": 4}
