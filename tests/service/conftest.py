"""A service with a model that is quick and known: a tile's score is its first feature."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from comel.bags.bag import Bag, TileGeometry
from comel.bags.contract import FeatureContract
from comel.errors import ComelError, FeatureMismatch
from comel.prediction.prediction import Prediction
from service.access.rate import RateLimiter
from service.settings import ServiceSettings
from tests.service.answers import bag_bytes
from tests.service.in_process import app_with

CONTRACT = FeatureContract("fake-encoder", "a" * 64, 8, 0.5, 64)


class FakePredictor:
    """Positive where a tile's first feature reaches the threshold. Counts how many calls overlap."""

    run_id, version, mode = "run-1", 4, "class-incremental"
    class_names = ("breast/normal", "breast/tumour")
    tasks: list[dict[str, Any]] = [{"name": "breast", "labels": ["normal", "tumour"], "negative": "normal"}]  # noqa: RUF012

    def __init__(self, contract: FeatureContract = CONTRACT, delay: float = 0.0) -> None:
        self.contract, self.delay = contract, delay
        self.running = self.overlapping = 0
        self.started, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def predict(self, bag: Bag, *, task: str | None = None) -> Prediction:
        if difference := self.contract.difference(bag.contract):
            raise FeatureMismatch(f"{bag.slide_id}: {difference}", "extract the slide again")
        if task not in (None, "breast"):
            raise ComelError(f"no task {task!r}", "the tasks are: breast")
        self.running += 1
        self.overlapping = max(self.overlapping, self.running)
        self.started.set()
        time.sleep(self.delay)
        assert self.go_on.wait(600)
        self.running -= 1
        model = {"run": self.run_id, "version": self.version}
        if not len(bag):
            return Prediction.nothing(
                bag.slide_id, mode=self.mode, classes=self.class_names, threshold=0.5, model=model, geometry=bag.geometry
            )
        scores = np.clip(bag.features[:, 0].astype(np.float32), 0, 1)
        tumour = float(scores.max())
        return Prediction(
            slide_id=bag.slide_id,
            mode="task-incremental" if task else self.mode,
            task="breast",
            label="tumour" if tumour >= 0.5 else "normal",
            classes=self.class_names,
            probabilities=np.array([1 - tumour, tumour]),
            instance_scores=scores,
            threshold=0.5,
            positive=tumour >= 0.5,
            coords=bag.coords,
            geometry=bag.geometry,
            model=model,
        )


def a_bag(scores: Any, *, slide_id: str = "slide-1", contract: FeatureContract = CONTRACT, columns: int = 20) -> Bag:
    """Tiles in rows of ``columns`` whose first feature is their score."""
    scores = np.asarray(scores, np.float32).reshape(-1)
    features = np.zeros((len(scores), contract.dimension), np.float32)
    features[:, 0] = scores
    index = np.arange(len(scores))
    coords = np.stack([index % columns, index // columns], axis=1) * 128
    size = (columns * 128 + 300, int(coords.max(initial=0)) + 400)
    geometry = TileGeometry(64, 0.5, 0.5, 0.25, 0.25, *size, bounds_x=64, bounds_y=32, has_bounds=True)
    return Bag(slide_id, features, coords, geometry, contract)


@pytest.fixture
def make_bag() -> Callable[..., Bag]:
    return a_bag


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    slides = tmp_path / "slides"
    slides.mkdir()
    return ServiceSettings(
        runs={"breast": tmp_path / "run"}, slide_roots=(slides,), state_dir=tmp_path / "state", max_instances=50_000
    )


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def no_refill(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a key may ask in a minute is not given back, however long a test takes."""
    defaults = RateLimiter.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "clock", lambda: 0.0)


@pytest.fixture
def client(settings: ServiceSettings, predictor: FakePredictor) -> Iterator[TestClient]:
    with TestClient(app_with(settings, predictor)) as opened:
        yield opened


@pytest.fixture
def send(client: TestClient, tmp_path: Path) -> Callable[..., Any]:
    """Send a bag, or bytes in its place; other arguments are form fields."""

    def post(bag: Bag | bytes, *, name: str = "slide-1.h5", **form: str) -> Any:
        content = bag if isinstance(bag, bytes) else bag_bytes(tmp_path, bag)
        return client.post("/v1/predictions", files={"bag": (name, content)}, data=form)

    return post
