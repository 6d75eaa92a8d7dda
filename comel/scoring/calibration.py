"""Temperature scaling: one number per head that makes probabilities match accuracy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["fit_temperature"]

_COLDEST, _HOTTEST = 0.05, 20.0


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature T that minimises the mean cross-entropy of ``softmax(logits / T)`` (Guo et al., "On calibration of modern
    neural networks", ICML 2017, section 4.2), against smoothed labels.

    A bag of a class with n bags among C counts (n + 1) / (n + C) for its own class and 1 / (n + C) for each other (after
    Platt, "Probabilistic outputs for support vector machines", 1999): if every bag is predicted correctly, plain labels would
    demand a certainty that few bags do not justify. The loss is convex in 1 / T, so its minimum is the only one.

    Args:
        logits: (n, C) validation bags' logits, within their head.
        labels: (n,) columns 0 .. C - 1.

    Returns:
        T from 0.05 to 20. 1.0 if undetermined: fewer than two bags, bags of one class, or logits that do not differ.

    Raises:
        ValueError: shapes that do not match, logits that are not finite, or a label that is not a column.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    table, truth = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if len(truth) == 0:
        return 1.0
    if table.ndim != 2 or truth.shape != (len(table),) or not np.isfinite(table).all():
        raise ValueError(f"finite logits (n, C) and labels (n,) expected, not {table.shape} and {truth.shape}")
    if truth.min() < 0 or truth.max() >= table.shape[1]:
        raise ValueError(f"labels {truth.min()} .. {truth.max()} of {table.shape[1]} classes")
    if len(np.unique(truth)) < 2 or np.ptp(table, axis=1).max() == 0:
        return 1.0
    classes = table.shape[1]
    certain = 1 / (np.bincount(truth, minlength=classes)[truth] + classes)
    aim = certain[:, None] + np.eye(classes)[truth] * (1 - classes * certain)[:, None]  # (n, C)
    aimed = (aim * table).sum(axis=1)

    def loss(log_temperature: float) -> float:
        share = math.exp(-log_temperature)
        return float((logsumexp(table * share, axis=1) - aimed * share).mean())

    found = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded", options={"xatol": 1e-4})
    return float(np.clip(math.exp(found.x), _COLDEST, _HOTTEST))
