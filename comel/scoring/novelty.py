"""Is a slide of a kind that the model has never learned? A bag's distance from all classes, and the threshold for it.

If a task is given, the question is whether the slide is of that task, and the distance is from its classes only
(:attr:`comel.prediction.judge.View.distance`); the threshold is the same, since distances mean the same for every task.
The distance is Mahalanobis, of the mean bag feature to the nearest class (:meth:`comel.nn.recognition.TaskRecognition.
distance`; Lee et al., "A simple unified framework for detecting out-of-distribution samples", NeurIPS 2018, on the features of
the frozen encoder). The threshold is chosen on a task's validation bags when the task is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from comel.models.base import BagBatch, MILModel

__all__ = ["choose_distance_threshold", "distances"]

_QUANTILE = 0.99
_FEWEST = 3


@torch.inference_mode()
def distances(model: MILModel, bags: Iterable[BagBatch]) -> list[float]:
    """The distance of each bag (B = 1) from what the model has learned; empty if the model keeps no statistics."""
    found = (model.distance(bag) for bag in bags if bag.features.shape[1])
    return [float(value[0]) for value in found if value is not None]


def choose_distance_threshold(known: Sequence[float]) -> float | None:
    """The distance that one in a hundred further bags of the same kind exceeds.

    Logarithms of distances are assumed normal; the upper end of the prediction interval for one more of them (Student's t)
    widens with fewer bags.

    Args:
        known: the distances of validation bags.

    Returns:
        The threshold, or None for fewer than three bags, which do not determine a spread.
    """
    from scipy.stats import t as student

    if len(known) < _FEWEST:
        return None
    logs = np.log(np.maximum(known, np.finfo(np.float64).tiny))
    count = len(logs)
    reach = student.ppf(_QUANTILE, count - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / count)
    return float(np.exp(logs.mean() + reach))
