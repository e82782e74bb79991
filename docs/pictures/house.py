"""The order of imports: speechkit's modules in levels; none imports from a level above its own.

Modules and colours are those of the import contracts in pyproject.toml, which `make lint` checks.
"""

import tomllib
from pathlib import Path

from pictures.svg import arrow, box, picture, text

ROOT = Path(__file__).parents[2]
FLOORS = (
    ("Commands", "and the server", 2),
    ("Work", "train, infer, export", 3),
    ("Streams", "sessions, their engines", 1),
    ("Tools", "change, measure models", 2),
    ("Tasks", "scores, losses, metrics", 3),
    ("Models", "nets, front ends, files", 3),
    ("Layers", "and decoders, data", 2),
    ("Plans", "the engine in C++", 1),
    ("Rules, ops", "decisions, text, kernels", 2),
    ("Base", "registry, config, files", 8),
)
"""The name of a level, what is there, and how many lines of the contract are in it."""
STYLE = """
.floor { fill: none; stroke: #d1d9e0 }
.torch { fill: #ddf4ff; stroke: #0969da }
.free { fill: #dafbe1; stroke: #1a7f37 }
.mixed { fill: url(#both); stroke: #1a7f37 }
.aside { fill: #fff8c5; stroke: #bf8700 }
.stop1 { stop-color: #dafbe1 }
.stop2 { stop-color: #ddf4ff }
.loose { stroke-dasharray: 5 4 }
@media (prefers-color-scheme: dark) {
.floor { stroke: #3d444d }
.torch { fill: #0c2d6b; stroke: #4493f8 }
.free { fill: #0f3d1f; stroke: #3fb950 }
.mixed { stroke: #3fb950 }
.aside { fill: #3b2e00; stroke: #d29922 }
.stop1 { stop-color: #0f3d1f }
.stop2 { stop-color: #0c2d6b }
}
"""
BOTH = (
    '<linearGradient id="both"><stop class="stop1" offset=".5"/><stop class="stop2" offset=".5"/>'
    "</linearGradient>"
)
WIDTH, LEFT, WALL, ROOM = 960, 316, 770, 26


def draw() -> str:
    """The levels, with plugins and recipes beside them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    by_name = {contract["name"]: contract for contract in contracts["contracts"]}
    lines = iter(by_name["low does not know high"]["layers"])
    free = by_name["what runs without torch"]["source_modules"]
    parts = [
        BOTH,
        text(24, 34, "speechkit: no module imports from a level above its own", "title"),
    ]
    y = 52.0
    for name, about, count in FLOORS:
        modules = [one for _ in range(count) for one in next(lines).split(" | ")]
        rooms, height = floor(modules, y, free)
        parts += [box(24, y, WALL - 24, height, "floor"), text(36, y + 25, name), *rooms]
        parts.append(text(124, y + 25, about, "quiet"))
        y += height
    assert next(lines, None) is None
    plugins = by_name["plugins do not know each other"]["modules"]
    parts += beside(plugins, y)
    parts += legend(y + 34)
    return picture(WIDTH, round(y) + 56, "What imports what in speechkit", parts, STYLE)


def floor(modules: list[str], y: float, free: list[str]) -> tuple[list[str], float]:
    """The modules of a level in rows, and its height."""
    parts, x = [], float(LEFT)
    y += 7
    top = y
    for module in modules:
        name = module.removeprefix("speechkit.")
        width = 7.6 * len(name) + 16
        if x + width > WALL - 8:
            x, y = LEFT, y + ROOM + 5
        parts.append(box(x, y, width, ROOM, kind_of(module, free)))
        parts.append(text(x + width / 2, y + 18, name, "", "middle"))
        x += width + 6
    return parts, y - top + ROOM + 14


def kind_of(module: str, free: list[str]) -> str:
    """Whether a module needs torch, does not, or holds both sorts."""
    if module in free:
        return "free"
    return "mixed" if any(one.startswith(f"{module}.") for one in free) else "torch"


def beside(plugins: list[str], ground: float) -> list[str]:
    """The recipes and the plugins of this repository, and what they import."""
    left, width, middle, top = WALL + 34, 132, WALL + 100, 162
    foot = top + 34 + 24 * len(plugins)
    parts = [
        box(left, 59, width, ROOM, "aside"),
        text(middle, 77, "recipes/", "", "middle"),
        arrow(f"M{left - 2} 72H{WALL + 3}"),
        arrow(f"M{middle} {59 + ROOM + 2}V{top - 3}"),
        text(middle + 10, 118, "import", "quiet"),
        box(left, top, width, foot - top, "aside"),
        text(middle, top + 22, "plugins/", "", "middle"),
        arrow(f"M{left - 2} {top + 18}H{WALL + 3}"),
    ]
    for number, name in enumerate(plugins):
        y = top + 48 + 24 * number
        parts.append(text(middle, y, name.removeprefix("speechkit_"), "quiet", "middle"))
    for number, words in enumerate(
        ("They import public", "names of speechkit,", "not each other.")
    ):
        parts.append(text(left, foot + 26 + 20 * number, words, "quiet"))
    turn = ground - 90
    edge = left + width
    parts.append(arrow(f"M{WALL + 2} {turn}H{edge + 16}V{foot - 60}H{edge + 3}", "line loose"))
    for number, words in enumerate(("The core imports", "none: it finds them", "by entry points.")):
        parts.append(text(left, turn + 24 + 20 * number, words, "quiet"))
    return parts


def legend(y: float) -> list[str]:
    """What the colours mean."""
    parts = []
    for x, kind, words in (
        (24, "free", "imports no torch, which is checked"),
        (316, "torch", "may import torch"),
        (484, "mixed", "modules of both sorts"),
    ):
        parts += [box(x, y - 13, 22, 16, kind), text(x + 30, y, words, "quiet")]
    return parts
