"""Plots of edges as SVG, without a plotting package."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple
from xml.sax.saxutils import escape

import torch
from torch import Tensor

from speechkit_kan.edges import EdgeLayer
from speechkit_kan.symbolic import Fit, symbolic

REACH = 3.0
"""Edges are drawn for inputs from −3 to 3."""
POINTS = 121
WIDTH, HEIGHT, COLUMNS = 190, 130, 5


class Edge(NamedTuple):
    """One edge: its channels, the points of its function, how much it varies, its formula."""

    layer: str
    c_out: int
    c_in: int
    x: Tensor
    y: Tensor
    spread: float
    fit: Fit


@torch.no_grad()
def strongest(name: str, layer: EdgeLayer, count: int) -> Iterator[Edge]:
    """The `count` kept edges of a layer that vary most over inputs within ±REACH."""
    channels = layer.kept.shape[1]
    x = torch.linspace(-REACH, REACH, POINTS, device=layer.kept.device)
    values = layer.edges(x[:, None].expand(-1, channels).to(layer.weights().dtype))
    spread = values.std(0)
    best = spread.masked_fill(~layer.kept, -1).flatten().topk(min(count, int(layer.kept.sum())))
    for place in best.indices.tolist():
        o, i = divmod(place, channels)
        y = values[:, o, i]
        yield Edge(name, o, i, x, y, float(spread[o, i]), symbolic(x, y))


def svg(edges: Iterable[Edge]) -> str:
    """A page with a panel for each edge: channels, lowest and highest value, curve, formula."""
    panels = [_panel(edge) for edge in edges]
    rows = -(-len(panels) // COLUMNS)
    corners = ((i % COLUMNS * WIDTH, i // COLUMNS * HEIGHT) for i in range(len(panels)))
    placed = (
        f'<g transform="translate({x} {y})">{panel}</g>'
        for (x, y), panel in zip(corners, panels, strict=True)
    )
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{COLUMNS * WIDTH}" '
            f'height="{rows * HEIGHT}" font-family="sans-serif" font-size="10">',
            '<rect width="100%" height="100%" fill="white"/>',
            *placed,
            "</svg>\n",
        )
    )


def _panel(edge: Edge) -> str:
    left, top, width, height = 10, 30, WIDTH - 20, HEIGHT - 58
    low, high = float(edge.y.min()), float(edge.y.max())
    across = (edge.x + REACH) / (2 * REACH) * width + left
    up = top + height - (edge.y - low) / max(high - low, 1e-9) * height
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across.tolist(), up.tolist(), strict=True))
    return "".join(
        (
            f'<text x="{left}" y="12">{escape(edge.layer)}</text>',
            f'<text x="{left}" y="24">{edge.c_in} → {edge.c_out}: {low:.2g} to {high:.2g}</text>',
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="#f4f4f4"/>',
            f'<polyline points="{points}" fill="none" stroke="#1f5fa8" stroke-width="1.5"/>',
            f'<text x="{left}" y="{HEIGHT - 14}">{escape(edge.fit.formula)}</text>',
            f'<text x="{left}" y="{HEIGHT - 3}" fill="#777">R² {edge.fit.r2:.3f}</text>',
        )
    )
