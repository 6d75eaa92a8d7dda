"""A linear classifier of tiles from bags' labels, whose strongest tiles speak for the bag; fitted in seconds.

    l_m = w u_m + b,   u = LN(x);   vote of a bag = mean of l over its strongest 3 %, at least one

A bag without the finding has negative tiles only, and its strongest count half, lest the many easy ones drown them; in a bag
with it the strongest are positive: at first all, then half as many in each round, down to a tenth. Each round is a ridge
regression with the logistic loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["VOTING_SHARE", "fit_strongest", "vote_of"]

_ROUNDS = 5
_LEAST_SHARE = 0.1
VOTING_SHARE = 0.03
_RIDGE = 0.001
"""Inverse strength C of the penalty, for a weight of one per tile."""


def vote_of(logits: np.ndarray) -> float:
    """The mean of a bag's strongest logits (M,)."""
    return float(logits[_strongest(logits, VOTING_SHARE)].mean())


def fit_strongest(bags: Sequence[np.ndarray], present: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights (D,) and constant of the classifier.

    Args:
        bags: normalised tiles of each bag, (m, D), at least one each.
        present: (n,) bool, whether a bag has the finding; some have and some have not.
    """
    from sklearn.linear_model import LogisticRegression

    weight, bias, share = None, 0.0, 1.0
    for _ in range(_ROUNDS):
        rows, labels, counts = [], [], []
        for tiles, positive in zip(bags, present, strict=True):
            count = np.full(len(tiles), 1 / len(tiles))
            if weight is not None:
                top = _strongest(tiles @ weight, share)
                if positive:
                    tiles, count = tiles[top], np.full(len(top), 1 / len(top))
                else:
                    count = count / 2
                    count[top] += 0.5 / len(top)
            rows.append(tiles)
            labels.append(np.full(len(tiles), positive))
            counts.append(count)
        every, weights = np.concatenate(rows), np.concatenate(counts)
        model = LogisticRegression(C=_RIDGE, max_iter=100, tol=1e-3, class_weight="balanced")
        model.fit(every, np.concatenate(labels), sample_weight=weights * len(every) / len(bags))
        weight, bias = model.coef_[0], float(model.intercept_[0])
        share = max(_LEAST_SHARE, share / 2)
    assert weight is not None
    return weight, bias


def _strongest(logits: np.ndarray, share: float) -> np.ndarray:
    """Rows of the strongest share, at least one."""
    return np.argsort(logits, kind="stable")[-max(1, round(share * len(logits))) :]
