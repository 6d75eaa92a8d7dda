from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipelines.slides.slide import Slide
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_slide
from tests.places import REAL_DATA

REAL_SLIDES = REAL_DATA / "wsi"


@pytest.fixture
def encoder() -> MeanColour:
    return MeanColour()


@pytest.fixture
def read_pixels(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pixels each reading of a slide takes."""
    sizes: list[int] = []
    read = Slide.read_region

    def recorded(slide: Slide, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        sizes.append(size[0] * size[1])
        return read(slide, location, level, size)

    monkeypatch.setattr(Slide, "read_region", recorded)
    return sizes


@pytest.fixture
def slide_path(tmp_path: Path) -> Path:
    """1600 x 1200 px at 0.5 um/px: one piece of tissue of 1024 x 768 px at (256, 256)."""
    return write_slide(tmp_path / "slide.tif", tissue_picture(1600, 1200, (256, 256, 1280, 1024)), levels=3)


@pytest.fixture
def real_slide() -> Callable[[str], Path]:
    """A real slide by its file name; skips where the data folder is not there."""

    def find(name: str) -> Path:
        if not (REAL_SLIDES / name).is_file():
            pytest.skip(f"the real slide {name} is not in ../shared/data/wsi")
        return REAL_SLIDES / name

    return find
