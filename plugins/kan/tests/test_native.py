"""The native step of each KAN layer, in a net."""

import pytest

import speechkit as sk
from speechkit.testing.native import check_native_net

BLOCKS = (
    sk.Block(channels=20, kernel=5, stride=2),
    sk.Block(channels=24, kernel=4, dilation=2, residual=True),
)
PARTS = {
    "activation": ("cheby", "cheby:degree=3,squash=clip"),
    "channel": (
        *("bspline", "bspline:squash=none,scaler=false", "bspline:order=1,grid=2,squash=clip"),
        *("cheby", "cheby:degree=0,norm=none", "cheby:degree=7,squash=clip", "relu_kan", "af_kan"),
        *("af_kan:reduce=multistep,act=relu", "af_kan:reduce=spatial_attn,func=cubic1,act=gelu"),
        "af_kan:func=quad2,func_norm=none,norm=none,act=softplus",
    ),
    "mixer": ("cheb_conv", "cheb_conv:shared=true,degree=5"),
    "block": ("rkan", "rkan:basis=bspline", "rkan:basis=rbf,merge=mult_sigmoid,shared=false"),
    "head": ("kan_frame", "kan_frame:layout=KFF,kan={kan/cheby}", "kan_ctc"),
}
NETS = [{kind: f"kan/{name}"} for kind in PARTS for name in PARTS[kind]]


@pytest.mark.parametrize("part", NETS, ids=lambda part: next(iter(part.values())))
def test_a_native_step_computes_what_torch_does(part: dict[str, str]) -> None:
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=BLOCKS, **part))
