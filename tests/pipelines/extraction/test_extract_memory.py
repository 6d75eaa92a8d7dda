from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pipelines.small_slides import MeanColour, tissue_picture, write_slide
from tests.places import ROOT

sys.path.insert(0, str(ROOT))

from benchmarks.extract_memory import extract_again


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_the_slides(tmp_path: Path, encoder: MeanColour) -> None:
    """A slide kept open would keep its stored tiles or OpenSlide's cache: 3 MiB of pixels each here, 60 MiB in all."""
    slide = write_slide(tmp_path / "slide.tif", tissue_picture(1024, 1024, (0, 0, 1024, 1024)))
    sizes = extract_again(slide, tmp_path, 25, encoder, quiet=True)
    assert sizes[-1] - sizes[4] < 30 << 20
