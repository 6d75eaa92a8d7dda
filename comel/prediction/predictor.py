"""Prediction: a version of a run and a bag in, class probabilities and instance scores out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comel.bags.bag import Bag
from comel.bags.contract import FeatureContract
from comel.base.trust import Trust
from comel.base.units import Mode
from comel.cohort.bags import check_contract, join_slides
from comel.errors import ConfigError
from comel.prediction.prediction import EQUAL_SCORES, NO_PLACES, NO_TISSUE, OutOfDistribution, Prediction
from comel.runs.directory import RunDirectory
from comel.runs.version import VersionInfo

if TYPE_CHECKING:
    from comel.prediction.judge import Judge

__all__ = ["Predictor"]


class Predictor:
    """A model ready to predict, with the merged weights of one version; adapters and PEFT are not needed.

    Use :meth:`open`.
    """

    def __init__(self, judge: Judge, info: VersionInfo) -> None:
        self._judge, self._info = judge, info
        self.version, self.run_id = info.version, info.run
        self.mode: str = info.mode

    @classmethod
    def open(
        cls, run: Path, *, version: int | None = None, device: str = "auto", trust: Trust | Iterable[str | Path] = ()
    ) -> Predictor:
        """Load a version of a run, after checking its checksums.

        Args:
            run: the run directory.
            version: default the current one.
            device: auto, cpu, cuda or cuda:N.
            trust: files of code that the run may load (:class:`comel.base.trust.Trust`); a run cannot grant this itself.

        Raises:
            RunError: the run or version does not exist or is damaged.
            ConfigError: its model's code file is not trusted, or the model is not installed.
        """
        from comel.prediction.judge import Judge

        directory = RunDirectory(run)
        info = directory.info(version)
        trust = trust if isinstance(trust, Trust) else Trust(trust)
        return cls(Judge.open(directory, info, device, trust), info)

    @property
    def contract(self) -> FeatureContract:
        """The feature contract that bags must meet."""
        return self._info.feature_contract

    @property
    def class_names(self) -> list[str]:
        """Columns of the probabilities: ``task/label``, or the label alone in a domain-incremental run."""
        if self.mode == Mode.DOMAIN:
            return list(self._judge.classes.heads[0].labels)
        return list(self._judge.classes.names)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The tasks learned: name, labels, negative label, instance threshold."""
        heads = self._judge.classes.heads
        return [
            {
                "name": task.name,
                "labels": list(heads[task.head].labels),
                "negative": heads[task.head].negative,
                "threshold": task.threshold,
                "stage": task.stage,
            }
            for task in self._info.tasks
        ]

    def check_task(self, task: str | None) -> None:
        """Raise :class:`ConfigError` if the model does not know the given task."""
        known = [info.name for info in self._info.tasks]
        if task is not None and task not in known:
            raise ConfigError(f"the model has no task '{task}'", f"it knows {', '.join(known)}")

    def predict(self, bag: Bag, *, task: str | None = None) -> Prediction:
        """Predict one bag.

        Args:
            bag: features made as :attr:`contract` requires; without instances, the prediction has no label.
            task: the task if known; probabilities are then within it, the distance is from its classes, and the prediction
                says so.

        Raises:
            FeatureMismatch: the features were not made as the contract requires.
            ConfigError: the model does not know the task.
        """
        self.check_task(task)
        classes = self._judge.classes
        given = task is not None and self.mode == Mode.CLASS
        head = classes.head_index(task) if given and task is not None else None
        mode = Mode.TASK if given else self.mode
        about = {"run": self.run_id, "version": self.version}
        look = self._judge.look(bag)
        if look is None:
            return Prediction.nothing(
                bag.slide_id,
                mode=mode,
                classes=tuple(self.class_names),
                threshold=self._threshold(head, task),
                model=about,
                task=task,
                geometry=bag.geometry,
            )
        view = look.free() if head is None else look.given(head)
        chosen = classes.heads[view.head]
        prediction = Prediction(
            slide_id=bag.slide_id,
            mode=mode,
            task=task if self.mode == Mode.DOMAIN else chosen.name,
            label=chosen.labels[view.column - classes.columns(view.head).start],
            classes=tuple(self.class_names),
            probabilities=view.probabilities,
            instance_scores=view.scores,
            threshold=self._threshold(view.head, task),
            positive=classes.positive[view.column],
            coords=bag.coords,
            geometry=bag.geometry,
            model=about,
            out_of_distribution=self._novelty(view.distance),
            class_scores=view.by_class,
        )
        notes = [EQUAL_SCORES] * prediction.equal_scores + [NO_PLACES] * self._lacks_places(bag)
        return replace(prediction, notes=tuple(notes)) if notes else prediction

    def predict_case(self, name: str, bags: Sequence[Bag], *, task: str | None = None) -> list[Prediction]:
        """Predict the slides of a case as one bag, as in training.

        Args:
            name: the case's name.
            bags: one per slide.
            task: see :meth:`predict`.

        Returns:
            One prediction per slide, in the order of ``bags``: label, probabilities and distance are the case's; scores,
            coordinates and geometry the slide's own. A note names the other slides.

        Raises:
            FeatureMismatch: the features of a slide were not made as the contract requires.
            ConfigError: the model does not know the task.
        """
        if len(bags) == 1:
            return [self.predict(bags[0], task=task)]
        for bag in bags:
            check_contract(self.contract, bag, bag.slide_id)
        whole, slides = self.predict(join_slides(name, bags), task=task), []
        for bag, end in zip(bags, np.cumsum([len(bag) for bag in bags]), strict=True):
            rows = slice(end - len(bag), end)
            others = ", ".join(other.slide_id for other in bags if other is not bag)
            notes = [NO_TISSUE] * (not len(bag)) + [f"predicted as case {name}, together with {others}"]
            own = replace(
                whole,
                slide_id=bag.slide_id,
                instance_scores=whole.instance_scores[rows],
                class_scores=None if whole.class_scores is None else whole.class_scores[rows],
                coords=bag.coords if len(bag) else np.zeros((0, 2), np.int64),
                geometry=bag.geometry,
            )
            notes += [EQUAL_SCORES] * own.equal_scores + [NO_PLACES] * (NO_PLACES in whole.notes)
            slides.append(replace(own, notes=tuple(notes)))
        return slides

    def _lacks_places(self, bag: Bag) -> bool:
        """Whether the bag's tiles have no place, though the model looks at places and was trained on tiles of a known size."""
        return bag.coords is None and self._judge.contract.mpp is not None and self._judge.model.uses_places

    def _novelty(self, distance: float | None) -> OutOfDistribution | None:
        threshold = self._info.distance_threshold
        return None if threshold is None or distance is None else OutOfDistribution(distance, threshold)

    def _threshold(self, head: int | None, task: str | None = None) -> float:
        """The given task's threshold; otherwise the threshold of the newest task with this head, or 0.5."""
        own = [info.threshold for info in self._info.tasks if info.name == task]
        shared = [info.threshold for info in self._info.tasks if head is not None and info.head == head]
        return (own or shared or [0.5])[-1]
