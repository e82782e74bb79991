"""Within still(), a model computes as in training and its buffers stay as they are."""

import torch

from speechkit.nn import BatchNorm, Chunk, still


def frames(seed: int) -> Chunk:
    return Chunk.of(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(seed)))


def test_a_norm_normalises_by_its_batch_and_keeps_its_statistics() -> None:
    norm, other = BatchNorm(3), BatchNorm(3)
    norm(frames(0))
    before = {name: x.clone() for name, x in norm.state_dict().items()}
    with still(norm):
        y = norm(frames(1))
        assert int(norm.num_batches_tracked) == 2
    assert torch.equal(y.x, other(frames(1)).x)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
    norm(frames(2))
    assert int(norm.num_batches_tracked) == 2


def test_buffers_are_put_back_where_the_block_ends_in_an_error() -> None:
    norm = BatchNorm(3)
    mean = norm.running_mean
    try:
        with still(norm):
            norm(frames(0))
            raise KeyError
    except KeyError:
        pass
    assert norm.running_mean is mean
    assert not mean.any()


class Counting(torch.nn.Module):
    """y = x · (its calls), with the count in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.get_buffer("calls")


def test_a_graph_from_before_the_block_can_still_be_used() -> None:
    layer, x = Counting(), torch.ones(2, requires_grad=True)
    y = layer(x)
    with still(layer):
        layer.get_buffer("calls").add_(1)
        z = layer(x)
    (y.sum() + z.sum()).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [3, 3]


def test_a_buffer_of_two_modules_stays_one() -> None:
    one, two = Counting(), Counting()
    two.register_buffer("calls", one.get_buffer("calls"))
    both = torch.nn.ModuleList([one, two])
    with still(both):
        assert one.get_buffer("calls") is two.get_buffer("calls")
    assert one.get_buffer("calls") is two.get_buffer("calls")
