"""The native step of each norm that streams, in a net."""

import numpy as np
import pytest
import torch

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


def test_frames_without_spread_are_normalised_as_in_torch() -> None:
    config = sk.MarbleNet(
        frame_level=True,
        lookahead=0,
        blocks=(sk.Block(channels=8, kernel=3),) * 2,
        stem="norms/dual_patch",
        frontend="log_mel:n_mels=13,normalize=none",
    )
    model = sk.build(config, seed=0).eval()
    stream = sk.stream(model)
    assert stream.backend == "native"
    stream.feed(np.zeros(6400, np.float32))
    with torch.inference_mode():
        want = model(torch.zeros(1, 6400)).scores[0, -1]
    assert stream.scores is not None
    assert np.abs(stream.scores - want.numpy()).max() <= 1e-5 * want.abs().max()
