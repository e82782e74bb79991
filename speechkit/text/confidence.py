"""Calibration: two numbers per model turn its scores into the share of correct words."""

import math
from collections.abc import Sequence

import numpy as np

Confidence = tuple[float, float]
"""Scale and bias of the logit; (1, 0) leaves scores as they are."""

SURE = 1e-6
"""Scores are kept this far from 0 and 1, so that the logit is finite."""


def calibrated(p: float, confidence: Confidence) -> float:
    """σ(scale · logit p + bias) of a score from 0 to 1."""
    scale, bias = confidence
    # written with tanh, which cannot overflow
    return (1 + math.tanh((scale * _logit(p) + bias) / 2)) / 2


def fit(scores: Sequence[float], right: Sequence[bool]) -> Confidence:
    """The maximum-likelihood scale and bias for `right`; (0, bias) if higher scores are worse.

    Newton's method on the cross entropy. One example of each kind is added to the targets, so that
    it converges even where all are right. In that case the scale stays 1, since there are no wrong
    words to compare with. Source: Platt, Advances in Large Margin Classifiers, 1999.
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
    """ "right" or "wrong" where all are, None where there are both; for use in a message."""
    return None if len(set(right)) > 1 else "right" if all(right) else "wrong"


def _logit(p: float) -> float:
    p = min(max(p, SURE), 1 - SURE)
    return math.log(p / (1 - p))
