"""The native steps of layers that state no expression, in a net."""

import pytest

import speechkit as sk
from speechkit.testing.native import check_native_net

BLOCKS = (
    sk.Block(channels=20, kernel=5, stride=2),
    sk.Block(channels=24, kernel=4, dilation=2, residual=True),
)
NETS = [
    {"activation": "activations/analog:noisy=training"},
    {"channel": "activations/analog_linear:noisy=training"},
    {"mixer": "activations/analog_depthwise:noisy=training,bits=3"},
    {"channel": "activations/relu_linear"},
    {"channel": "activations/glu_ffn"},
    {"activation": "activations/linear_dc_running"},
    {"activation": "activations/abrelu_running:beta=0.5"},
]


@pytest.mark.parametrize("part", NETS, ids=lambda part: next(iter(part.values())))
def test_a_native_step_computes_what_torch_does(part: dict[str, str]) -> None:
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=BLOCKS, **part))
