"""A self-contained HTML page, and its tables and plots."""

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

SIDE = 260
"""A plot's width and height, in pixels."""
WIDTH, HEIGHT = 400, 120
"""Those of a line over places."""
SQUARE = 8
"""The side of one value of a matrix."""

PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse }
td, th { padding: .15em .7em; text-align: left; border-bottom: 1px solid #8886 }
td.n { text-align: right; font-variant-numeric: tabular-nums }
svg { font-size: 12px }
svg text { fill: currentColor }
ins, del { color: #000 }
ins { background: #cfe8cf; text-decoration: none }
del { background: #f5cccc }
</style>
<h1>$title</h1>
$body
</html>
""")


def page(title: str, figures: Mapping[str, Any], sections: Sequence[tuple[str, str]]) -> str:
    """The page: the figures, then each section's title and HTML."""
    summary = table(("", ""), [(name, number(value)) for name, value in figures.items()])
    parts = [summary, *(f"<h2>{escape(name)}</h2>\n{html}" for name, html in sections)]
    return PAGE.substitute(title=escape(title), body="\n".join(parts))


def number(value: Any) -> str:
    """An integer unchanged, other numbers with four digits."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; cells after a row's first are numbers."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{cells}</tr>"] if any(head) else []
    for name, *values in rows:
        numbers = "".join(f'<td class="n">{escape(value)}</td>' for value in values)
        lines.append(f"<tr><td>{escape(name)}</td>{numbers}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def heat(labels: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """A matrix of counts, each cell as dark as its share of the row."""
    head = "".join(f"<th>{escape(label)}</th>" for label in labels)
    lines = [f"<tr><th></th>{head}</tr>"]
    for label, row in zip(labels, counts, strict=True):
        whole = max(sum(row), 1)
        cells = "".join(
            f'<td class="n" style="background:rgba(40,100,180,{0.8 * count / whole:.3f})">'
            f"{count}</td>"
            for count in row
        )
        lines.append(f"<tr><th>{escape(label)}</th>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def bars(values: Mapping[str, float]) -> str:
    """A horizontal bar for each name, the longest for the largest value."""
    top = max(values.values(), default=0) or 1
    rows = [
        f'<text x="110" y="{20 * i + 14}" text-anchor="end">{escape(name)}</text>'
        f'<rect x="116" y="{20 * i + 3}" width="{400 * value / top:.1f}" height="14" '
        f'fill="#4a86d8"/><text x="{122 + 400 * value / top:.1f}" y="{20 * i + 14}">'
        f"{value:.4f}</text>"
        for i, (name, value) in enumerate(values.items())
    ]
    return f'<svg width="600" height="{20 * len(values)}">{"".join(rows)}</svg>'


def spread(values: Mapping[str, Sequence[float]]) -> str:
    """A line for each name with a disc at each value and a tick at their mean, from 0 on."""
    top = max((max(row) for row in values.values()), default=0) or 1
    rows = []
    for i, (name, row) in enumerate(values.items()):
        middle, mean = 20 * i + 10, 116 + 400 * sum(row) / len(row) / top
        discs = "".join(
            f'<circle cx="{116 + 400 * value / top:.1f}" cy="{middle}" r="4"/>' for value in row
        )
        rows.append(
            f'<text x="110" y="{middle + 4}" text-anchor="end">{escape(name)}</text>'
            f'<path d="M116 {middle}h400" stroke="#8886"/>'
            f'<g fill="#4a86d8" fill-opacity=".6">{discs}</g>'
            f'<path d="M{mean:.1f} {middle - 8}v16" stroke="currentColor" stroke-width="2"/>'
            f'<text x="526" y="{middle + 4}">{sum(row) / len(row):.4f}</text>'
        )
    return f'<svg width="600" height="{20 * len(values)}">{"".join(rows)}</svg>'


def curve(
    points: Sequence[Sequence[float]], across: str, up: str, sizes: Sequence[float] = ()
) -> str:
    """Points in the unit square joined by a line over the diagonal; `sizes` are discs' radii."""

    def xy(x: float, y: float) -> tuple[float, float]:
        return 40 + SIDE * x, 10 + SIDE * (1 - y)

    line = " ".join("{:.1f},{:.1f}".format(*xy(x, y)) for x, y in points)
    discs = "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}" fill="#4a86d8"/>'.format(*xy(x, y), radius)
        for (x, y), radius in zip(points, sizes, strict=False)
    )
    ends = "{:.0f},{:.0f} {:.0f},{:.0f}".format(*xy(0, 0), *xy(1, 1))
    middle = SIDE / 2
    return (
        f'<svg width="{SIDE + 60}" height="{SIDE + 50}" fill="none">'
        f'<rect x="40" y="10" width="{SIDE}" height="{SIDE}" stroke="#888"/>'
        f'<polyline points="{ends}" stroke="#888" stroke-dasharray="4"/>'
        f'<polyline points="{line}" stroke="#4a86d8" stroke-width="2"/>{discs}'
        f'<g fill="currentColor"><text x="{40 + middle}" y="{SIDE + 40}" text-anchor="middle">'
        f'{escape(across)}</text><text x="40" y="{SIDE + 24}">0</text>'
        f'<text x="{SIDE + 34}" y="{SIDE + 24}">1</text><text x="26" y="18">1</text>'
        f'<text transform="translate(20 {10 + middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text></g></svg>"
    )


def scatter(
    points: Sequence[tuple[float, float]],
    joined: Sequence[tuple[float, float]],
    across: str,
    up: str,
    limit: float,
) -> str:
    """Points as discs, some of them `joined` by a line, and a dashed line at x = `limit`.

    Both axes start at 0.
    """
    right = max([x for x, _ in points] + [limit]) * 1.05
    top = max((y for _, y in points), default=0.0) * 1.05 or 1.0

    def xy(x: float, y: float) -> str:
        return f"{60 + WIDTH * x / right:.1f},{10 + SIDE * (1 - y / top):.1f}"

    discs = "".join(
        '<circle cx="{}" cy="{}" r="4"/>'.format(*xy(*point).split(",")) for point in points
    )
    line = " ".join(xy(*point) for point in joined)
    return (
        f'<svg width="{WIDTH + 80}" height="{SIDE + 50}" fill="none">'
        f'<rect x="60" y="10" width="{WIDTH}" height="{SIDE}" stroke="#888"/>'
        f'<polyline points="{xy(limit, 0)} {xy(limit, top)}" stroke="#888" stroke-dasharray="4"/>'
        f'<polyline points="{line}" stroke="#4a86d8" stroke-width="2"/>'
        f'<g fill="#4a86d8" fill-opacity=".6">{discs}</g><g fill="currentColor">'
        f'<text x="60" y="{SIDE + 26}">0</text>'
        f'<text x="{WIDTH + 60}" y="{SIDE + 26}" text-anchor="end">{right:.3g}</text>'
        f'<text x="{60 + WIDTH / 2}" y="{SIDE + 42}" text-anchor="middle">{escape(across)}</text>'
        f'<text x="54" y="{SIDE + 10}" text-anchor="end">0</text>'
        f'<text x="54" y="18" text-anchor="end">{top:.3g}</text>'
        f'<text transform="translate(16 {10 + SIDE / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(up)}</text></g></svg>"
    )


def line(name: str, values: Sequence[float | None], count: int) -> str:
    """Evenly spaced ones of `count` values, joined from left to right; None is a gap.

    The axes bear the smallest and the largest value, and the first and last index.
    """
    low, high = _range(values)
    last = max(len(values) - 1, 1)
    parts: list[list[str]] = [[]]
    for i, value in enumerate(values):
        if value is None:
            parts.append([])
        else:
            x, y = WIDTH * i / last, HEIGHT * (high - value) / (high - low)
            parts[-1].append(f"{60 + x:.1f},{10 + y:.1f}")
    drawn = "".join(f'<polyline points="{" ".join(part)}"/>' for part in parts if part)
    return (
        f"<figure><figcaption>{escape(name)}</figcaption>"
        f'<svg width="{WIDTH + 80}" height="{HEIGHT + 36}">'
        f'<rect x="60" y="10" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#888"/>'
        f'<g fill="none" stroke="#4a86d8" stroke-width="1.5">{drawn}</g>'
        f'<g text-anchor="end"><text x="54" y="18">{high:.4g}</text>'
        f'<text x="54" y="{HEIGHT + 10}">{low:.4g}</text>'
        f'<text x="{WIDTH + 60}" y="{HEIGHT + 26}">{count - 1}</text></g>'
        f'<text x="60" y="{HEIGHT + 26}">0</text></svg></figure>'
    )


def shades(name: str, rows: Sequence[Sequence[float | None]], shape: Sequence[int]) -> str:
    """A matrix of `shape`, perhaps shrunk, as squares: blue is its largest value, the page
    its smallest, None a gap."""
    low, high = _range([value for row in rows for value in row])
    squares = "".join(
        f'<rect x="{SQUARE * j}" y="{SQUARE * i}" width="{SQUARE}" height="{SQUARE}" '
        f'fill-opacity="{(value - low) / (high - low):.2f}"/>'
        for i, row in enumerate(rows)
        for j, value in enumerate(row)
        if value is not None
    )
    width, height = SQUARE * len(rows[0]), SQUARE * len(rows)
    return (
        f"<figure><figcaption>{escape(name)} [{', '.join(map(str, shape))}], "
        f"from {low:.4g} to {high:.4g}</figcaption>"
        f'<svg width="{width}" height="{height}" fill="#4a86d8">'
        f'<rect width="{width}" height="{height}" fill="none" stroke="#888"/>{squares}'
        "</svg></figure>"
    )


def _range(values: Sequence[float | None]) -> tuple[float, float]:
    """The smallest and the largest value, a little apart where they are one."""
    known = [value for value in values if value is not None] or [0.0]
    low, high = min(known), max(known)
    return (low, high) if low < high else (low, low + (abs(low) or 1.0))
