"""A stem between two norms."""

from speechkit.component import Spec
from speechkit.nn import BodyMaker, Serial, StreamLayer, as_layer
from speechkit.plugins import registry

Name = Spec | str


def dual_patch(
    c_in: int,
    c_out: int,
    make_body: BodyMaker,
    stem: Name = "plain",
    pre: Name = "norms/layer:eps=1e-6",
    post: Name = "norms/layer:eps=1e-6",
) -> Serial:
    """y = post(stem(pre(x))): any stem between any two norms, "none" for no norm at all.

    `pre` reads one frame of features. LayerNorm of log energies removes the recording's level: the
    model's output does not depend on the gain, except for the floor of the log. Shape: `[B, C, T]`
    → `[B, C', T / stride]`. Kumar et al., Dual PatchNorm, arXiv:2302.01327, for frames.
    """
    return Serial(
        pre=_norm(pre, c_in),
        embed=registry().build("stem", stem, c_in, c_out, make_body),
        post=_norm(post, c_out),
    )


def _norm(name: Name, channels: int) -> StreamLayer:
    spec = Spec.parse(name)
    # the core's "none" adds a bias, which belongs to the previous layer
    if spec.name == "none":
        return StreamLayer()
    return as_layer(registry().build("norm", spec, channels))
