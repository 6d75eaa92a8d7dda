"""Slides of several makers through the one reader: pixels, levels, and the true micrometres per pixel in x and y."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest

from comel.bags.bag import read_bag
from comel.errors import SlideError
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_manifest, write_slide
from tests.pipelines.vendor_slides import (
    levels_of,
    write_aperio,
    write_dicom,
    write_hamamatsu,
    write_leica,
    write_mirax,
    write_philips,
    write_ventana,
)
from tests.places import ROOT

PIXELS = tissue_picture(1024, 768, (128, 128, 896, 640))
WRITERS: dict[str, tuple[Callable[[Path], Path], tuple[float, float]]] = {
    "aperio": (lambda folder: write_aperio(folder / "s.svs", PIXELS), (0.25, 0.25)),
    "hamamatsu": (lambda folder: write_hamamatsu(folder / "s.ndpi", PIXELS), (0.25, 0.25)),
    "mirax": (lambda folder: write_mirax(folder / "s.mrxs", PIXELS, (0.25, 0.3)), (0.25, 0.3)),
    "ventana": (lambda folder: write_ventana(folder / "s.bif", PIXELS, 0.46), (0.46, 0.46)),
    "philips": (lambda folder: write_philips(folder / "s.tiff", PIXELS, (0.25, 0.3)), (0.25, 0.3)),
    "leica": (lambda folder: write_leica(folder / "s.scn", PIXELS), (0.5, 0.5)),
    "dicom": (lambda folder: write_dicom(folder / "s", levels_of(PIXELS), (0.25, 0.5))[1], (0.25, 0.5)),
    "generic-tiff": (lambda folder: write_slide(folder / "s.tif", PIXELS, mpp=(0.25, 0.5), levels=2), (0.25, 0.5)),
}


@pytest.fixture(params=WRITERS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, tuple[float, float]]:
    """Maker, file, and its micrometres per pixel."""
    write, mpp = WRITERS[request.param]
    return request.param, write(tmp_path), mpp


def test_pixels_levels_and_resolution(made: tuple[str, Path, tuple[float, float]]) -> None:
    vendor, path, mpp = made
    assert openslide.OpenSlide.detect_format(path) == vendor
    with open_slide(path, assume_mpp=3.0) as slide:
        assert (slide.mpp_x, slide.mpp_y) == pytest.approx(mpp, rel=1e-4)
        assert slide.mpp_source == "slide"
        left, top = slide.bounds[:2] if slide.bounds else (0, 0)
        for level, expected in enumerate(levels_of(PIXELS)):
            assert slide.level_downsamples[level] == pytest.approx(2**level)
            size = (expected.shape[1], expected.shape[0])
            pixels = np.asarray(slide.read_region((left, top), level, size))
            assert np.abs(pixels.astype(int) - expected).mean() < 2  # JPEG
    with open_slide(path, mpp=0.4) as slide:
        assert (slide.mpp_x, slide.mpp_y, slide.mpp_source) == (0.4, 0.4, "manifest")


def test_every_maker_gives_the_same_bag(
    made: tuple[str, Path, tuple[float, float]], tmp_path: Path, encoder: MeanColour
) -> None:
    """Through a whole extraction: the same tiles of the same colours, wherever the maker puts the picture on the slide."""
    vendor, path, _ = made
    how = ExtractSettings(target_mpp=0.5, tile_size=128)
    bag = extract_slide(path, slide_id="s", encoder=encoder, settings=how, mpp=0.5).bag
    assert bag.geometry is not None
    assert bag.coords is not None
    expected = extract_slide(write_slide(tmp_path / "same.tif", PIXELS), slide_id="s", encoder=encoder, settings=how).bag
    if vendor == "leica":  # its grid begins at the slide's corner, and the picture lies elsewhere
        assert abs(len(bag) - len(expected)) < 12
        assert (bag.geometry.bounds_x, bag.geometry.bounds_y, bag.geometry.has_bounds) == (2000, 1000, True)
        inside = bag.coords - (bag.geometry.bounds_x, bag.geometry.bounds_y)
        assert ((inside > -128) & (inside < (1024, 768))).all()
        return
    np.testing.assert_array_equal(bag.coords, expected.coords)
    assert np.abs(bag.features.astype(float) - expected.features).max() < 0.02  # JPEG


def test_tiles_measure_the_same_on_oblong_pixels(tmp_path: Path, encoder: MeanColour) -> None:
    """A tile of 64 px at 1 um/px is 64 um wide and high: 256 x 128 px of a slide of 0.25 x 0.5 um/px."""
    [path, _] = write_dicom(tmp_path / "s", levels_of(PIXELS), (0.25, 0.5))
    how = ExtractSettings(target_mpp=1.0, tile_size=64, min_tissue=1.0)
    geometry = (bag := extract_slide(path, slide_id="s", encoder=encoder, settings=how).bag).geometry
    assert geometry is not None
    assert (geometry.tile_width, geometry.tile_height) == (256.0, 128.0)
    assert bag.coords is not None
    assert sorted(set(bag.coords[:, 0])) == [256, 512]
    assert sorted(set(bag.coords[:, 1])) == [128, 256, 384, 512]


def test_bounds_of_a_slide_that_states_them(tmp_path: Path) -> None:
    with open_slide(write_leica(tmp_path / "s.scn", PIXELS, (2000, 1000))) as slide:
        assert slide.bounds == (2000, 1000, 1024, 768)
        assert slide.dimensions == (6000, 3000)


def test_objective_power_is_never_taken_for_a_resolution(tmp_path: Path) -> None:
    path = write_aperio(tmp_path / "s.svs", PIXELS, mpp=None, power=40)
    with openslide.OpenSlide(path) as handle:
        assert handle.properties["openslide.objective-power"] == "40"
    with pytest.raises(SlideError, match="no micrometres per pixel") as caught:
        open_slide(path)
    assert caught.value.stage == "mpp"


def test_no_word_of_a_label_or_a_patient_leaves_a_slide(
    tmp_path: Path, encoder: MeanColour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Aperio slide with a label and a DICOM slide with a patient's name through a whole extraction."""

    def seen(_: object) -> None:
        pytest.fail("the label image was read")

    slides = {"a": write_aperio(tmp_path / "a.svs", PIXELS), "d": tmp_path / "d"}
    write_dicom(tmp_path / "d", levels_of(PIXELS), (0.5, 0.5))
    with openslide.OpenSlide(slides["a"]) as handle:
        assert "label" in handle.associated_images
    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(seen))
    manifest = write_manifest(tmp_path / "m.csv", slides)
    report = extract_cohort(manifest, tmp_path / "out", ExtractSettings(target_mpp=1.0, tile_size=64), encoder=encoder)
    assert report.done == 2
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    own = {path.name for path in files if ".extract" not in path.parts}
    assert own == {"a.h5", "d.h5", "a.png", "d.png", "extract.json", "failures.csv"}
    assert not any(b"a-patient-by-name" in path.read_bytes() for path in files)


