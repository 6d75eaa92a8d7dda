"""The names of scores, modes and statistics in a report, and their order."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["KINDS", "LOWER_IS_BETTER", "MAIN_SCORES", "STATISTICS", "in_order", "score_name"]

KINDS = {"bag": "Bag", "patient": "Patient", "instance": "Instance"}
MAIN_SCORES = {"bag": ("accuracy", "auc"), "patient": ("accuracy", "auc"), "instance": ("auc", "dice")}
LOWER_IS_BETTER = {"ece", "ece_uncalibrated"}
STATISTICS = {
    "final_average": "final average",
    "average_over_time": "average over time",
    "forgetting": "forgetting",
    "backward_transfer": "backward transfer",
    "forward_transfer": "forward transfer",
}
_SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auc": "AUC",
    "f1": "F1",
    "ece": "calibration error",
    "ece_uncalibrated": "calibration error before calibration",
    "iou": "IoU",
    "dice": "Dice",
    "froc": "FROC",
    "f1_all_slides": "F1, all slides",
    "f1_positive_slides": "F1, positive slides",
    "accuracy_all_slides": "accuracy, all slides",
    "accuracy_positive_slides": "accuracy, positive slides",
}


def score_name(key: str) -> str:
    """A score's name in words."""
    return _SCORES.get(key, key.replace("_", " "))


def in_order(kind: str, scores: Iterable[str]) -> list[str]:
    """Scores with the main ones of their kind first."""
    keys, main = list(scores), MAIN_SCORES.get(kind, ())
    return [key for key in main if key in keys] + [key for key in keys if key not in main]
