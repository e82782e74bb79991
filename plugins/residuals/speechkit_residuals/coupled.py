"""Blocks of couplings, the stack that combines them, and the inverted bottleneck within them."""

from collections.abc import Iterator

from speechkit.errors import ComponentError
from speechkit.nn import BodyMaker, Residual, Serial, StreamLayer
from speechkit_residuals.parts import (
    before,
    chosen,
    pre_activated,
    squeeze_excite,
)
from speechkit_residuals.reversible import Coupling, ReversibleSequence


def reversible(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    body: str = "plain",
    expand: int = 6,
) -> StreamLayer:
    """y_1 = x_1 + F(x_2), y_2 = x_2 + G(y_1) on halves of the channels.

    F and G are pre-activated sub-blocks ("plain") or inverted bottlenecks ("mbconv"). If the number
    of channels changes, a projection comes first. At the end of the net a norm and an activation
    come last. Gomez et al., arXiv:1707.04585; Pendse et al., arXiv:2104.09648.
    """
    chosen("block reversible", "body", body, ("plain", "mbconv"))
    half = _half("reversible", make_body, c_out)
    if make_body.stride > 1:
        raise ComponentError(f"block reversible: stride {make_body.stride}; give 1, or irevnet")

    def make() -> Coupling:
        if body == "mbconv":
            return Coupling(inverted_bottleneck(make_body, half, half, expand))
        return Coupling(Serial(*pre_activated(make_body, [half] * (make_body.repeat + 1))))

    return _coupled(c_in, c_out, make_body, ReversibleSequence(make(), make()), index == depth - 1)


def irevnet(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    mult: int = 4,
) -> StreamLayer:
    """(x_1, x_2) → (ψ x_2, ψ x_1 + F(x_2)), F a pre-activated bottleneck of half / mult channels.

    F has three convolutions, whatever `repeat` is, and the first block's F begins with one. In a
    row with a stride ψ concatenates its frames along the channels, so `channels` must be a multiple
    of 2 · stride; otherwise ψ is the identity. Jacobsen et al., arXiv:1802.07088.
    """
    half, stride = _half("irevnet", make_body, c_out), make_body.stride
    if half % stride:
        raise ComponentError(
            f"block irevnet: {c_out} channels with stride {stride}; give a multiple of {2 * stride}"
        )
    inner = max(1, half // mult)
    layers = pre_activated(make_body, [half // stride, inner, inner, half])
    body = Serial(*layers[0 if index else 1 :])
    sequence = ReversibleSequence(Coupling(body))
    return _coupled(c_in, c_out, make_body, sequence, index == depth - 1)


def mbconv(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    index: int = 0,
    depth: int = 1,
    expand: int = 6,
    reduction: int = 0,
) -> StreamLayer:
    """y = shortcut(x) + inverted bottleneck(x), without an activation after the sum.

    `reduction` divides the channels within squeeze and excitation; 0 leaves it out. Sandler et
    al., arXiv:1801.04381; Pendse et al., arXiv:2104.09648.
    """
    make_body.narrow_only("mbconv")
    if reduction < 0:
        raise ComponentError(f"block mbconv: reduction={reduction}; give at least 1, or 0")
    body = inverted_bottleneck(make_body, c_in, c_out, expand, reduction)
    merge = make_body.merge(c_out, index, depth)
    return Residual(body, make_body.matched(c_in, c_out), merge)


def inverted_bottleneck(
    make_body: BodyMaker, c_in: int, c_out: int, expand: int, reduction: int = 0
) -> Serial:
    """1×1 to expand · c_in channels, a mixer over time, 1×1 to c_out. Each has a norm; all but the
    last have an activation. `reduction` adds squeeze and excitation before the last."""
    inner = expand * c_in
    shape = make_body.kernel, make_body.stride, make_body.dilation, make_body.lookahead
    excite = {"excite": squeeze_excite(inner, reduction)} if reduction else {}
    return Serial(
        widen=make_body.shortcut(c_in, inner),
        after_widen=make_body.after(inner),
        mixer=make_body.mixer(inner, *shape),
        norm=make_body.norm(inner),
        after_mixer=make_body.after(inner),
        **excite,
        narrow=make_body.shortcut(inner, c_out),
    )


def reversible_stack(blocks: list[StreamLayer]) -> StreamLayer:
    """Adjacent reversible blocks as one ReversibleSequence; other blocks unchanged.

    Raises ComponentError where no two are adjacent, since a block alone stores no more without it.
    """
    row: list[StreamLayer] = []
    joins = False
    for part in _parts(blocks):
        last = row[-1] if row else None
        if isinstance(part, ReversibleSequence) and isinstance(last, ReversibleSequence):
            row[-1] = ReversibleSequence(*last, *part)
            joins = True
        else:
            row.append(part)
    if not joins:
        raise ComponentError(
            "stack reversible: no two reversible blocks are adjacent; give more residual rows of "
            "one width with block=reversible or irevnet"
        )
    return Serial(*row)


def _parts(blocks: list[StreamLayer]) -> Iterator[StreamLayer]:
    for block in blocks:
        if type(block) is Serial and any(type(part) is ReversibleSequence for part in block):
            yield from block
        else:
            yield block


def _half(name: str, make_body: BodyMaker, channels: int) -> int:
    make_body.narrow_only(name)
    if channels % 2:
        raise ComponentError(f"block {name}: {channels} channels; give an even number of them")
    return channels // 2


def _coupled(
    c_in: int, c_out: int, make_body: BodyMaker, sequence: ReversibleSequence, ends: bool
) -> StreamLayer:
    width = c_out // make_body.stride
    project = {} if c_in == width else {"project": make_body.shortcut(c_in, width)}
    last = {"last": before(make_body, c_out)} if ends else {}
    return Serial(**project, couplings=sequence, **last)
