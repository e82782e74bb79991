"""A head of linear layers and ReLUs as a tree of questions about its input."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.nn import Pointwise, PooledHead, Serial, StreamLayer, Taps
from speechkit.nn.stream import unwrapped
from speechkit.probes import Examples
from speechkit_heads.prescriptive import Forbidden


class Tree(NamedTuple):
    """Node m asks whether tests[m] · (x, 1) > 0; its children are the next node, or −1 − leaf.

    Shape: tests `[M, C + 1]`, children `[M, 2]` for no and yes; maps `[R, labels, C + 1]`, the
    scores in each leaf as a function of (x, 1); share `[R]` of the points in each leaf; depth, the
    most tests on a path. Node 0 is the first; a tree without nodes has one leaf.
    """

    tests: Tensor
    children: Tensor
    maps: Tensor
    share: Tensor
    depth: Tensor

    def choose(self, x: Tensor) -> Tensor:
        """The label of the best score for points `[N, C]`, `[N]`."""
        x = _with_one(x)
        at = torch.full((len(x),), 0 if len(self.tests) else -1)
        while (inside := at >= 0).any():
            node = at[inside]
            yes = (self.tests[node] * x[inside]).sum(1) > 0
            at[inside] = self.children[node, yes.long()]
        return torch.einsum("nkc,nc->nk", self.maps[-1 - at], x).argmax(1)


def relu_tree(points: int = 4096) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """A probe of heads such as `prescriptive` and `convex_relu`: the decisions as a `Tree`.

    Where the same ReLUs are on, the scores are an affine function of what the linear layers read.
    The tree is grown from at most `points` frames, or utterances if the head pools, evenly spaced.
    Each node asks about the ReLU that splits its points most evenly, until all points of a leaf
    have the same ReLUs on. Wherever the same ReLUs are on as for one of the points, the tree
    chooses as the head does. `agreement` is the share of all frames or utterances for which both
    choose the same; the other results are the tree's. Source: Sun & Tsiourvas, arXiv:2306.00651.

    Raises ComponentError for a head of other layers.
    """
    if points < 1:
        raise ComponentError(f"probe relu_tree: points={points}; give 1 or more")

    @torch.no_grad()
    def probe(model: Model, examples: Examples) -> dict[str, Tensor]:
        net = model.head.linear if isinstance(model.head, PooledHead) else model.head
        stages = stages_of(net)
        read, chosen = [], []
        with Taps({"head": net}) as taps:
            for _, features in examples:
                model.score(features)
                ((_, _, (c,), y),) = taps.take()
                read.append(c.x.transpose(1, 2)[c.valid].double())
                chosen.append(y.x.transpose(1, 2)[y.valid].argmax(1))
        x = torch.cat(read)
        tree = grow(stages, x[torch.linspace(0, len(x) - 1, min(points, len(x))).round().long()])
        agreement = (tree.choose(x) == torch.cat(chosen)).double().mean()
        return {**tree._asdict(), "agreement": agreement}

    return probe


def stages_of(net: StreamLayer) -> list[Tensor]:
    """The affine maps between the ReLUs of a net, `[outputs, inputs + 1]` in float64."""
    stages: list[Tensor] = []
    rectified = True
    for layer in map(unwrapped, _layers(net)):
        if isinstance(layer, nn.ReLU) and not rectified:
            rectified = True
            continue
        if isinstance(layer, Pointwise):
            bias = layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
            stage = torch.cat([layer.weight, bias[:, None]], dim=1).double()
        elif isinstance(layer, Forbidden):
            rule = layer.fuse()
            stage = torch.cat([rule.scale.diag(), rule.shift[:, None]], dim=1).double()
        else:
            raise ComponentError(
                f"probe relu_tree: the head has a layer {type(layer).__name__}; give a model with "
                "a head of linear layers with ReLU between them, such as prescriptive"
            )
        if rectified:
            stages.append(stage)
        else:
            stages[-1] = _behind(stage, stages[-1])
        rectified = False
    return stages


def grow(stages: list[Tensor], points: Tensor) -> Tree:
    """The tree of a net for points `[N, C]`, float64."""
    x = _with_one(points)
    tests: list[Tensor] = []
    children: list[list[int]] = []
    maps, counts, depths = [], [], []

    def node(x: Tensor, here: Tensor, rest: list[Tensor], depth: int) -> int:
        """Adds the tree of points in which the next stage's inputs before ReLU are `here`."""
        if not rest:
            maps.append(here)
            counts.append(len(x))
            depths.append(depth)
            return -len(maps)
        on = x @ here.T > 0
        share = on.double().mean(0)
        even = int((share - 0.5).abs().argmin())
        if share[even] in (0, 1):
            return node(x, _behind(rest[0], here * on[0][:, None]), rest[1:], depth)
        index = len(tests)
        tests.append(here[even])
        children.append([])
        yes = on[:, even]
        children[index] = [node(part, here, rest, depth + 1) for part in (x[~yes], x[yes])]
        return index

    node(x, stages[0], stages[1:], 0)
    return Tree(
        torch.stack(tests) if tests else x[:0],
        torch.tensor(children, dtype=torch.int64).reshape(-1, 2),
        torch.stack(maps),
        torch.tensor(counts) / len(x),
        torch.tensor(max(depths)),
    )


def _layers(net: StreamLayer) -> Iterator[nn.Module]:
    """The layers of a net in order."""
    if isinstance(net, Serial):
        for layer in net.children():
            yield from _layers(layer)  # type: ignore[arg-type]
    else:
        yield net


def _behind(stage: Tensor, before: Tensor) -> Tensor:
    """The affine map of `stage` of the outputs of another."""
    made = stage[:, :-1] @ before
    made[:, -1] += stage[:, -1]
    return made


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, x.new_ones(len(x), 1)], dim=1)
