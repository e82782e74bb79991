"""The native step of each norm that streams, in a net."""

import pytest
import torch

import speechkit as sk
from speechkit.nn import Serial
from speechkit.testing import check_native
from speechkit.testing.native import disturb_

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
    model = sk.build(sk.QuartzNet(labels=("a", "b"), blocks=BLOCKS, **part), seed=0).eval()
    disturb_(model)
    net = Serial(model.stem, model.encoder, model.head)
    x = 2 * torch.randn(3, 64, 47, generator=torch.Generator().manual_seed(1)) + 1
    check_native(net, x, torch.tensor([47, 30, 1]))
