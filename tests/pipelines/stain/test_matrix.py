"""Stain shifts: the same every time, another picture each, and never a word to the network."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pipelines.stain.matrix import restain
from pipelines.stain.staining import STAINS
from tests.places import ROOT


@pytest.fixture(scope="module")
def cells() -> np.ndarray:
    """Three pictures (3, 16, 16, 3): purple nuclei on pink, with noise."""
    generator = np.random.default_rng(0)
    pictures = np.full((3, 16, 16, 3), (225, 170, 200), float)
    pictures[:, 4:12, 4:12] = (110, 70, 150)
    return np.clip(pictures + generator.normal(0, 8, pictures.shape), 0, 255).astype(np.uint8)


def test_as_scanned_changes_nothing(cells: np.ndarray) -> None:
    np.testing.assert_array_equal(restain(cells, "as-scanned"), cells)


def test_every_other_stain_is_a_picture_of_its_own(cells: np.ndarray) -> None:
    pictures = {stain: restain(cells, stain) for stain in STAINS}
    for name, picture in pictures.items():
        assert picture.shape == cells.shape
        assert picture.dtype == np.uint8
        for other, another in pictures.items():
            if name != other:
                assert np.abs(picture.astype(int) - another).max() > 2, (name, other)


@pytest.mark.parametrize("stain", STAINS)
def test_the_same_picture_comes_out_alone_in_any_company_and_at_any_time(cells: np.ndarray, stain: str) -> None:
    before = cells.copy()
    together = restain(cells, stain)
    np.random.seed(1)
    np.testing.assert_array_equal(restain(cells, stain), together)
    np.testing.assert_array_equal(restain(cells[::-1], stain)[::-1], together)
    np.testing.assert_array_equal(np.concatenate([restain(cells[i : i + 1], stain) for i in range(3)]), together)
    np.testing.assert_array_equal(cells, before)


def test_no_pictures_and_no_such_stain(cells: np.ndarray) -> None:
    assert restain(cells[:0], "light").shape == (0, 16, 16, 3)
    with pytest.raises(ValueError, match="no stain 'h-heavy'; there are as-scanned, ruifrok"):
        restain(cells, "h-heavy")


def test_the_network_is_never_asked_whatever_the_environment_says() -> None:
    code = """
import socket
import numpy as np

def refuse(*arguments, **named):
    raise SystemExit("asked the network")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
from pipelines.stain.matrix import restain
print(restain(np.full((1, 8, 8, 3), 150, np.uint8), "light").shape)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=ROOT,
        env={"NO_ALBUMENTATIONS_UPDATE": "0", "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.strip() == "(1, 8, 8, 3)", done.stderr
    assert "network" not in done.stderr


def test_no_other_file_imports_albumentations() -> None:
    found = [
        str(path.relative_to(ROOT))
        for folder in ("comel", "pipelines", "service", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "import albumentations" in (text := path.read_text(encoding="utf-8")) or "from albumentations" in text
    ]
    assert found == ["pipelines/stain/matrix.py"]
