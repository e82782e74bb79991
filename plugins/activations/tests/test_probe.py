"""What the probe `sparsity` finds in a net."""

from collections.abc import Callable

import pytest
import torch
from speechkit_activations.sparsity import never, zeros
from torch import Tensor

import speechkit as sk
from speechkit.models import MatchboxNet, Model
from speechkit.nn import Chunk

Sparsity = Callable[[Model], dict[str, Tensor]]


def test_paper_015_the_probe_sees_every_activation_and_product(sparsity: Sparsity) -> None:
    torch.manual_seed(0)
    model = sk.build(MatchboxNet(labels=("a", "b"))).eval()
    seen = sparsity(model)
    shares = {name: value for name, value in seen.items() if name.endswith("zeros")}
    activations = [name for name, _ in model.named_modules() if name.endswith("activation")]
    assert shares.keys() == {f"{name}/zeros" for name in activations}
    for name, share in shares.items():
        assert 0.2 < share < 0.8
        gone = seen[name.replace("zeros", "never")]
        assert (gone.diff() <= 0).all()
    skipped = {name: value for name, value in seen.items() if name.endswith("skipped")}
    # a depthwise convolution between an activation and a product leaves no zeros
    assert skipped["encoder.0.sum.body.0.channel/skipped"] < 0.1
    stem = shares["stem.after.activation/zeros"]
    assert skipped["encoder.0.sum.shortcut.channel/skipped"] == stem


def test_paper_015_the_largest_shift_gives_nothing_but_zeros(sparsity: Sparsity) -> None:
    model = sk.build(MatchboxNet(labels=("a", "b"), activation="shifted_relu:b=1e9")).eval()
    seen = sparsity(model)
    assert all(value.min() == 1 for name, value in seen.items() if "activation" in name)


def test_zeros_and_unused_channels_are_counted_in_valid_frames() -> None:
    x = torch.tensor([[[0.0, 0, 3, 9], [0, 2, 0, 9]], [[0, 0, 9, 9], [0, 9, 9, 9]]])
    c = Chunk.of(x, torch.tensor([3, 1]))
    assert zeros(c).tolist() == [4 + 2, 6 + 2]
    assert never(c).tolist() == [pytest.approx([1, 0.5, 0]), pytest.approx([1, 1, 1])]
