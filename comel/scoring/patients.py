"""A patient's probabilities from those of its cases, by the rule for the patient's label.

A patient has a finding if any case shows it, and the negative label if none shows one. So in a head with a negative label the
case with the strongest evidence for a finding decides: for each finding f

    P(f) / P(negative) = max over cases i of p_i(f) / p_i(negative),

normalised within the head. The patient is predicted positive exactly if some case is. In a head without a negative label all
cases show the same finding, and P is the mean over the cases. A whole head has the mean of its probability over the cases. The
probabilities of one case are those of its patient.
"""

from __future__ import annotations

import numpy as np

from comel.cohort.classes import ClassSpace, Head

__all__ = ["patient_probabilities"]

_LEAST = np.finfo(np.float64).tiny


def patient_probabilities(table: np.ndarray, classes: ClassSpace) -> np.ndarray:
    """The probabilities of one patient.

    Args:
        table: (n, C) the patient's cases, n > 0.
        classes: the columns' classes.

    Returns:
        (C,) with the sum that the rows have on average.
    """
    whole: np.ndarray = table.mean(axis=0)
    for number, head in enumerate(classes.heads):
        columns = classes.columns(number)
        if head.negative is not None:
            whole[columns] = whole[columns].sum() * _within(table[:, columns], head)
    return whole


def _within(table: np.ndarray, head: Head) -> np.ndarray:
    """(L,) shares of a head's labels from (n, L) of the cases. A case with no probability for the head does not count."""
    heard = table[table.sum(axis=1) > 0]
    if not len(heard):
        return np.zeros(table.shape[1])
    assert head.negative is not None
    logs = np.log(np.maximum(heard, _LEAST))
    odds = (logs - logs[:, [head.labels.index(head.negative)]]).max(axis=0)
    shares: np.ndarray = np.exp(odds - odds.max())
    shares /= shares.sum()
    return shares
