"""Cohorts of slides that take a moment each, an encoder with traps, and a script that extracts one: for tests that kill it."""

from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.bag import Bag, read_bag
from comel.cohort.manifest import read_manifest
from pipelines.batch.pool import LocalPool
from pipelines.batch.run import CohortReport, CohortRun
from pipelines.extraction.settings import ExtractSettings
from tests.pipelines.in_process import Given
from tests.pipelines.small_slides import GLASS, MeanColour, write_manifest, write_slide
from tests.places import ROOT

SETTINGS = ExtractSettings(target_mpp=1.0, tile_size=64, batch_size=2)
EATS, HANGS, CRASHES, STAIN = (150, 0, 140), (150, 28, 140), (150, 55, 140), (170, 85, 160)


class Trapped(MeanColour):
    """An encoder that sleeps at every batch, and on colours of tissue eats memory, hangs or takes its process down. With
    ``until`` it ends no batch before that file exists."""

    def __init__(self, pause: float = 0.0, until: Path | None = None) -> None:
        super().__init__()
        self._pause, self._until = pause, until

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        time.sleep(self._pause)
        green = tiles[..., 1].mean(axis=(1, 2)).min()
        if green < sum((EATS[1], HANGS[1])) / 2:
            eaten: list[np.ndarray] = []
            while len(eaten) < 64:  # 2 GiB, where nobody stops it
                eaten.append(np.ones(4 << 20))
                time.sleep(0.02)
        elif green < sum((HANGS[1], CRASHES[1])) / 2:
            time.sleep(600)
        elif green < sum((CRASHES[1], STAIN[1])) / 2:
            ctypes.string_at(0)
        while self._until is not None and not self._until.exists():
            time.sleep(0.02)
        return super().encode(tiles)


def draw_slide(path: Path, number: int = 0, stain: tuple[int, int, int] = STAIN) -> Path:
    """A slide of 640 x 640 px with tissue in a place of its own: about a dozen tiles."""
    pixels = np.full((640, 640, 3), GLASS, np.uint8)
    left, top = 64 * (number % 3), 64 * (number // 3 % 3)
    noise = np.random.default_rng(number).integers(-12, 13, (512, 512, 1))
    pixels[top : top + 512, left : left + 512] = np.clip(np.array(stain) + noise, 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_slide(path, pixels)


def write_cohort(folder: Path, count: int, **stains: tuple[int, int, int]) -> Path:
    """A manifest of ``count`` slides s00, s01, ..., and of one slide of each further stain, which come first."""
    slides = {name: draw_slide(folder / "slides" / f"{name}.tif", stain=stain) for name, stain in stains.items()}
    for number in range(count):
        slides[f"s{number:02}"] = draw_slide(folder / "slides" / f"s{number:02}.tif", number)
    return write_manifest(folder / "cohort.csv", slides)


def extract(manifest: Path, out: Path, *, workers: int = 1, pause: float = 0.0, **options: Any) -> CohortReport:
    """Extract in child processes, which have the encoder from here and need not import torch."""
    rows = read_manifest(manifest).rows
    return CohortRun(rows, out, SETTINGS, LocalPool(workers), encoder_loader=Given(Trapped(pause)), **options).run()


def main() -> None:
    """``extract`` for :func:`start`; prints the report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("options", type=json.loads)
    arguments = parser.parse_args()
    sys.stdout.write(json.dumps(dataclasses.asdict(extract(arguments.manifest, arguments.out, **arguments.options))))


def start(
    manifest: Path, out: Path, *, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None, **options: Any
) -> subprocess.Popen[str]:
    """``extract`` in a process group of its own."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "pipelines"), str(Path(__file__).parent)])
    command = [*prefix, sys.executable, "-c", "from small_cohort import main; main()"]
    return subprocess.Popen(
        [*command, str(manifest), str(out), json.dumps(options)],
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(condition: Any, seconds: float = 600.0) -> None:
    """Until it holds; fails after a time that no machine needs."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)


def bags(out: Path) -> dict[str, Bag]:
    """Every bag under its final name, read whole and checked."""
    return {path.stem: read_bag(path, verify=True) for path in sorted(out.glob("[!.]*.h5"))}


def assert_same(found: Mapping[str, Bag], expected: Mapping[str, Bag]) -> None:
    """The same slides with the same features and coordinates, bit for bit."""
    assert list(found) == list(expected)
    for name, bag in found.items():
        assert bag.features.tobytes() == expected[name].features.tobytes(), name
        np.testing.assert_array_equal(bag.coords, expected[name].coords, err_msg=name)
        assert bag.settings == expected[name].settings, name


def leftovers(out: Path) -> list[Path]:
    """What a run should not leave: temporary files, claims, signs of life."""
    state = out / ".extract"
    return [
        *out.rglob(".partial-*"),
        *(state / "claims").iterdir(),
        *(state / "workers").iterdir(),
        *(state / "runs").iterdir(),
    ]
