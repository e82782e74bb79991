"""The parts of a picture. It brings its own background, and follows the reader's choice of light
or dark."""

from html import escape

STYLE = """
text { font: 14px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600; font-size: 16px }
.quiet { fill: #59636e }
.code { font-family: ui-monospace, monospace }
.paper { fill: #ffffff; stroke: #d1d9e0 }
.line { fill: none; stroke: #59636e; stroke-width: 1.5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.quiet { fill: #9198a1 }
.paper { fill: #0d1117; stroke: #3d444d }
.line { stroke: #9198a1 }
}
"""
HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto-start-reverse"><path class="line" d="M1 1 7 4 1 7"/></marker>'
)


def picture(width: int, height: int, name: str, parts: list[str], style: str = "") -> str:
    """The whole file; `name` is read aloud in place of the picture."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">\n<title>{escape(name)}</title>\n'
        f"<style>{STYLE}{style}</style>\n<defs>{HEAD}</defs>\n"
        f'<rect class="paper" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>\n'
        f"{body}\n</svg>\n"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text whose baseline is at `y`."""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text class="{kind}" {place}>{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A rectangle with round corners."""
    size = f'width="{width:g}" height="{height:g}"'
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" {size} rx="4"/>'


def arrow(path: str, kind: str = "line") -> str:
    """A line along `path` with a head at its end."""
    return f'<path class="{kind}" d="{path}" marker-end="url(#head)"/>'
