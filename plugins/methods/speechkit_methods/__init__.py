"""Training methods for speechkit, by name once the package is installed: `method=("sam",)`.

Nothing here imports torch.
"""

from speechkit import Component, hookimpl


@hookimpl
def speechkit_methods() -> list[Component]:
    return [
        Component(
            name="sam",
            factory="speechkit_methods.sam:SAM",
            summary="Sharpness-aware minimisation: the gradient where the loss nearby is worst",
            formula="g = grad L(w + rho * grad L(w) / ||grad L(w)||)",
            paper="arXiv:2010.01412",
            example={"rho": 0.05},
        ),
        Component(
            name="grad_noise",
            factory="speechkit_methods.noise:GradientNoise",
            summary="Normal noise on the gradients, less with each step",
            formula="g += N(0, eta / (1 + step)^gamma)",
            paper="arXiv:1511.06807",
            example={"eta": 0.3, "gamma": 0.55},
        ),
    ]
