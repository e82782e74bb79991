"""Where the units of a net switch as noise is added."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechkit.errors import ComponentError
from speechkit.models import Model
from speechkit.probes import Examples
from speechkit.probes.codes import activations, codes
from speechkit_probes.attribution import best, target


def knots_1d(
    low_db: float = -10.0, high_db: float = 30.0, points: int = 41, clips: int = 8
) -> Callable[[Model, Examples], dict[str, Tensor]]:
    """The probe: how many units switch, and how the score moves, along the axis of an SNR.

    White noise is added to `clips` random utterances at `points` ratios from `low_db` to `high_db`.
    A knot is a unit of an activation in a frame whose input changes its sign between neighbouring
    ratios: there the score, as a function of the features, changes its slope. The means over clips:

        snr_db   the middle of each step
        knots    the share of units and frames that switch in the step
        score    at each ratio, the score of what is predicted at `high_db`
        turns    how often the score changes between rising and falling

    On the line of a two-layer ReLU net a neuron has its knot at −b/w. Shevchenko et al.,
    arXiv:2111.02278, bound the knots between training inputs. ComponentError for other parameters.
    """
    if not (low_db < high_db and points >= 2 and clips >= 1):
        raise ComponentError(
            f"probe knots_1d: low_db={low_db}, high_db={high_db}, points={points}, clips={clips}; "
            "give low_db below high_db, at least 2 points and 1 clip"
        )

    @torch.no_grad()
    def look(model: Model, examples: Examples) -> dict[str, Tensor]:
        if not activations(model):
            raise ComponentError("probe knots_1d: the model has no activation")
        ratios = torch.linspace(low_db, high_db, points, dtype=torch.float64)
        chance = torch.Generator().manual_seed(examples.seed)
        shares, scores = [], []
        for audio in examples.clips(clips):
            noise = torch.randn(len(audio), generator=chance).to(audio)
            level = audio.square().mean().sqrt() * 10 ** (-ratios / 20)
            rows = audio + level[:, None].to(audio) * noise
            features = model.features(rows)
            bits = torch.cat([c.x.flatten(1) for c in codes(model, features).values()], 1)
            shares.append((bits[1:] != bits[:-1]).double().mean(1).cpu())
            output = model.score(features)
            labels = best(model, output)[-1:]
            same = labels.expand(points, *labels.shape[1:])
            scores.append(target(output, same).double().cpu())
        score = torch.stack(scores)
        signs = score.diff(dim=1).sign()
        return {
            "snr_db": (ratios[1:] + ratios[:-1]) / 2,
            "knots": torch.stack(shares).mean(0),
            "score": score.mean(0),
            "turns": (signs[:, 1:] * signs[:, :-1] < 0).double().sum(1).mean(),
        }

    return look
