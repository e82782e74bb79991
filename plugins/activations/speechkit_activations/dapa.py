"""A trained net of ReLU with polynomials in the place of most of its ReLUs."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from speechkit.component import Spec
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.transforms import check_components, required
from speechkit_activations.adaptive import ReluOrPoly, relu_fit
from speechkit_activations.relufy import with_activation
from speechkit_activations.relus import count, frames
from speechkit_activations.sparsity import calls

TAKES = {"stack": ("core/serial",), "activation": ("core/relu",)}
FILLS = "fit", "identity", "zero"


@dataclass(frozen=True)
class DaPa:
    """Keeps ReLU in at most the share `budget` of a net's ReLUs; the others become polynomials.

    Each polynomial is the least-squares fit of its degree to ReLU under N(μ, σ²), with the mean and
    standard deviation of the channel's input over the examples (`relu_fit`). The channels with the
    largest error of the fit keep ReLU. The activation becomes `relu_or_poly` with fixed switches,
    whose polynomials further training changes. With `budget=1` all switches are on and free, for
    the method `relu_budget`. `fill=identity` and `fill=zero` have y = x and y = 0 in the place of
    the fit, as controls. ConfigError for a net of other activations than ReLU. Source: Peng et al.,
    AutoReP, arXiv:2308.10134. The choice of channels by their error is one of this package: the
    paper learns it.
    """

    budget: float = 1.0
    degree: int = 2
    fill: str = "fit"

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 1:
            raise ComponentError(f"dapa: budget={self.budget}; give a share from 0 to 1")
        if self.degree not in (1, 2):
            raise ComponentError(f"dapa: degree={self.degree}; give 1 or 2")
        if self.fill not in FILLS:
            raise ComponentError(f"dapa: fill={self.fill}; give one of {', '.join(FILLS)}")

    def __call__(self, model: Model, examples: Examples | None) -> tuple[Model, dict[str, Any]]:
        check_components("dapa", model.config, TAKES)
        examples = required(examples, "dapa")
        spec = Spec("relu_or_poly", {"degree": self.degree, "fit_calls": 0})
        made = with_activation(model, spec, stage=1)
        found = moments(model, examples)
        fits = {name: relu_fit(*moment, self.degree) for name, moment in found.items()}
        errors = {name: fit_error(*found[name], fit) for name, fit in fits.items()}
        kept = self._kept(model, errors)
        before = count(model, examples)
        with torch.no_grad():
            for name, (mean, std) in found.items():
                layer = made.get_submodule(name)
                assert isinstance(layer, ReluOrPoly)
                layer.running_mean.copy_(mean)
                layer.running_variance.copy_(std.square())
                layer.coefficients.copy_(self._filled(fits[name]))
                layer.on.copy_(kept[name])
                layer.frozen.fill_(self.budget < 1)
        after = count(made, examples)
        return made, {
            "relus_per_frame": [sum(before.values()), sum(after.values())],
            "relus_per_s": [round(sum(n.values()) / model.frame_s) for n in (before, after)],
            "relus": after,
        }

    def _kept(self, model: Model, errors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The channels of each activation that keep ReLU, `[C]`, by falling error."""
        each = torch.cat(list(errors.values()))
        cost = torch.cat([torch.full_like(e, frames(model, name)) for name, e in errors.items()])
        order = each.argsort(descending=True, stable=True)
        fits = cost[order].cumsum(0) <= self.budget * cost.sum()
        kept = torch.zeros(len(each), dtype=torch.bool, device=each.device)
        kept[order] = fits
        sizes = [len(e) for e in errors.values()]
        return dict(zip(errors, kept.split(sizes), strict=True))

    def _filled(self, fit: Tensor) -> Tensor:
        """The coefficients `[degree + 1, C]`."""
        if self.fill == "fit":
            return fit
        filled = torch.zeros_like(fit)
        filled[1] = self.fill == "identity"
        return filled


@torch.no_grad()
def moments(model: Model, examples: Examples) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation `[C]` of the input of each activation over all valid frames."""
    sums: dict[str, Tensor] = {}
    for _, features in examples:
        for name, given, _ in calls(model, partial(model.score, features)):
            if name.endswith("activation"):
                x = given.x.transpose(1, 2)[given.valid].double()
                terms = torch.stack([torch.ones_like(x), x, x.square()]).sum(1)
                sums[name] = sums.get(name, 0) + terms
    means = {name: terms[1:] / terms[0] for name, terms in sums.items()}
    return {name: (m, (s - m.square()).clamp(min=0).sqrt()) for name, (m, s) in means.items()}


def fit_error(mean: Tensor, std: Tensor, fit: Tensor) -> Tensor:
    """E (max(x, 0) − P(x))² under N(mean, std²) in each channel, `[C]`, by a sum over ±8 std."""
    z = torch.linspace(-8, 8, 4001, dtype=mean.dtype, device=mean.device)
    weight = torch.softmax(-z.square() / 2, 0)
    x = mean + std * z[:, None]
    powers = torch.stack([x**n for n in range(len(fit))])
    polynomial = (fit[:, None] * powers).sum(0)
    return torch.mv((torch.relu(x) - polynomial).square().T, weight)
