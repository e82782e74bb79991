"""How alike neighbouring patches of the features are."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit_probes.numbers import whole_numbers


def patch_similarity(
    kernels: str | int = "5 11 13 15 17 25",
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: the mean cosine of two patches of k frames of the features, one frame apart.

    A patch is what a filter of `k` taps reads, for each k of `kernels`; only valid frames count.
    Patches that are alike make a filter easier to learn, Du et al., arXiv:1709.06129. `size` has
    the k, `cosine` the means. A k is left out if
    no utterance has more than k frames.
    """
    sizes = whole_numbers(kernels)
    if not sizes or min(sizes) < 1:
        raise ComponentError(
            f"probe patch_similarity: kernels={kernels!r}; give numbers of frames, such as '5 11'"
        )

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        total = torch.zeros(len(sizes), 2, dtype=torch.float64)
        for _, features in examples:
            for x, length in zip(features.x.double(), features.lengths.tolist(), strict=True):
                for row, size in enumerate(sizes):
                    if length > size:
                        patches = x[:, :length].unfold(1, size, 1).permute(1, 0, 2).flatten(1)
                        cosines = F.cosine_similarity(patches[1:], patches[:-1], 1)
                        total[row] += torch.tensor([cosines.sum().item(), len(cosines)])
        known = total[:, 1] > 0
        return {
            "size": torch.tensor(sizes)[known],
            "cosine": total[known, 0] / total[known, 1],
        }

    return look
