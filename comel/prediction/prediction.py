"""The model's answer for one slide: the class with its probability, and a score for every tile.

A :class:`Prediction` is plain data. It is saved as JSON and read back whole (:func:`read_prediction`), and a cohort's
predictions become one table with one row per slide (:func:`prediction_row`, :func:`write_table`). Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.geometry import TileGeometry, geometry_from_attributes
from comel.base.files import atomic_path, write_json
from comel.base.thresholds import all_equal, from_threshold
from comel.base.units import Mode
from comel.errors import ComelError

__all__ = [
    "MODES",
    "NOTICE",
    "OutOfDistribution",
    "Prediction",
    "check_table",
    "failed_row",
    "prediction_row",
    "read_prediction",
    "write_table",
]

MODES = tuple(Mode)
NOTICE = "Research use only: not a medical device, not for diagnosis."
NO_TISSUE = "no tissue"
EQUAL_SCORES = "all tiles have the same score, so none is marked"
NO_PLACES = "no coordinates: where tiles lie to each other, which the model learned from, is not known"

_COLUMNS_BEFORE = ["task", "label", "mode", "confidence"]
_COLUMNS_AFTER = ["instances", "positive_instances", "distance", "out_of_distribution", "version", "error"]


@dataclass(frozen=True)
class OutOfDistribution:
    """How far a slide lies from what the model has learned (:mod:`comel.scoring.novelty`).

    Attributes:
        score: the distance from the nearest class of all tasks; with the task given, from the nearest class of that task.
        threshold: the distance from which a slide counts as a different kind, chosen on validation data.
    """

    score: float
    threshold: float

    @property
    def flag(self) -> bool:
        """Whether the slide is of a kind that the model has not learned, or not of the given task's kind; the prediction then
        means little."""
        return self.score > self.threshold

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"score": self.score, "threshold": self.threshold, "flag": self.flag}


@dataclass(frozen=True, eq=False)
class Prediction:
    """The model's answer for one slide (N tiles, C classes).

    Attributes:
        slide_id: the slide's name.
        mode: class-incremental (any task's class), task-incremental (the task was given) or domain-incremental.
        task: the predicted or given task, or None if nothing was predicted.
        label: the predicted label within the task, or None if nothing was predicted.
        classes: (C,) names, "task/label".
        probabilities: (C,) in the order of ``classes``, or None if nothing was predicted.
        instance_scores: (N,) float32 in [0, 1]: evidence for the predicted task's positive classes, one scale for all slides.
        threshold: the instance score from which a tile counts as positive, chosen on validation data.
        positive: whether the predicted label is not the task's negative class.
        coords: (N, 2) level-0 top-left pixels (x, y), or None if the bag has none.
        geometry: tile size, micrometres per pixel and slide extent, or None if the bag does not state them.
        model: the model that predicted: ``run``, ``version`` and what else identifies it; JSON values.
        notes: remarks for the reader, such as "no tissue".
        out_of_distribution: how far the slide lies from what the model has learned, or None if the model cannot tell.
        class_scores: (N, C) uint8, in 255ths: evidence of each tile for each class, for maps of any class; None
            if not requested.

    Raises:
        ValueError: the arrays do not match each other, or a value lies outside [0, 1].
    """

    slide_id: str
    mode: str
    task: str | None
    label: str | None
    classes: tuple[str, ...]
    probabilities: np.ndarray | None
    instance_scores: np.ndarray
    threshold: float
    positive: bool
    coords: np.ndarray | None
    geometry: TileGeometry | None
    model: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    out_of_distribution: OutOfDistribution | None = None
    class_scores: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.instance_scores)
        if self.mode not in MODES:
            raise ValueError(f"mode {self.mode!r} is not one of {MODES}")
        if self.instance_scores.shape != (count,) or not _within_unit(self.instance_scores):
            raise ValueError(f"instance scores of shape {self.instance_scores.shape} must be (N,) and within [0, 1]")
        if self.coords is not None and self.coords.shape != (count, 2):
            raise ValueError(f"{count} instance scores but coords of shape {self.coords.shape}")
        if self.class_scores is not None:
            shape = (count, len(self.classes))
            if self.class_scores.shape != shape or self.class_scores.dtype != np.uint8:
                raise ValueError(
                    f"class scores of shape {self.class_scores.shape}, {self.class_scores.dtype}: not {shape}, uint8"
                )
        if not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold {self.threshold} is not within [0, 1]")
        if (self.label is None) != (self.probabilities is None):
            raise ValueError("a label needs probabilities, and probabilities need a label")
        if self.probabilities is not None:
            if self.probabilities.shape != (len(self.classes),) or not _within_unit(self.probabilities):
                raise ValueError(f"{len(self.classes)} classes but probabilities of shape {self.probabilities.shape}")
            if self.predicted_class not in self.classes:
                raise ValueError(f"predicted class {self.predicted_class!r} is not one of {self.classes}")

    @classmethod
    def nothing(
        cls,
        slide_id: str,
        *,
        mode: str,
        classes: tuple[str, ...],
        threshold: float,
        model: Mapping[str, Any],
        task: str | None = None,
        geometry: TileGeometry | None = None,
    ) -> Prediction:
        """The answer for a bag without instances: no label, no probabilities, and the note "no tissue"."""
        return cls(
            slide_id=slide_id,
            mode=mode,
            task=task,
            label=None,
            classes=classes,
            probabilities=None,
            instance_scores=np.zeros(0, np.float32),
            threshold=threshold,
            positive=False,
            coords=np.zeros((0, 2), np.int64),
            geometry=geometry,
            model=model,
            notes=(NO_TISSUE,),
        )

    @property
    def predicted_class(self) -> str | None:
        """The predicted entry of ``classes``, or None. If tasks share one label set, classes may be bare labels."""
        if self.label is None:
            return None
        full = f"{self.task}/{self.label}"
        return self.label if full not in self.classes and self.label in self.classes else full

    @property
    def confidence(self) -> float | None:
        """Probability of the predicted class, or None if nothing was predicted."""
        if self.probabilities is None or self.predicted_class is None:
            return None
        return float(self.probabilities[self.classes.index(self.predicted_class)])

    def scores_of(self, name: str) -> np.ndarray:
        """(N,) float32: evidence of each tile for one of ``classes``, exact to 1/510.

        Raises:
            ComelError: there is no such class, or no scores by class.
        """
        if name not in self.classes:
            raise ComelError(f"{self.slide_id}: no class {name!r}", f"the classes are: {', '.join(self.classes)}")
        if self.class_scores is None:
            raise ComelError(f"{self.slide_id}: predicted without scores by class", "predict the slide again")
        return np.asarray(self.class_scores[:, self.classes.index(name)] / np.float32(255), np.float32)

    def tiles_from(self, minimum_score: float) -> np.ndarray:
        """(N,) bool: which tiles score at least ``minimum_score``; none above 0 if all scores are equal
        (:func:`comel.base.thresholds.from_threshold`)."""
        return from_threshold(self.instance_scores, minimum_score)

    @property
    def equal_scores(self) -> bool:
        """Whether all tiles have the same score of at least the threshold, so that none is marked."""
        return all_equal(self.instance_scores) and bool(self.instance_scores.max() >= np.float32(self.threshold))

    @property
    def positive_instances(self) -> int:
        """The number of tiles that the threshold marks, of N."""
        return int(self.tiles_from(self.threshold).sum())

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, without NaN; :meth:`from_dict` restores the same prediction."""
        return {
            "slide_id": self.slide_id,
            "mode": self.mode,
            "task": self.task,
            "label": self.label,
            "positive": self.positive,
            "confidence": self.confidence,
            "classes": list(self.classes),
            "probabilities": None if self.probabilities is None else [float(value) for value in self.probabilities],
            "threshold": float(self.threshold),
            "out_of_distribution": None if self.out_of_distribution is None else self.out_of_distribution.to_dict(),
            "instances": {
                "count": len(self.instance_scores),
                "positive": self.positive_instances,
                "scores": shortest_floats(self.instance_scores),
                "coords": None if self.coords is None else self.coords.tolist(),
                "class_scores": None if self.class_scores is None else b64encode(self.class_scores.tobytes()).decode(),
            },
            "geometry": None if self.geometry is None else dataclasses.asdict(self.geometry),
            "model": dict(self.model),
            "notes": list(self.notes),
            "notice": NOTICE,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Prediction:
        """The prediction that :meth:`to_dict` described.

        Raises:
            KeyError, TypeError, ValueError: the mapping did not come from :meth:`to_dict`.
        """
        instances = value["instances"]
        probabilities, coords = value["probabilities"], instances["coords"]
        novelty = value["out_of_distribution"]
        scored = instances.get("class_scores")
        return cls(
            slide_id=str(value["slide_id"]),
            mode=value["mode"],
            task=value["task"],
            label=value["label"],
            classes=tuple(value["classes"]),
            probabilities=None if probabilities is None else np.asarray(probabilities, np.float64),
            instance_scores=np.asarray(instances["scores"], np.float32),
            threshold=float(value["threshold"]),
            positive=bool(value["positive"]),
            coords=None if coords is None else np.asarray(coords).reshape(-1, 2),
            geometry=None if value["geometry"] is None else geometry_from_attributes(value["geometry"]),
            model=dict(value["model"]),
            notes=tuple(value["notes"]),
            out_of_distribution=None
            if novelty is None
            else OutOfDistribution(float(novelty["score"]), float(novelty["threshold"])),
            class_scores=None
            if scored is None
            else np.frombuffer(b64decode(scored, validate=True), np.uint8).reshape(-1, len(value["classes"])),
        )

    def save_json(self, path: Path, *, request: str | None = None) -> None:
        """Write :meth:`to_dict` to ``path`` atomically; with ``request``, a hash of everything requested, if given."""
        write_json(path, self.to_dict() | ({} if request is None else {"request": request}))


def read_prediction(path: Path) -> Prediction:
    """Read what :meth:`Prediction.save_json` wrote.

    Raises:
        ComelError: the file is missing, not JSON, or not a prediction.
    """
    try:
        return Prediction.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ComelError(f"{path}: no such file", "predict the slide first") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComelError(f"{path}: not a saved prediction ({error!r})", "predict the slide again") from None


def prediction_row(prediction: Prediction, *, case_id: str | None = None) -> dict[str, Any]:
    """One slide as a row of the table: identity, class and probability, ``p:<class>`` for every class, and tile counts.

    Args:
        prediction: the slide's prediction.
        case_id: its case, if it belongs to one.
    """
    row: dict[str, Any] = {
        **_names(prediction.slide_id, case_id),
        "task": prediction.task,
        "label": prediction.label,
        "mode": prediction.mode,
        "confidence": prediction.confidence,
    }
    probabilities = [None] * len(prediction.classes) if prediction.probabilities is None else prediction.probabilities.tolist()
    row |= {f"p:{name}": value for name, value in zip(prediction.classes, probabilities, strict=True)}
    row["instances"] = len(prediction.instance_scores)
    row["positive_instances"] = prediction.positive_instances
    novelty = prediction.out_of_distribution
    row["distance"] = None if novelty is None else novelty.score
    row["out_of_distribution"] = None if novelty is None else novelty.flag
    row["version"] = prediction.model.get("version")
    row["error"] = None
    return row


def failed_row(slide_id: str, error: BaseException, *, case_id: str | None = None) -> dict[str, Any]:
    """The row of a slide that could not be predicted, with the reason in one line."""
    return {**_names(slide_id, case_id), "error": " ".join(str(error).split()) or type(error).__name__}


def _names(slide_id: str, case_id: str | None) -> dict[str, Any]:
    return {"slide_id": slide_id} if case_id is None else {"slide_id": slide_id, "case_id": case_id}


def check_table(path: Path) -> None:
    """Raise :class:`ComelError` unless the suffix is one that :func:`write_table` writes."""
    if Path(path).suffix.lower() not in {".csv", ".parquet"}:
        raise ComelError(f"{path}: a table is written as .csv or .parquet", "give the file one of these endings")


def write_table(rows: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write rows of :func:`prediction_row` and :func:`failed_row` as CSV or Parquet, by the suffix, atomically.

    Columns: identity and class first, ``p:<class>`` in the order in which classes appear, counts, version and error last.
    ``case_id`` follows ``slide_id`` if a row has it.

    Raises:
        ComelError: the suffix is neither ``.csv`` nor ``.parquet``.
    """
    import pandas as pd

    path = Path(path)
    check_table(path)
    entries = [dict(row) for row in rows]
    classes = dict.fromkeys(name for row in entries for name in row if name.startswith("p:"))
    names = ["slide_id", "case_id"] if any("case_id" in row for row in entries) else ["slide_id"]
    table = pd.DataFrame(entries, columns=[*names, *_COLUMNS_BEFORE, *classes, *_COLUMNS_AFTER])
    types = dict.fromkeys([*names, "task", "label", "mode", "error"], "string")
    types |= dict.fromkeys(["instances", "positive_instances", "version"], "Int64")
    types |= dict.fromkeys(["confidence", "distance", *classes], "float64")
    types["out_of_distribution"] = "boolean"
    table = table.astype(types)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)


def shortest_floats(values: np.ndarray) -> list[float]:
    """float32 values as the shortest decimals that read back as the same float32: a third of the text of ``tolist``."""
    return [float(text) for text in values.astype(np.float32).astype(str)]


def _within_unit(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values <= 1 + 1e-6).all())
