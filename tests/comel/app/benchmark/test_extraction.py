"""``comel bench extract`` as a user types it. Which way is faster is measured, not asserted."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from comel.app.benchmark import extraction as speed
from comel.app.cli import app
from comel.errors import ConfigError
from tests.pipelines.small_slides import tissue_picture, write_slide
from tests.pipelines.vendor_slides import write_dicom

ENCODER = """
import numpy as np

class Means:
    name, dimension, weights_hash = "means", 3, "0" * 64

    def __init__(self, device):
        print("an encoder that greets")

    def encode(self, tiles):
        print("and talks")
        return tiles.mean(axis=(1, 2)).astype(np.float32)
"""


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    """1600 x 1200 px at 0.5 um/px: one piece of tissue of 1024 x 768 px at (256, 256)."""
    return write_slide(tmp_path / "slide.tif", tissue_picture(1600, 1200, (256, 256, 1280, 1024)), levels=3)


@pytest.fixture
def own_encoder(tmp_path: Path) -> str:
    (tmp_path / "means.py").write_text(ENCODER)
    return f"{tmp_path / 'means.py'}:Means"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["bench", "extract", "--repeats", "1", "--workers", "1", *arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_table_for_a_slide_and_json_for_a_synthetic_one(slide_path: Path, own_encoder: str) -> None:
    table = run(str(slide_path), "--encoder", own_encoder, "--device", "cpu", "--quiet")
    assert "\n12 tiles, 1 workers," in table
    for way in ("null encoder", "with encoder", "encoder alone", "DataLoader", "whole batches", "DataLoader with encoder"):
        assert f"| {way} |" in table
    assert "| pixels decoded / unique | 1.00 | <= 1.1 | yes |" in table
    assert "| with encoder, over | speed-up | from | to |" in table
    result = json.loads(run("--size", "512", "--encoder", own_encoder, "--device", "cpu", "--json"))
    assert result["tiles"] > 0
    assert result["pixels"]["direct"]
    assert all(speed > 0 for speed in result["tiles_per_second"].values())
    assert [gain["over"] for gain in result["speed_ups"]] == ["whole batches", "DataLoader with encoder"]
    assert all(0 < gain["least"] <= gain["median"] <= gain["most"] for gain in result["speed_ups"])
    assert [set(target) - {"at_most", "at_least"} for target in result["targets"]] == [{"name", "value", "holds"}] * 3


def test_whatever_an_extraction_reads_is_measured(tmp_path: Path, own_encoder: str) -> None:
    """A picture that OpenSlide does not open, and the folder of a DICOM slide, in one call."""
    pixels = tissue_picture(768, 512, (0, 0, 768, 512))
    Image.fromarray(pixels).save(tmp_path / "s.png")
    write_dicom(tmp_path / "series", [pixels], (0.5, 0.5))
    sources = (str(tmp_path / "s.png"), str(tmp_path / "series"))
    result = json.loads(run(*sources, "--assume-mpp", "0.5", "--encoder", own_encoder, "--device", "cpu", "--json"))
    assert (result["slides"], result["tiles"]) == (2, 12)
    assert all(speed > 0 for speed in result["tiles_per_second"].values())


class Stuck:
    """A map-style dataset whose worker never gives a tile."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> np.ndarray:
        time.sleep(600)
        return np.zeros(3)


@pytest.mark.slow
def test_processes_that_are_stuck_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_Tiles", lambda slides, plans: Stuck())
    monkeypatch.setattr(speed, "_MOST_SECONDS_A_BATCH", 8)
    with pytest.raises(ConfigError, match="the DataLoader stopped") as caught:
        speed._load_all(speed._loader([], [], 1, 1))
    assert "\n" not in str(caught.value)


def test_slides_without_tissue_are_refused_in_one_line(tmp_path: Path, own_encoder: str) -> None:
    glass = write_slide(tmp_path / "glass.tif", tissue_picture(700, 700))
    done = CliRunner().invoke(app, ["bench", "extract", str(glass), "--encoder", own_encoder, "--device", "cpu"])
    assert done.exit_code != 0
    assert "no slide has a tile with tissue" in str(done.exception) + done.output
