"""Recurrent layers whose units are connected as the nodes of a random graph."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.nn import Chunk, LookAhead, Pointwise, Recurrent, Rnn, State

if TYPE_CHECKING:
    from speechkit.nn.lowering import Lowering
    from speechkit.plans.program import Value

Edges = set[tuple[int, int]]
"""Pairs of nodes, each from the smaller number to the larger."""


class MaskedRnn(Rnn):
    """An LSTM or GRU whose unit j reads only the inputs i with `mask[j, i]`, in all its gates.

    Shape: x `[B, C, T]`, mask `[hidden, C]`, y `[B, hidden, T]`.
    """

    mask: Tensor

    def __init__(self, mask: Tensor, cell: str) -> None:
        super().__init__(mask.shape[1], mask.shape[0], cell)
        gates = len(self.weights[0]) // len(mask)
        # gate by gate, as the rows of the weights are
        self.register_buffer("mask", mask.tile(gates, 1), persistent=False)

    def matrices(self) -> list[Tensor]:
        given, *others = super().matrices()
        return [given * self.mask, *others]


class RandomGraphRnn(Recurrent):
    """h_L = RNN_L(h_{L−1}) + Σ_{K < L − 1} RNN_KL(h_K), y = W h of the nodes without successors.

    A node is a unit of the layer after the last of its predecessors'. Between two layers there is
    an RNN if an edge leads from one to the other. Its input weights are 0 where there is no edge;
    those from its own past are dense, as is the first layer's input. Output frame o belongs to
    input frame o · stride. Shape: `[B, C, T]` → `[B, C, ceil(T / stride)]`; state as of the RNNs.
    """

    def __init__(self, channels: int, stride: int, nodes: int, edges: Edges, cell: str) -> None:
        super().__init__()
        self.stride = stride
        self.layers = layers_of(nodes, edges)
        self.cells = nn.ModuleDict(
            {"0": MaskedRnn(torch.ones(len(self.layers[0]), channels), cell)}
        )
        for place, layer in enumerate(self.layers):
            for before, earlier in enumerate(self.layers[:place]):
                mask = torch.tensor([[float((i, j) in edges) for i in earlier] for j in layer])
                if mask.any():
                    self.cells[f"{before}_{place}"] = MaskedRnn(mask, cell)
        begun = {i for i, _ in edges}
        order = [node for layer in self.layers for node in layer]
        self.ends = [place for place, node in enumerate(order) if node not in begun]
        self.output = Pointwise(len(self.ends), channels, bias=True)

    def init_state(
        self, batch: int, c_in: int, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> State:
        return tuple(cell.init_state(batch, c_in, dtype, device) for _, _, cell in self._links())

    def step(self, c: Chunk, state: State) -> tuple[Chunk, State]:
        self.check_chunk(c)
        outputs: dict[int, Tensor] = {}
        states = []
        for (source, target, cell), before in zip(self._links(), state, strict=True):
            x = c if source is None else Chunk(outputs[source], c.valid)
            y, after = cell.step(x, before)
            outputs[target] = outputs[target] + y.x if target in outputs else y.x
            states.append(after)
        nodes = torch.cat([x.transpose(1, 2) for x in outputs.values()], dim=2)
        ends = nodes[:, :: self.stride, self.ends].transpose(1, 2)
        return self.output(Chunk(ends, c.valid[:, :: self.stride])), tuple(states)

    def lower(self, program: Lowering, x: Value) -> Value:
        outputs: dict[int, Value] = {}
        for source, target, cell in self._links():
            y = program.add(cell, x if source is None else outputs[source])
            outputs[target] = program.added(outputs[target], y) if target in outputs else y
        nodes = program.join(*outputs.values())
        weight = self.output.weight.new_zeros(len(self.output.weight), nodes.channels)
        weight[:, self.ends] = self.output.weight.detach()
        return program.matrix(nodes, weight, self.output.bias, stride=self.stride)

    def _links(self) -> Iterator[tuple[int | None, int, Rnn]]:
        """The layers from which and to which each RNN leads; None is the input."""
        for name, cell in self.cells.items():
            assert isinstance(cell, Rnn)
            source, _, target = name.rpartition("_")
            yield int(source) if source else None, int(target), cell


def layers_of(nodes: int, edges: Edges) -> list[list[int]]:
    """The nodes of each layer: L(v) = 1 + the largest L of a predecessor, 0 without one."""
    places: list[int] = []
    for node in range(nodes):
        before = (places[i] for i, j in edges if j == node)
        places.append(max(before, default=-1) + 1)
    return [
        [node for node in range(nodes) if places[node] == layer] for layer in range(max(places) + 1)
    ]


def barabasi_albert(nodes: int, chance: Random) -> Edges:
    """Each new node is connected to nodes // 10 others, drawn in proportion to their edges."""
    each = max(1, nodes // 10)
    edges = {(0, node) for node in range(1, each + 1)}
    while (new := len({node for edge in edges for node in edge})) < nodes:
        ends = [node for edge in sorted(edges) for node in edge]
        chosen: set[int] = set()
        while len(chosen) < each:
            chosen.add(ends[int(chance.random() * len(ends))])
        edges |= {(node, new) for node in chosen}
    return edges


def watts_strogatz(nodes: int, chance: Random) -> Edges:
    """A ring whose nodes have nodes // 5 neighbours, each edge with a new end; it is connected."""
    half = max(1, nodes // 10)
    while True:
        edges: Edges = set()
        for _ in range(half):
            for node in range(nodes):
                end = node
                while end == node or (min(node, end), max(node, end)) in edges:
                    end = int(chance.random() * nodes)
                edges.add((min(node, end), max(node, end)))
        if _is_connected(nodes, edges):
            return edges


def _is_connected(nodes: int, edges: Edges) -> bool:
    reached = {0}
    for _ in range(nodes):
        reached |= {b for i, j in edges for a, b in ((i, j), (j, i)) if a in reached}
    return len(reached) == nodes


GRAPHS = {"ba": barabasi_albert, "ws": watts_strogatz}


def random_graph_rnn(
    channels: int,
    kernel: int,
    stride: int,
    dilation: int,
    lookahead: LookAhead,
    graph: str = "ba",
    nodes: int = 30,
    cell: str = "gru",
    seed: int = 0,
) -> RandomGraphRnn:
    """Recurrent layers of `nodes` units in all, connected as a random graph; see `RandomGraphRnn`.

    `graph` is ba (Barabási and Albert) or ws (Watts and Strogatz, with every edge drawn anew);
    `seed` decides its edges. It reads all earlier frames, so kernel, dilation and look-ahead have
    no effect.
    """
    if graph not in GRAPHS or cell not in ("gru", "lstm") or not 5 <= nodes <= 500:
        raise ComponentError(
            f"mixer random_graph_rnn: graph={graph!r}, cell={cell!r}, nodes={nodes}; give ba or "
            "ws, gru or lstm, and 5 to 500 nodes"
        )
    return RandomGraphRnn(channels, stride, nodes, GRAPHS[graph](nodes, Random(seed)), cell)
