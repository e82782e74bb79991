"""What the plugin acme offers; listing it imports no torch."""

from speechkit import Component, hookimpl

EXPORTS = frozenset({"torch", "torch.export", "onnx"})


@hookimpl
def speechkit_activations() -> list[Component]:
    return [
        Component(
            name="squareplus",
            factory="speechkit_acme.layers:Squareplus",
            summary="A smooth ReLU without an exponential",
            paper="arXiv:2112.11687",
            exports=EXPORTS,
            example={"b": 2.0},
        )
    ]


@hookimpl
def speechkit_norms() -> list[Component]:
    return [
        Component(
            name="mean_abs",
            factory="speechkit_acme.layers:MeanAbs",
            summary="Each frame by its mean magnitude over channels",
            formula="x / (mean_c abs(x) + eps) * weight",
            exports=EXPORTS,
            # checks that it is known to fail, and the reasons: {"check_half_precision": "..."}
            exempt={},
        )
    ]
