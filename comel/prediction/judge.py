"""A trained model applied to a bag: one forward pass, read with the task unknown or with the task given.

Validation, evaluation, prediction and the service all use a :class:`Judge`, so that they cannot differ.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch

from comel.bags.bag import Bag
from comel.bags.contract import FeatureContract
from comel.base.devices import resolve_device
from comel.base.trust import Trust
from comel.cohort.bags import check_contract
from comel.cohort.classes import ClassSpace
from comel.errors import BagError
from comel.models.base import BagBatch, BagOutput, MILModel
from comel.models.batch import make_batch
from comel.runs.directory import RunDirectory
from comel.runs.version import VersionInfo
from comel.runs.weights import load_model

__all__ = ["Judge", "Look", "View"]


class View:
    """A model's answer for a bag, with the task unknown or given (N instances, C classes).

    Attributes:
        head: number of the head that the predicted class belongs to; the given head, if the task is given.
        column: the predicted class.
        probabilities: (C,) float64 over all classes; with the task given, within its head and 0 elsewhere.
        scores: (N,) float32 in [0, 1], each instance's evidence for the findings of ``head``.
    """

    def __init__(self, model: MILModel, batch: BagBatch, output: BagOutput, given: int | None) -> None:
        self._model, self._batch, self._given = model, batch, given
        probabilities = model.probabilities(output, given)[0]  # (C,)
        self._output = output if given is None else model.with_task(output, given)
        self.column = int(probabilities.argmax())
        self.head = model.classes.head_of(self.column)
        self.probabilities: np.ndarray = probabilities.double().cpu().numpy()
        self.scores: np.ndarray = model.evidence(self._output, self.head)[0].float().cpu().numpy()

    @cached_property
    def distance(self) -> float | None:
        """How far the bag lies from what the model has learned (:mod:`comel.scoring.novelty`); None if the model cannot tell.

        With the task unknown, it is the distance from the nearest class of all tasks: is this a slide of any kind that was
        learned? With the task given, it is the distance from the nearest class of that task, because the answer is sought among
        these classes alone: a slide of another organ than the one named lies far away, even if the model knows that organ.
        """
        with torch.inference_mode():
            distance = self._model.distance(self._batch, self._given)
        return None if distance is None else float(distance[0])

    @cached_property
    def by_class(self) -> np.ndarray | None:
        """(N, C) uint8, in 255ths: each instance's evidence for each class; None if the model has no scores by class."""
        with torch.inference_mode():
            scores = self._output.instance_scores[0].clamp(0, 1).mul(255).round().byte().cpu().numpy()
        return scores if scores.shape[1] == len(self.probabilities) else None


class Look:
    """One forward pass over one bag.

    Args:
        model: the model.
        batch: the bag, as a batch of one.
        name: the bag's name, for messages.

    Attributes:
        logits: (C,) float64, each head's own logits without its temperature.
    """

    def __init__(self, model: MILModel, batch: BagBatch, name: str) -> None:
        self._model, self._batch, self._name, self._output = model, batch, name, model(batch)
        self.logits: np.ndarray = self._output.head_logits[0].double().cpu().numpy()

    @torch.inference_mode()
    def free(self) -> View:
        """With the task unknown: any class of any task may be predicted.

        Raises:
            BagError: the model's answer is NaN or infinite.
        """
        return self._finite(View(self._model, self._batch, self._output, None))

    @torch.inference_mode()
    def given(self, head: int) -> View:
        """With the task given: one of the classes of head number ``head`` is predicted.

        Raises:
            BagError: the model's answer is NaN or infinite.
        """
        return self._finite(View(self._model, self._batch, self._output, head))

    def _finite(self, view: View) -> View:
        if not np.isfinite(self.logits).all() or not np.isfinite(view.probabilities).all():
            raise BagError(
                f"{self._name}: the model's answer is not a number (NaN or infinity)",
                "compare its features with those that the run was trained on (comel bags stats)",
            )
        return view


class Judge:
    """A model, its feature contract and its device.

    Args:
        model: on ``device``; it may be trained further between two looks.
        contract: the feature contract that bags must meet.
        device: the device that bags are moved to.
    """

    def __init__(self, model: MILModel, contract: FeatureContract, device: torch.device) -> None:
        self.model, self.contract, self.device = model, contract, device

    @classmethod
    def open(cls, run: RunDirectory, info: VersionInfo, device: str = "auto", trust: Trust | None = None) -> Judge:
        """Load the weights of a version of a run, after checking its checksums.

        Args:
            run: the run directory.
            info: the version's ``model.json``.
            device: auto, cpu, cuda or cuda:N.
            trust: the user's own code that may be loaded; by default none.

        Raises:
            RunError: the version is damaged.
            ConfigError: there is no such device here, or the model's code file is not trusted.
        """
        run.verify(info.version)
        model = load_model(run.version_folder(info.version), info.model, trust=trust)
        place = torch.device(resolve_device(device))
        return cls(model.to(place), info.feature_contract, place)

    @property
    def classes(self) -> ClassSpace:
        """The classes that the model distinguishes."""
        return self.model.classes

    @torch.inference_mode()
    def look(self, bag: Bag) -> Look | None:
        """Run the model over a bag once; None for a bag without instances.

        Raises:
            FeatureMismatch: the features were not made as the contract requires.
        """
        check_contract(self.contract, bag, bag.slide_id)
        if not len(bag):
            return None
        self.model.eval()
        return Look(self.model, make_batch(bag, self.device), bag.slide_id)
