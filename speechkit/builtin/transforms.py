"""The core's transforms."""

from speechkit.component import Component
from speechkit.hookspecs import hookimpl

NEEDS_MODELS = {"check_transform_makes_a_model": "its example names the folder of a model"}


@hookimpl
def speechkit_transforms() -> list[Component]:
    return [
        Component(
            name="average",
            factory="speechkit.transforms.average:Average",
            summary="The average of a model's weights and those of others of its shape",
            formula="w = (w_0 + ... + w_n) / (n + 1)",
            paper="arXiv:2203.05482",
            example={"models": ["runs/again/last"]},
            exempt=NEEDS_MODELS,
        ),
        Component(
            name="bias",
            factory="speechkit.transforms.bias:Bias",
            summary="A label, or the blank of CTC, more or less likely by a number of nats",
            formula="b[label] = b[label] + by",
            example={"by": -0.75},
        ),
        Component(
            name="fit",
            factory="speechkit.transforms.fit:Fit",
            summary="Less look-ahead, with each layer fitted to what it was before",
            formula="min_W sum_t |W x_t + b - y_t|^2 + ridge |W - W_teacher|^2",
            parts={"frontend": "frontend"},
            example={"lookahead": 1},
        ),
        Component(
            name="grow",
            factory="speechkit.transforms.grow:Grow",
            summary="One more residual block, which changes no score before it is trained",
            formula="y = relu(norm(x) + 0 * body(x)) = x",
            paper="arXiv:1511.05641",
            example={"after": 0},
        ),
    ]
