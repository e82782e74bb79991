"""From how sure a model claims to be to how often it is right: two numbers for each model."""

import math
from collections.abc import Sequence

import numpy as np

Confidence = tuple[float, float]
"""Scale and bias of the logit; (1, 0) leaves scores as they are."""

SURE = 1e-6
"""No score is nearer to 0 or 1: its logit must be finite."""


def calibrated(p: float, confidence: Confidence) -> float:
    """σ(scale · logit p + bias) of a score from 0 to 1."""
    scale, bias = confidence
    # of tanh, which cannot overflow
    return (1 + math.tanh((scale * _logit(p) + bias) / 2)) / 2


def fit(scores: Sequence[float], right: Sequence[bool]) -> Confidence:
    """The scale and bias under which what was `right` is most likely; (0, bias) if scores mislead.

    Newton's method on the cross entropy with targets drawn in by one example of each kind, so that
    it ends even where all are right. Then nothing says how scores of right and wrong words differ:
    the scale stays 1. Source: Platt, Advances in Large Margin Classifiers, 1999.
    """
    hits = np.asarray(right, dtype=bool)
    high, low = (hits.sum() + 1) / (hits.sum() + 2), 1 / ((~hits).sum() + 2)
    targets = np.where(hits, high, low)
    x = np.stack([[_logit(p) for p in scores], np.ones(len(hits))], axis=1)
    w = np.array([1.0, 0.0])
    free = slice(0, 2) if one_sided(right) is None else slice(1, 2)
    for _ in range(50):
        p = (1 + np.tanh(x @ w / 2)) / 2
        y = x[:, free]
        hessian = (y * (p * (1 - p))[:, None]).T @ y + 1e-6 * np.eye(y.shape[1])
        w[free] -= np.clip(np.linalg.solve(hessian, y.T @ (p - targets)), -1, 1)
    if w[0] < 0:
        return 0.0, _logit(float(targets.mean()))
    return float(w[0]), float(w[1])


def one_sided(right: Sequence[bool]) -> str | None:
    """ "right" or "wrong" where all are, for a sentence; None where there are both."""
    return None if len(set(right)) > 1 else "right" if all(right) else "wrong"


def _logit(p: float) -> float:
    p = min(max(p, SURE), 1 - SURE)
    return math.log(p / (1 - p))
