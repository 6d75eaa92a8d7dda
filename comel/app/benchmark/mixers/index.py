"""One number for what a mixer gives: z-scores over a fixed set of mixers, a mean per suite, the mean of the suites.

As CAB's compositional index (Zhang et al. 2023, section 3.3): z = (score - mu) / sigma for each score of a suite, with mu and
sigma over the mixers of the reference set; 0 is that set's average mixer. The set is stored, with a version, so that an index
does not change when a mixer joins; a suite that it does not have is measured against the mixers of the run itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np

from comel.base.files import read_json

__all__ = ["SCORES", "Reference", "indices", "reference", "reference_of"]

SCORES = ("within_task_accuracy", "auc", "instance_auc", "dice")
_LEAST_SPREAD = 1e-3

Reference = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Suite -> score -> ``mu`` and ``sigma``."""
Means = Mapping[str, Mapping[str, Mapping[str, float | None]]]
"""Suite -> mixer -> score, a mean over seeds."""


def reference() -> dict[str, Any]:
    """The stored set: ``version``, ``mixers`` and ``suites``; empty if the package has none."""
    with resources.as_file(resources.files("comel.app.benchmark.mixers") / "reference.json") as path:
        return dict(read_json(path)) if path.is_file() else {"version": 0, "mixers": [], "suites": {}}


def reference_of(means: Means) -> dict[str, dict[str, dict[str, float]]]:
    """Mean and standard deviation of every score over the mixers of a run. A score without a spread is left out."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for suite, mixers in means.items():
        for score in SCORES:
            values = [value for scores in mixers.values() if (value := scores.get(score)) is not None]
            if len(values) > 1 and float(np.std(values, ddof=1)) >= _LEAST_SPREAD:
                spread = {"mu": float(np.mean(values)), "sigma": float(np.std(values, ddof=1))}
                found.setdefault(suite, {})[score] = spread
    return found


def indices(means: Means, against: Reference) -> dict[str, dict[str, float]]:
    """Mixer -> suite -> mean of the z of its scores, and ``index``, the mean over suites.

    A mixer that lacks a suite has no index.
    """
    found: dict[str, dict[str, float]] = {}
    for suite, mixers in means.items():
        for name, scores in mixers.items():
            z = [
                (value - spread["mu"]) / spread["sigma"]
                for score, spread in against.get(suite, {}).items()
                if (value := scores.get(score)) is not None
            ]
            if z:
                found.setdefault(name, {})[suite] = float(np.mean(z))
    for own in found.values():
        if set(own) == set(means):
            own["index"] = float(np.mean(list(own.values())))
    return found
