"""The native step of each design that streams, in a net."""

import pytest
from speechkit_residuals.aila import LinearStack
from torch import Tensor

import speechkit as sk
from speechkit.nn import Chunk, Pointwise, StreamLayer
from speechkit.streaming.engines.native.layer import NativeLayer
from speechkit.testing.native import check_native_net

BLOCKS = (
    sk.Block(channels=24, kernel=5, stride=2),
    sk.Block(channels=24, kernel=5, repeat=2, residual=True),
    sk.Block(channels=24, kernel=3, residual=True, copies=2),
    sk.Block(channels=20, kernel=3, residual=True),
)
STRIDED = (*BLOCKS[:2], sk.Block(channels=24, kernel=3, stride=2), *BLOCKS[2:])
PARTS = {
    "residual": ("laurel:rank=2", "laurel:variant=rw,bound=none,vector=true", "laurel:variant=lr"),
    "block": (
        *("identity:shortcut=A", "preact", "wide:factor=2", "parallel:expand=2,norm=separate"),
        *("preact:shortcut=scale", "preact:shortcut=dropout", "preact:shortcut=shortcut_gate"),
        *("preact:shortcut=exclusive_gate", "ode", "ode:solver=heun,steps=2,h=0.5"),
        *("res2:scale=2", "res2:identity=first", "reversible", "irevnet"),
        *("mbconv:expand=2,reduction=4", "dense_rnn:hidden=3", "dense_rnn:cell=gru,hidden=5"),
        "mod:expand=2,threshold=0.4",
    ),
    "stack": (
        *("laurel:k=2,rank=2", "laurel:k=3,rank=2,shared=false", "laurel:rank=0", "hires"),
        *(
            "hires:side=input",
            "revcol",
            "revcol:norm=false",
            "aila_linear",
            "aila_attn:dim=6,heads=2",
        ),
        *("layer_mix", "dense_easter:reduction=2"),
        "layer_mix:init=uniform,softmax=true",
    ),
    "stem": ("space_to_depth",),
}
SHALLOW = "order=1", "first=true", "order=2", "order=2,first=true"
NETS = [
    ({"stack": "residuals/shared_router", "block": "residuals/mod"}, BLOCKS),
    ({"stack": "residuals/reversible", "block": "residuals/irevnet"}, BLOCKS),
    *(
        ({"stack": f"residuals/parallel_shallow:{given}", "block": "residuals/preact"}, BLOCKS)
        for given in SHALLOW
    ),
    *(({kind: f"residuals/{name}"}, BLOCKS) for kind in PARTS for name in PARTS[kind]),
    *(({"stack": f"residuals/{name}"}, STRIDED) for name in ("hires", "layer_mix")),
]


@pytest.mark.parametrize(
    ("part", "blocks"),
    NETS,
    ids=[f"{len(blocks)}-{next(iter(part.values()))}" for part, blocks in NETS],
)
def test_a_native_step_computes_what_torch_does(
    part: dict[str, str], blocks: tuple[sk.Block, ...]
) -> None:
    check_native_net(sk.QuartzNet(labels=("a", "b"), blocks=blocks, **part))


def test_another_way_of_linking_runs_in_torch() -> None:
    class Doubled(LinearStack):
        def into(self, index: int, history: list[Chunk]) -> Tensor:
            return 2 * super().into(index, history)

    blocks: list[StreamLayer] = [Pointwise(4, 4) for _ in range(3)]
    assert NativeLayer(LinearStack(blocks), 1, c_in=4).in_torch == []
    assert NativeLayer(Doubled(blocks), 1, c_in=4).in_torch == ["Doubled"]
