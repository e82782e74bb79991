"""The streaming contract, drawn for one convolution: its own left, right, delay and keep."""

from itertools import accumulate, pairwise

from pictures.svg import arrow, box, picture, text
from speechkit.nn import DepthwiseConv

LAYER = DepthwiseConv(1, kernel=5, lookahead=1)
CHUNKS = (5, 3, 4)
FRAMES = sum(CHUNKS)
SHOWN = 6
"""The output frame whose window is drawn."""
STYLE = """
.cell0, .cell1, .cell2, .cell3 { stroke-width: 1.5 }
.cell0 { fill: #ddf4ff; stroke: #0969da }
.cell1 { fill: #dafbe1; stroke: #1a7f37 }
.cell2 { fill: #fbefff; stroke: #8250df }
.cell3, .plain { fill: #f6f8fa; stroke: #818b98 }
.state { fill: none; stroke-dasharray: 4 3 }
.around { fill: none; stroke: #bf8700; stroke-width: 3 }
.beam { fill: #bf8700; fill-opacity: .25 }
@media (prefers-color-scheme: dark) {
.cell0 { fill: #0c2d6b; stroke: #4493f8 }
.cell1 { fill: #0f3d1f; stroke: #3fb950 }
.cell2 { fill: #3c1e70; stroke: #ab7df8 }
.cell3, .plain { fill: #21262d; stroke: #818b98 }
.state { fill: none }
.around { stroke: #d29922 }
}
"""
PITCH, CELL, LEFT, WIDTH = 42, 36, 206, 960


def draw() -> str:
    """The recording read at once, then in chunks; both give the same frames."""
    parts = [*offline(), *streamed()]
    return picture(
        WIDTH, 716, "The streaming contract: step gives what forward gives", parts, STYLE
    )


def offline() -> list[str]:
    """`forward`, and the window of one output frame."""
    first, last = SHOWN - LAYER.left, SHOWN + LAYER.right
    parts = [text(24, 34, "At once: forward(x)", "title")]
    parts.append(text(24, 94, "x, the frames"))
    parts.append(text(24, 164, "y = forward(x)"))
    edge = CELL / 2
    beam = f"M{at(first) - edge} 110H{at(last) + edge}L{at(SHOWN) + edge} 138H{at(SHOWN) - edge}Z"
    parts.append(f'<path class="beam" d="{beam}"/>')
    parts.append(text((at(first) + at(SHOWN - 1)) / 2, 58, f"left {LAYER.left}", "quiet", "middle"))
    parts.append(text(at(SHOWN + 1) - edge, 58, f"look-ahead {LAYER.right}", "quiet"))
    for frame in range(FRAMES):
        parts += [cell(frame, 88, str(frame), "plain"), cell(frame, 160, str(frame), "plain")]
    return [*parts, around(first, last, 88), around(SHOWN, SHOWN, 160)]


def streamed() -> list[str]:
    """`step`: a row of its state and its chunk for each, then all outputs."""
    parts = [text(24, 226, "In chunks of any sizes: y, state = step(chunk, state)", "title")]
    starts = [0, *accumulate(CHUNKS), FRAMES + LAYER.delay]
    y = 266
    for number, (start, end) in enumerate(pairwise(starts)):
        name = f"step {number + 1}" if start < FRAMES else "flush, by invalid frames"
        parts.append(text(24, y + 5, name))
        for frame in range(start - LAYER.keep, start):
            parts.append(cell(frame, y, shown(frame), f"{kind_of(frame, starts)} state"))
        for frame in range(start, end):
            parts.append(cell(frame, y, shown(frame), kind_of(frame, starts)))
        if start <= SHOWN + LAYER.right < end:
            parts.append(around(SHOWN - LAYER.left, SHOWN + LAYER.right, y))
        if number:
            for frame in range(start - LAYER.keep, start):
                parts.append(arrow(f"M{at(frame)} {y - 44}V{y - 22}"))
        y += 64
    parts.append(text(24, y + 11, "all outputs, each"))
    parts.append(text(24, y + 29, "below its chunk"))
    for place in range(FRAMES + LAYER.delay):
        parts.append(cell(place, y + 14, shown(place - LAYER.delay), kind_of(place, starts)))
    parts.append(around(SHOWN + LAYER.delay, SHOWN + LAYER.delay, y + 14))
    for place in range(LAYER.delay, FRAMES + LAYER.delay):
        parts.append(arrow(f"M{at(place)} {y + 36}L{at(place - LAYER.delay) + 4} {y + 66}"))
    y += 88
    parts.append(text(24, y - 4, f"without the first {LAYER.delay}:"))
    parts.append(text(24, y + 14, "the same as forward(x)"))
    for frame in range(FRAMES):
        parts.append(cell(frame, y, str(frame), kind_of(frame + LAYER.delay, starts)))
    parts.append(around(SHOWN, SHOWN, y))
    legend = "Solid: the chunk. Dashed: the state. –: an invalid frame. Framed: output "
    parts.append(text(24, y + 56, f"{legend}{SHOWN}, and what it reads."))
    left, right, stride, delay = LAYER.left, LAYER.right, LAYER.stride, LAYER.delay
    sums = (
        f"delay = right // stride = {right} // {stride} = {delay}",
        f"keep = stride · delay + left = {stride} · {delay} + {left} = {LAYER.keep}",
    )
    for number, words in enumerate(sums):
        parts.append(text(24 + 390 * number, y + 84, words, "quiet code"))
    return parts


def at(frame: int) -> float:
    """The middle of a frame's column; the first one is that of the state before the first frame."""
    return LEFT + PITCH * (frame + LAYER.keep) + CELL / 2


def cell(frame: int, y: float, words: str, kind: str) -> str:
    """A frame in its column, its middle at `y`."""
    corner = at(frame) - CELL / 2
    square = box(corner, y - CELL / 2, CELL, CELL, kind)
    return square + text(at(frame), y + 5, words, "", "middle")


def around(first: int, last: int, y: float) -> str:
    """A line around frames of a row."""
    width = at(last) - at(first) + CELL + 6
    return box(at(first) - CELL / 2 - 3, y - CELL / 2 - 3, width, CELL + 6, "around")


def shown(frame: int) -> str:
    """The number of a frame of the recording."""
    return str(frame) if 0 <= frame < FRAMES else "–"


def kind_of(frame: int, starts: list[int]) -> str:
    """The colour of the step that reads a frame, or of no step."""
    steps = [n for n, (start, end) in enumerate(pairwise(starts)) if start <= frame < end]
    return f"cell{steps[0]}" if steps else "cell3"
