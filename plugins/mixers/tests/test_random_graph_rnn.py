"""Recurrent layers with the connections of a random graph (paper 45, part B)."""

from collections.abc import Callable
from random import Random

import pytest
import torch
from speechkit_mixers.random_graph_rnn import (
    GRAPHS,
    MaskedRnn,
    RandomGraphRnn,
    layers_of,
    random_graph_rnn,
)
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.nn import Chunk
from speechkit.testing import assert_close, check_native, check_stream

Frames = Callable[..., Tensor]
THESIS = {(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)}
"""The graph of the thesis' example."""


def made(stride: int = 1, **params: object) -> RandomGraphRnn:
    torch.manual_seed(0)
    given = {"nodes": 12, **params}
    return random_graph_rnn(8, 5, stride, 1, 0, **given).eval()  # type: ignore[arg-type]


def test_paper_045_the_layers_of_the_papers_example() -> None:
    assert layers_of(5, THESIS) == [[0, 1], [2], [3], [4]]
    layer = RandomGraphRnn(8, 1, 5, THESIS, "gru")
    # the edges from 1 to 3 and from 2 to 4 pass over a layer
    assert set(layer.cells) == {"0", "0_1", "0_2", "1_2", "1_3", "2_3"}
    assert layer.ends == [4]


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_paper_045_a_unit_reads_what_its_edges_allow(cell: str) -> None:
    """The zeros of the Jacobian in one frame are those of the mask, in every gate."""
    torch.manual_seed(0)
    mask = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 1]])
    layer = MaskedRnn(mask, cell).double()
    x = torch.randn(1, 4, 1, dtype=torch.float64)
    begun = tuple(torch.randn(1, 3, dtype=torch.float64) for _ in layer.init_state(1, 4))

    def frame(x: Tensor) -> Tensor:
        y: Tensor = layer.step(Chunk.of(x), begun)[0].x
        return y[0, :, 0]

    jacobian = torch.autograd.functional.jacobian(frame, x)[:, 0, :, 0]
    assert torch.equal(jacobian != 0, mask.bool())


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@torch.no_grad()
def test_paper_045_it_is_the_sum_of_torchs_layers_along_the_edges(
    cell: str, frames: Frames
) -> None:
    torch.manual_seed(0)
    # node 1 has no successor and is not in the last layer
    edges = {(0, 2), (0, 3), (2, 3), (1, 3), (0, 4), (3, 5), (2, 5)}
    layer, x = RandomGraphRnn(8, 1, 6, edges, cell).double(), frames(count=13)
    assert [layer.layers, layer.ends] == [[[0, 1], [2, 4], [3], [5]], [3, 5]]
    outputs: dict[int, Tensor] = {}
    for name, rnn in layer.cells.items():
        before, _, place = name.rpartition("_")
        nodes = layer.layers[int(place)]
        earlier = layer.layers[int(before)] if before else range(8)
        known = getattr(torch.nn, cell.upper())(len(earlier), len(nodes)).double()
        for part, weight in zip(known.parameters(), rnn.weights, strict=True):  # type: ignore[arg-type]
            part.copy_(weight)
        if before:
            mask = torch.tensor([[float((i, j) in edges) for i in earlier] for j in nodes])
            for gate in known.weight_ih_l0.split(len(nodes)):
                gate.mul_(mask)
        y = known(outputs[int(before)] if before else x.permute(2, 0, 1))[0]
        outputs[int(place)] = outputs[int(place)] + y if int(place) in outputs else y
    ends = torch.cat([outputs[1][:, :, 1:], outputs[3]], dim=2)
    expected = ends @ layer.output.weight.T + layer.output.bias
    assert_close("sum", expected.permute(1, 2, 0), layer(Chunk.of(x)).x, 1e-12)


@pytest.mark.parametrize("graph", GRAPHS)
def test_paper_045_no_path_leads_past_the_graph(graph: str) -> None:
    """In one frame a node reads those from which a path leads to it, and no others."""
    nodes = 20
    edges = GRAPHS[graph](nodes, Random(3))
    torch.manual_seed(0)
    layer = RandomGraphRnn(8, 1, nodes, edges, "gru").double()
    reach = torch.eye(nodes, dtype=torch.bool)
    for node in range(nodes):
        for before in (i for i, j in edges if j == node):
            reach[node] |= reach[before]
    first = layer.layers[0]
    gates = torch.zeros(1, len(first), 1, dtype=torch.float64, requires_grad=True)
    found: dict[int, Tensor] = {0: gates}
    for source, target, cell in layer._links():
        if source is not None:
            y = cell(Chunk.of(found[source])).x
            found[target] = found[target] + y if target in found else y
    for place, layer_nodes in enumerate(layer.layers[1:], start=1):
        for row, node in enumerate(layer_nodes):
            (gradient,) = torch.autograd.grad(found[place][0, row, 0], gates, retain_graph=True)
            assert torch.equal(gradient[0, :, 0] != 0, reach[node, first])


def test_paper_045_graphs_are_connected_and_their_seeds_decide_them() -> None:
    for graph, make in GRAPHS.items():
        edges = make(30, Random(1))
        assert edges == make(30, Random(1))
        assert edges != make(30, Random(2))
        assert all(0 <= i < j < 30 for i, j in edges)
        assert len(edges) == {"ba": 3 + 3 * 26, "ws": 90}[graph]
        assert sum(map(len, layers_of(30, edges))) == 30
        reached = {0}
        for _ in range(30):
            reached |= {b for i, j in edges for a, b in ((i, j), (j, i)) if a in reached}
        assert len(reached) == 30


@pytest.mark.parametrize("params", [{}, {"graph": "ws", "cell": "lstm"}])
@pytest.mark.parametrize("stride", [1, 2])
def test_paper_045_a_stream_and_the_native_step_equal_the_whole(
    frames: Frames, stride: int, params: dict[str, str]
) -> None:
    x, lengths = frames(count=20), torch.tensor([20, 9])
    check_native(made(stride, **params), x.float(), lengths)
    check_stream(made(stride, **params).double(), x, lengths)


def test_paper_045_masked_weights_do_not_learn(frames: Frames) -> None:
    layer = made().double()
    layer(Chunk.of(frames())).x.square().sum().backward()
    for cell in layer.cells.values():
        assert isinstance(cell, MaskedRnn)
        gradient = cell.weights[0].grad
        assert gradient is not None
        assert torch.equal(gradient != 0, cell.mask.bool())


def test_paper_045_wrong_parameters_are_refused() -> None:
    for params in ({"graph": "er"}, {"cell": "tanh"}, {"nodes": 4}):
        with pytest.raises(ComponentError, match="give ba or ws, gru or lstm, and 5 to 500 nodes"):
            made(**params)
    assert_close("equal seeds", made().output.weight, made().output.weight, 0)
