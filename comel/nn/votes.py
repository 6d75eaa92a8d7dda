"""Votes of simple classifiers of bags, weighed by what they say of bags that they were not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from comel.nn.strongest import fit_strongest, vote_of

__all__ = ["Linear", "Splits", "sparse_vote", "splits_of", "strongest_vote", "weigh"]

_FOLDS = 5
_PENALTIES = (0.3, 1.0)
"""Inverse strengths C of the L1 penalty."""
_STILL = 1e-9
"""Spread below which a number is the same in all bags."""

Splits = list[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Linear:
    """A vote ``weights . numbers + bias``, and what its like said of each training bag without having seen it.

    Attributes:
        held_out: (n,) votes.
        weights: of each set of numbers.
        bias: the constant.
    """

    held_out: np.ndarray
    weights: list[np.ndarray]
    bias: float


def splits_of(present: np.ndarray) -> Splits:
    """Rows to fit on and rows held out, each row held out once; none if fewer than two bags have the finding or lack it."""
    from sklearn.model_selection import StratifiedKFold

    folds = min(_FOLDS, int(present.sum()), int((~present).sum()))
    if folds < 2:
        return []
    return list(StratifiedKFold(folds, shuffle=True, random_state=0).split(present, present))


def sparse_vote(sets: Sequence[np.ndarray], present: np.ndarray, splits: Splits) -> Linear:
    """Sparse logistic regressions, one per set of numbers (n, F) and penalty, weighed by exp(-n loss / 2) of their losses on
    bags held out."""
    from sklearn.linear_model import LogisticRegression

    losses, held_out, functions = [], [], []
    for i, rows in enumerate(sets):
        middle, spread = rows.mean(axis=0), rows.std(axis=0)
        scale = np.where(spread > _STILL, 1 / np.maximum(spread, _STILL), 0)
        standard = (rows - middle) * scale
        for penalty in _PENALTIES:
            model = LogisticRegression(
                l1_ratio=1.0, C=penalty, solver="liblinear", class_weight="balanced", random_state=0, max_iter=1000
            )

            votes = _held_out(partial(_refit, model, standard, present), splits)
            losses.append(float(np.logaddexp(0, np.where(present, -votes, votes)).mean()))
            held_out.append(votes)
            model.fit(standard, present)
            weight = model.coef_[0] * scale
            functions.append((i, weight, float(model.intercept_[0] - weight @ middle)))
    share = np.exp(-0.5 * len(present) * (np.array(losses) - min(losses)))
    share /= share.sum()
    weights, bias = [np.zeros(rows.shape[1]) for rows in sets], 0.0
    for part, (i, weight, constant) in zip(share, functions, strict=True):
        weights[i] += part * weight
        bias += part * constant
    return Linear(share @ np.stack(held_out), weights, bias)


def strongest_vote(bags: Sequence[np.ndarray], present: np.ndarray, splits: Splits) -> Linear:
    """The vote of a bag's strongest tiles: weights (D,) and constant are those of a tile's logit.

    Args:
        bags: normalised tiles (m, D) of each.
        present: (n,) whether a bag has the finding.
        splits: from :func:`splits_of`.
    """

    def votes(train: np.ndarray, test: np.ndarray) -> np.ndarray:
        weight, bias = fit_strongest([bags[i] for i in train], present[train])
        return np.array([vote_of(bags[i] @ weight + bias) for i in test])

    weight, bias = fit_strongest(bags, present)
    return Linear(_held_out(votes, splits), [weight], bias)


def weigh(votes: Sequence[np.ndarray], present: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights, none below 0, and a constant that make log-odds of votes on bags held out.

    A logistic regression (Platt 1999) on votes brought to one spread, shrunken towards no weight by a normal prior. Without a
    vote of any use all is 0.

    Args:
        votes: (n,) of each voter.
        present: (n,) whether a bag has the finding.
    """
    from sklearn.linear_model import LogisticRegression

    spread = np.array([vote.std() for vote in votes])
    used = [i for i in range(len(votes)) if spread[i] > _STILL]
    weights = np.zeros(len(votes))
    while used:
        rows = np.stack([votes[i] / spread[i] for i in used], axis=1)
        model = LogisticRegression(class_weight="balanced").fit(rows, present)
        if (model.coef_[0] > 0).all():
            weights[used] = model.coef_[0] / spread[used]
            return weights, float(model.intercept_[0])
        used = [i for i, weight in zip(used, model.coef_[0], strict=True) if weight > 0]
    return weights, 0.0


def _refit(model: Any, rows: np.ndarray, present: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    votes: np.ndarray = model.fit(rows[train], present[train]).decision_function(rows[test])
    return votes


def _held_out(votes: Callable[[np.ndarray, np.ndarray], np.ndarray], splits: Splits) -> np.ndarray:
    result = np.empty(sum(len(test) for _, test in splits))
    for train, test in splits:
        result[test] = votes(train, test)
    return result
