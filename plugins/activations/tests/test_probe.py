import torch

import speechkit as sk
from speechkit.data import Batch
from speechkit.models import MatchboxNet
from speechkit.plugins import registry


def batch() -> Batch:
    audio = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([8000, 5000])
    return Batch(audio, lengths, [], None, [0, 1], ["a", "b"])


def test_paper_015_the_probe_sees_every_activation_and_product() -> None:
    torch.manual_seed(0)
    model = sk.build(MatchboxNet(labels=("a", "b"))).eval()
    seen = registry().build("probe", "sparsity")(model, batch())
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


def test_paper_015_the_largest_shift_gives_nothing_but_zeros() -> None:
    model = sk.build(MatchboxNet(labels=("a", "b"), activation="shifted_relu:b=1e9")).eval()
    seen = registry().build("probe", "sparsity")(model, batch())
    assert all(value.min() == 1 for name, value in seen.items() if "activation" in name)
