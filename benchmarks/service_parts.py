"""What the benchmarks of the service share: a run to serve, a bag to send, and ``comel serve`` as a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

import comel
from comel.app.benchmark.features import FeatureSettings, make_features
from comel.bags.bag import Bag, TileGeometry, write_bag
from comel.bags.contract import FeatureContract

__all__ = ["a_run", "boundary_body", "serving", "write_a_bag"]

BOUNDARY = "comel-benchmark"


def a_run(folder: Path, dimension: int) -> Path:
    """A run of CoMEL's default size over two organs; how well it has learned plays no part here."""
    run = folder / "run"
    if not (run / "current").exists():
        settings = FeatureSettings(tasks=2, dimension=dimension, train=4, val=4, test=2, tiles=(20, 40))
        manifest = make_features(folder / "stream", settings)
        data = {"manifest": manifest, "bags": manifest.parent / "bags"}
        comel.train({"data": data, "trainer": {"epochs": 1, "device": "cpu"}}, run, quiet=True)
    return run


def write_a_bag(path: Path, instances: int, dimension: int) -> Path:
    """A bag of noise that the run takes."""
    contract = FeatureContract(f"synthetic-{dimension}", None, dimension, 0.5, 256)
    side = int(np.ceil(np.sqrt(instances)))
    place = np.arange(instances)
    coords = np.stack([place % side, place // side], axis=1).astype(np.int64) * 256
    geometry = TileGeometry(256, 0.5, 0.5, 0.5, 0.5, side * 256, side * 256)
    features = np.random.default_rng(0).standard_normal((instances, dimension), dtype=np.float32)
    write_bag(path, Bag(path.stem, features, coords, geometry, contract))
    return path


def boundary_body(bag: Path) -> bytes:
    """The multipart body of POST /v1/predictions."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="bag"; filename="{bag.name}"\r\n\r\n'
    return head.encode() + bag.read_bytes() + f"\r\n--{BOUNDARY}--\r\n".encode()


@contextmanager
def serving(run: Path, state: Path, port: int, **settings: object) -> Iterator[subprocess.Popen[bytes]]:
    """``comel serve`` on loopback without keys, as a process of its own."""
    environment = os.environ | {f"COMEL_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "comel.app.cli", "serve", "--model", f"model={run}", "--state", str(state)]
    with open(state.with_suffix(".log"), "wb") as log:
        process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu"], env=environment, stderr=log)
        try:
            _wait_until_ready(process, port)
            yield process
        finally:
            process.terminate()
            process.wait(120)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"comel serve ended with code {process.returncode}")
        try:
            with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
                json.load(answer)
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("comel serve did not get ready in two minutes")
