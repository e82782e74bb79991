"""The native step of each norm that streams, in a net."""

import pytest

import speechkit as sk
from speechkit.testing.native import check_native_net

BLOCKS = (
    sk.Block(channels=24, kernel=5, stride=2),
    sk.Block(channels=20, kernel=7, repeat=2, residual=True),
)
NORMS = [
    *("rms", "rms:p=0.5,bias=true", "rms:eps_mode=inside", "layer", "layer:affine=false"),
    *("ms_layer", "ms_rms", "repbn", "prepbn", "group:groups=2", "group:groups=4"),
    *("running", "running:time_constant_frames=5,prior_frames=2", "layer_cum"),
]
PARTS = [*({"norm": f"norms/{norm}"} for norm in NORMS), {"mixer": "norms/ln_lstm"}]
PARTS += [{"stem": "norms/dual_patch:pre={norms/layer:eps=0.01}"}]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: next(iter(part.values())))
def test_a_native_step_computes_what_torch_does(part: dict[str, str]) -> None:
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=BLOCKS, **part))
