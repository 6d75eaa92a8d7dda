"""A service that listens, whose model calls dark tiles a tumour."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from comel.bags.bag import Bag
from comel.bags.contract import FeatureContract
from comel.prediction.prediction import Prediction
from pipelines.patch_encoders.base import PatchEncoder
from service.settings import ServiceSettings
from tests.service.in_process import app_with
from tests.service.viewer.known_slides import TILE, KnownSlide

CONTRACT = FeatureContract("darkness", "a" * 64, 8, 0.5, TILE)


class Darkness(PatchEncoder):
    """An encoder whose first feature is how dark a tile is, so that the tumour's tiles score highest."""

    name, dimension, weights_hash, recipe, input_size, device = "darkness", 8, "a" * 64, "darkness", TILE, "cpu"

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        features = np.zeros((len(tiles), 8), np.float32)
        features[:, 0] = 1 - tiles.mean(axis=(1, 2, 3)) / 255
        return features


class DarkIsTumour:
    """A tile's score is its first feature; also by class, the negative one the other way round."""

    run_id, version, mode, contract = "run-1", 4, "class-incremental", CONTRACT
    class_names = ("breast/normal", "breast/tumour")
    tasks: list[dict[str, Any]] = [{"name": "breast", "labels": ["normal", "tumour"], "negative": "normal"}]  # noqa: RUF012

    def predict(self, bag: Bag, *, task: str | None = None) -> Prediction:
        scores = np.clip(bag.features[:, 0], 0, 1).astype(np.float32)
        tumour = float(scores.max())
        return Prediction(
            slide_id=bag.slide_id,
            mode=self.mode,
            task="breast",
            label="tumour" if tumour >= 0.5 else "normal",
            classes=self.class_names,
            probabilities=np.array([1 - tumour, tumour]),
            instance_scores=scores,
            threshold=0.5,
            positive=tumour >= 0.5,
            coords=bag.coords,
            geometry=bag.geometry,
            model={"run": self.run_id, "version": self.version},
            class_scores=np.rint(np.stack([1 - scores, scores], axis=1) * 255).astype(np.uint8),
        )


@dataclass
class Server:
    """A running service."""

    url: str
    settings: ServiceSettings
    slides: Mapping[str, KnownSlide]

    def predicted(self, name: str) -> str:
        """The id of a prediction of one of the slides, made now."""
        with httpx.Client(base_url=self.url, timeout=600) as client:
            job = client.post("/v1/predictions", json={"slide": self.slides[name].path.name}).json()
            for _ in range(600):
                state = client.get(f"/v1/jobs/{job['id']}").json()
                if state["state"] not in ("queued", "running"):
                    assert state["state"] == "done", state
                    return str(state["prediction"])
                time.sleep(0.1)
        raise AssertionError("the job does not end")


@contextmanager
def listening(folder: Path, slides: Mapping[str, KnownSlide]) -> Iterator[Server]:
    """A service on a free port, with its state in ``folder``."""
    import uvicorn

    settings = ServiceSettings(
        runs={"breast": folder / "run"}, slide_roots=(slides["plain"].path.parent,), state_dir=folder / "state"
    )
    here = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app_with(settings, DarkIsTumour()), log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [here]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + 600
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.started
    try:
        yield Server(f"http://127.0.0.1:{here.getsockname()[1]}", settings, slides)
    finally:
        server.should_exit = True
        thread.join(600)
