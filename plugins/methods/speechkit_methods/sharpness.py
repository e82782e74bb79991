"""The sharpness of a model's loss: the trace of its Hessian."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Generator, Tensor
from torch.autograd import grad

from speechkit import ops
from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.tasks import task_of


def curvatures(loss: Tensor, weights: Sequence[Tensor], vectors: Iterable[Tensor]) -> Tensor:
    """zᵀ H z for each vector z `[W]`, H the Hessian of a loss in weights of W numbers in all.

    Shape: `[n]` float64 for n vectors. A weight that the loss does not depend on has curvature 0.
    """
    slopes = grad(loss, weights, create_graph=True, materialize_grads=True)
    sizes = [weight.numel() for weight in weights]
    found = []
    for vector in vectors:
        parts = [z.view_as(w) for z, w in zip(vector.split(sizes), weights, strict=True)]
        slope = torch.stack([(s * z).sum() for s, z in zip(slopes, parts, strict=True)]).sum()
        bent = grad(slope, weights, retain_graph=True, materialize_grads=True)
        found.append(sum((b * z).double().sum() for b, z in zip(bent, parts, strict=True)))
    return torch.stack(found).detach()


def signs(count: int, size: int, generator: Generator) -> Iterable[Tensor]:
    """Vectors `[size]` of numbers 1 and −1 with equal probability."""
    for _ in range(count):
        drawn = torch.randint(2, (size,), generator=generator, device=generator.device)
        yield 2.0 * drawn - 1


def sharpness(vectors: int = 32) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the trace of the Hessian of the mean loss of the utterances.

    `trace` is the mean of zᵀ H z over `vectors` vectors z of random signs, `trace_error` the
    standard error of this mean, `loss` the mean loss. The loss is that of the model's task in
    evaluation, and H is that in all weights behind the front end that are trained. The second
    derivative of ReLU is 0 everywhere. Compare traces of one architecture only: a trace depends on
    the scale of weights, also where the scores do not, as before a norm. Wen et al.,
    arXiv:2307.11007; the estimate: Hutchinson, 1990.

    Raises ComponentError for CTC, which has no second derivative in torch.
    """
    if vectors < 2:
        raise ComponentError(f"probe sharpness: vectors={vectors}; give at least 2")

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        if task_of(model).decodes:
            raise ComponentError(
                "probe sharpness: torch has no second derivative of the loss ctc; give a model "
                "that classifies clips or frames"
            )
        weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
        size = sum(weight.numel() for weight in weights)
        count, total = len(examples.utterances), 0.0
        sums = torch.zeros(vectors, dtype=torch.float64, device=weights[0].device)
        for batch, features in examples:
            # the same vectors for every batch
            generator = Generator(sums.device).manual_seed(examples.seed)
            # only its ops have second derivatives
            with ops.use_impl("reference"):
                loss = examples.loss(model.score(features), batch).sum() / count
                sums += curvatures(loss, weights, signs(vectors, size, generator))
            total += loss.item()
        error = sums.std() / vectors**0.5
        return {"trace": sums.mean(), "trace_error": error, "loss": torch.tensor(total)}

    return look