def test_no_code_reads_associated_images() -> None:
    root = ROOT
    for folder in ("comel", "pipelines", "service", "benchmarks"):
        for path in (root / folder).rglob("*.py"):
            assert "associated_images" not in path.read_text(encoding="utf-8"), path


def test_a_dicom_folder_gives_the_bag_of_its_file(tmp_path: Path, encoder: MeanColour) -> None:
    [path, _] = write_dicom(tmp_path / "d", levels_of(PIXELS), (0.5, 0.5))
    manifest = write_manifest(tmp_path / "m.csv", {"folder": tmp_path / "d", "file": path})
    report = extract_cohort(manifest, tmp_path / "out", ExtractSettings(target_mpp=0.5, tile_size=128), encoder=encoder)
    assert report.failed == 0
    bags = [read_bag(tmp_path / "out" / f"{name}.h5") for name in ("folder", "file")]
    np.testing.assert_array_equal(bags[0].features, bags[1].features)
    np.testing.assert_array_equal(bags[0].coords, bags[1].coords)
    assert len(bags[0]) > 10


def test_a_damaged_level_of_a_dicom_series_is_one_error(tmp_path: Path, encoder: MeanColour) -> None:
    [path, _] = write_dicom(tmp_path / "d", levels_of(PIXELS), (0.5, 0.5))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    with pytest.raises(SlideError) as caught:
        extract_slide(path, slide_id="d", encoder=encoder, settings=ExtractSettings(target_mpp=0.5, tile_size=128))
    assert "level-0.dcm" in str(caught.value)
    assert "\n" not in str(caught.value)
