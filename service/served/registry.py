"""The models that answer: each run of the settings at one version, which may change while requests are running.

A run's ``current`` names the version that answers, unless one is pinned (``<state_dir>/models.json``). A new version is
loaded and tried separately, and only then replaces the old one; running requests end on the version that they began
with. A version that cannot be used, or that needs differently made bags, is refused, and the old one continues.
Any failure from a version's files only refuses that version and does not stop other models.
All methods block and are thread-safe.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from comel.bags.bag import Bag, TileGeometry
from comel.bags.contract import FeatureContract
from comel.errors import ComelError, RunError
from comel.prediction.prediction import Prediction
from comel.runs.directory import RunDirectory
from service.errors import NotFoundError, NotReadyError, needing_room
from service.served.choice import ModelChoices
from service.settings import ServiceSettings

__all__ = ["ModelRegistry", "ModelState", "PredictorLike", "Refusal"]

SPARE_VERSIONS = 2
"""Versions kept loaded besides those that answer: for jobs accepted under an older one."""
_WARM_UP_TILES = 64


class PredictorLike(Protocol):
    """The part of the interface that the service needs from :class:`comel.prediction.predictor.Predictor`."""

    run_id: str
    version: int
    mode: str

    @property
    def class_names(self) -> Sequence[str]: ...

    @property
    def tasks(self) -> list[dict[str, Any]]: ...

    @property
    def contract(self) -> FeatureContract: ...

    def predict(self, bag: Bag, *, task: str | None = None) -> Prediction: ...


@dataclass(frozen=True)
class Refusal:
    """A version that should answer but cannot, and why. It is None if the run does not state which one should."""

    version: int | None
    what: str
    remedy: str


@dataclass(frozen=True)
class ModelState:
    """A model as it answers now.

    Attributes:
        name: as in the settings.
        default: whether it answers requests without a model name.
        version: of the run, which answers; None if none can be used.
        pinned: whether that version was chosen, overriding the run's ``current``.
        refusal: the version that should answer but cannot, or None.
    """

    name: str
    default: bool
    version: int | None
    pinned: bool
    refusal: Refusal | None


class ModelRegistry:
    """Models by name, loaded as they are needed.

    A serving process calls :meth:`open` at its start and :meth:`refresh` regularly; one that only works, such as a
    job's, needs only :meth:`get`.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._runs = {name: RunDirectory(path) for name, path in settings.runs.items()}
        self._device, self._settings = settings.device, settings
        self._choices = ModelChoices(settings.state_dir)
        self._loaded: OrderedDict[tuple[str, int], PredictorLike] = OrderedDict()
        self._answering: dict[str, int] = {}
        self._refused: dict[str, tuple[Refusal, Any]] = {}
        self._unsaved: set[str] = set()
        self._lock = threading.Lock()
        # Held over a load: two versions of a large model are in memory then, never three.
        self._changing = threading.RLock()

    @property
    def names(self) -> list[str]:
        """Every model's name; the first is the default."""
        return list(self._runs)

    def run(self, name: str) -> RunDirectory:
        """The run of a model.

        Raises:
            NotFoundError: no model has this name.
        """
        if name not in self._runs:
            raise NotFoundError("there is no model of this name", f"it may be {' or '.join(self.names)}")
        return self._runs[name]

    def open(self) -> None:
        """Load the version of every model that should answer or, if that is refused, the one that answered last.

        A model none of whose versions can be used is refused, and the others answer.

        Raises:
            ComelError: no model can be used, and none has ever answered here; or the choice cannot be read.
        """
        answered_before = [self._choices.read(name).serving is not None for name in self.names]
        for name in self.names:
            self._look(name)
            if name not in self._answering and (before := self._choices.read(name).serving) is not None:
                with suppress(ComelError), self._refusing(name, before):
                    self._exchange(name, before, keep_refusal=True)
        if not self._answering and not any(answered_before):
            refusal = self._refused[self.names[0]][0]
            raise RunError(refusal.what, refusal.remedy)

    def get(self, name: str | None = None, version: int | None = None) -> PredictorLike:
        """A model ready to predict, loaded if it is not yet.

        Args:
            name: default the first of the settings.
            version: default the one that answers.

        Raises:
            NotFoundError: there is no such model.
            NotReadyError: none of its versions can be used.
            RunError: there is no such version, or it is damaged.
        """
        name = self.names[0] if name is None else name
        self.run(name)
        if version is None:
            version = self._answering.get(name)
        if version is None:
            version = self._begin(name)
        with self._lock:
            if (name, version) in self._loaded:
                self._loaded.move_to_end((name, version))
                return self._loaded[name, version]
        with self._changing:
            predictor = self._loaded.get((name, version)) or self._open(name, version)
            self._keep(name, version, predictor)
        return predictor

    def state(self, name: str) -> ModelState:
        """How a model answers now.

        Raises:
            NotFoundError: no model has this name.
            ConfigError: the choice cannot be read.
        """
        self.run(name)
        refused = self._refused.get(name)
        pinned = self._choices.read(name).pinned is not None
        version = self._answering.get(name)
        return ModelState(name, name == self.names[0], version, pinned, refused[0] if refused else None)

    def is_loaded(self, name: str, version: int) -> bool:
        """Whether a version is in memory."""
        with self._lock:
            return (name, version) in self._loaded

    def choose(self, name: str, version: int | None, *, record: Callable[[], None] = lambda: None) -> ModelState:
        """Make a version answer from now on, also after a restart; None follows the run's ``current`` again.

        Args:
            name: the model's name.
            version: a version of its run.
            record: called once everything was checked, before anything changes.

        Raises:
            NotFoundError: no model has this name.
            NoRoomError, NotReadyError: the choice cannot be written.
            ComelError: the version cannot be used; nothing changes.
        """
        run = self.run(name)

        def keep() -> None:
            record()
            with needing_room():
                self._choices.pin(name, version, serving=wanted)

        with self._changing:
            with self._refusing(name, version):
                wanted = int(run.version_folder().name) if version is None else version
                # A loaded version may be gone from the disk, and would then be missing at the next start.
                self._check(name, wanted)
            try:
                self._exchange(name, wanted, before=keep)
            except OSError as error:
                said = f"the choice cannot be written ({os.strerror(error.errno or 0)})"
                raise NotReadyError(said, "ask the service's operator") from None
        return self.state(name)

    def refresh(self) -> list[ModelState]:
        """Switch to other versions that should answer; returns the states of the models that changed."""
        changed = []
        for name in self.names:
            with self._changing:
                before = self._refused.get(name), self._answering.get(name)
                self._look(name)
                if (self._refused.get(name), self._answering.get(name)) != before:
                    changed.append(self.state(name))
        return changed

    def _look(self, name: str) -> None:
        """One model's part of :meth:`refresh`."""
        wanted, seen = None, None
        try:
            with self._refusing(name, None):
                wanted = self._wanted(name)
            if wanted != self._answering.get(name):
                seen = self._stamp(name, wanted)
                if name in self._refused and (self._refused[name][0].version, self._refused[name][1]) == (wanted, seen):
                    return
                self._exchange(name, wanted)
                self._unsaved.add(name)
            self._refused.pop(name, None)
        except ComelError as error:
            self._refused[name] = Refusal(wanted, error.what, error.remedy), seen
            return
        if name in self._unsaved:
            with suppress(OSError, ComelError):  # on a full disk it is recorded at a later check
                self._choices.serve(name, wanted)
                self._unsaved.discard(name)

    def _begin(self, name: str) -> int:
        """Find the version that answers first, in a process that did not call :meth:`open`."""
        with self._changing:
            if name not in self._answering:
                if name not in self._refused:
                    self._look(name)
                if name not in self._answering:
                    refusal = self._refused[name][0]
                    raise NotReadyError(f"model '{name}' cannot be used: {refusal.what}", refusal.remedy)
            return self._answering[name]

    @contextmanager
    def _refusing(self, name: str, version: int | None) -> Iterator[None]:
        """Turn every failure from a version's files into one kind of error."""
        try:
            yield
        except ComelError:
            raise
        except (Exception, SystemExit) as error:
            which = "the run" if version is None else f"version {version}"
            raise RunError(
                f"{which} of model '{name}' cannot be opened ({type(error).__name__})", "restore it from a copy"
            ) from error

    def _exchange(
        self, name: str, version: int, *, before: Callable[[], None] = lambda: None, keep_refusal: bool = False
    ) -> None:
        """Load a version, try it, and make it answer; ``before`` is called just before that."""
        with self._changing:
            old = self._answering.get(name)
            with self._refusing(name, version):
                predictor = self._loaded.get((name, version)) or self._open(name, version)
                if old is not None and (difference := self.get(name, old).contract.difference(predictor.contract)):
                    raise RunError(
                        f"version {version} of model '{name}' needs bags made differently: {difference}",
                        "serve it as a separate model",
                    )
            before()
            with self._lock:
                self._answering[name] = version
            self._keep(name, version, predictor)
            if not keep_refusal:
                self._refused.pop(name, None)

    def _check(self, name: str, version: int) -> None:
        """Raise :class:`RunError` if a version's files are missing or damaged."""
        self._runs[name].verify(version)

    def _keep(self, name: str, version: int, predictor: PredictorLike) -> None:
        with self._lock:
            self._loaded[name, version] = predictor
            self._loaded.move_to_end((name, version))
            spare = [key for key in self._loaded if self._answering.get(key[0]) != key[1]]
            # A working process has no answering version: it keeps one of each model besides the spare ones.
            kept = SPARE_VERSIONS + len(self._runs) - len(self._answering)
            for key in spare[: max(0, len(spare) - kept)]:
                del self._loaded[key]

    def _wanted(self, name: str) -> int:
        pinned = self._choices.read(name).pinned
        # From the folder's name, not from its model.json, which may be what is damaged.
        return int(self._runs[name].version_folder().name) if pinned is None else pinned

    def _open(self, name: str, version: int) -> PredictorLike:
        """A version, loaded and tried on a bag of noise, so that the first request does not pay for it."""
        from comel.prediction.predictor import Predictor

        with self._refusing(name, version):
            predictor: PredictorLike = Predictor.open(
                self._runs[name].path, version=version, device=self._device, trust=self._settings.trust()
            )
        try:
            _try(predictor)
        except ComelError:
            raise
        except Exception as error:  # a damaged version fails here and not in a request
            raise RunError(
                f"version {version} of model '{name}' fails on a test bag ({type(error).__name__})", "train it again"
            ) from error
        return predictor

    def _stamp(self, name: str, version: int) -> Any:
        """A value that changes when a version is repaired."""
        folder = self._runs[name].path / "versions" / f"{version:03d}"
        try:
            files = sorted((path.name, path.stat()) for path in folder.iterdir())
        except OSError:
            return None
        return [(file, about.st_mtime_ns, about.st_size) for file, about in files]


def _try(predictor: PredictorLike) -> None:
    """Exercise a model as requests do: its properties, and predictions of noise, also as each of its tasks.

    Raises:
        ArithmeticError: a probability is not a number.
        Exception: any failure of a damaged version.
    """
    bag = _noise(predictor.contract)
    names = [str(task["name"]) for task in predictor.tasks]
    known = len(predictor.class_names)
    for task in (None, *names):
        probabilities = predictor.predict(bag, task=task).probabilities
        if probabilities is None or not np.isfinite(probabilities).all() or not known:
            raise ArithmeticError("no probabilities")


def _noise(contract: FeatureContract) -> Bag:
    random = np.random.default_rng(0)
    side = contract.tile_size or 256
    mpp = contract.mpp or 0.5
    place = np.arange(_WARM_UP_TILES)
    return Bag(
        "warm-up",
        random.standard_normal((_WARM_UP_TILES, contract.dimension)).astype(np.float32),
        np.stack([place % 8, place // 8], axis=1).astype(np.int64) * side,
        TileGeometry(side, mpp, mpp, mpp, mpp, 8 * side, 8 * side),
        contract,
    )
