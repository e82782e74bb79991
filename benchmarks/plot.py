"""Results as an SVG picture of horizontal bars: the speed relative to the baseline."""

from typing import Any
from xml.sax.saxutils import escape

from benchmarks.report import short

WIDTH, LABEL, BAR = 900, 300, 400
ROW, GAP = 20, 34
STYLE = """
text { font: 12px sans-serif; fill: #222 }
.title { font-weight: bold }
.note { fill: #777 }
.bar { fill: #4878a8 }
.baseline { fill: #b0b0b0 }
"""


def svg(result: dict[str, Any]) -> str:
    """The picture of a whole run."""
    note = f"{result['processor']}, 1 thread, commit {result['commit']}, {result['date']}"
    parts, y = [_text(10, ROW, note, "note")], ROW
    for name, benchmark in result["benchmarks"].items():
        y += GAP
        parts.append(_text(10, y, f"{name}: {benchmark['work']}", "title"))
        contestants = benchmark["contestants"]
        longest = max(figure.get("ratio", 0) for figure in contestants.values()) or 1
        for contestant, figure in contestants.items():
            y += ROW
            kind = "baseline" if contestant == benchmark["baseline"] else "bar"
            length = BAR * figure.get("ratio", 0) / longest
            parts += [
                _text(10, y, contestant),
                f'<rect class="{kind}" x="{LABEL}" y="{y - 12}" width="{length:.1f}" height="15"/>',
                _text(LABEL + length + 6, y, *_beside(figure, benchmark["unit"])),
            ]
    size = f'width="{WIDTH}" height="{y + ROW}" viewBox="0 0 {WIDTH} {y + ROW}"'
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{STYLE}</style>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _beside(figure: dict[str, Any], unit: str) -> tuple[str, str]:
    """The text at the end of a bar, and its style."""
    if "refused" in figure:
        return figure["refused"], "note"
    ratio = f"× {short(figure['ratio'])}, " if "ratio" in figure else ""
    return f"{ratio}{short(figure['median'])} {unit}", ""


def _text(x: float, y: int, text: str, kind: str = "") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y}">{escape(text)}</text>'
