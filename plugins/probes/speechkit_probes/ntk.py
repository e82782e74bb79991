"""The neural tangent kernel: how alike a step on one utterance changes the others."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit_probes.attribution import best, target


def ntk(utterances: int = 32) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the kernel Θ of the model's score over utterances, and its eigenvalues.

    Θ_ij = Σ_p ∂f(x_i)/∂θ_p · ∂f(x_j)/∂θ_p over all weights θ of stem, encoder and head, where f is
    the score of the predicted label: the logit of a clip, or the mean over frames. Over the first
    `utterances` of a random order:

        kernel      Θ `[N, N]`
        spectrum    its eigenvalues, the largest first
        condition   largest / smallest eigenvalue; infinite where the smallest is 0
        alignment   with labels: ⟨Θ, Y⟩ / (‖Θ‖ ‖Y‖), Y_ij = 1 for equal labels, both centred
        encoder.0   and so on: the share of the trace that the weights of a part of the net give

    Engel et al., TorchNTK, arXiv:2205.12372. ComponentError for fewer than two utterances.
    """
    if utterances < 2:
        raise ComponentError(f"probe ntk: utterances={utterances}; give at least 2")

    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        chance = torch.Generator().manual_seed(examples.seed)
        chosen = torch.randperm(len(examples.utterances), generator=chance)[:utterances].tolist()
        if len(chosen) < 2:
            raise ComponentError("probe ntk: 1 utterance; give at least 2")
        rows = gradients(model, examples, chosen)
        parts: dict[str, Tensor] = {}
        for name, row in rows.items():
            block = name.split(".")[: 2 if name.startswith("encoder.") else 1]
            own = row @ row.T
            parts[".".join(block)] = parts.get(".".join(block), torch.zeros_like(own)) + own
        kernel = torch.stack(list(parts.values())).sum(0)
        spectrum = torch.linalg.eigvalsh(kernel).flip(0).clamp(min=0)
        found = {
            "kernel": kernel,
            "spectrum": spectrum,
            "condition": spectrum[0] / spectrum[-1],
            **{name: part.trace() / kernel.trace() for name, part in parts.items()},
        }
        labels = [examples.utterances[index].label for index in chosen]
        if None not in labels and len(set(labels)) > 1:
            equal = torch.tensor([[float(a == b) for b in labels] for a in labels]).double()
            found["alignment"] = alignment(kernel, equal)
        return found

    return look


def gradients(model: Model, examples: Examples, chosen: list[int]) -> dict[str, Tensor]:
    """The gradient of each chosen utterance's score, `[N, weights]` for each weight by name."""
    weights = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith("frontend.")
    }
    alone = Examples(model, [examples.utterances[i] for i in chosen], batch_size=1)
    found: dict[int, tuple[Tensor, ...]] = {}
    for batch, features in alone:
        with torch.enable_grad():
            output = model.score(features)
            score = target(output, best(model, output)).sum()
            found[batch.indices[0]] = torch.autograd.grad(
                score, list(weights.values()), allow_unused=True, materialize_grads=True
            )
    columns = zip(*(found[i] for i in range(len(chosen))), strict=True)
    return {
        name: torch.stack([part.flatten() for part in column]).double().cpu()
        for name, column in zip(weights, columns, strict=True)
    }


def alignment(one: Tensor, other: Tensor) -> Tensor:
    """⟨A, B⟩ / (‖A‖ ‖B‖) of two kernels `[N, N]`, both centred."""
    a, b = (x - x.mean(0) - x.mean(1, keepdim=True) + x.mean() for x in (one, other))
    aligned: Tensor = (a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12)
    return aligned
