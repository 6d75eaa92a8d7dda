from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image, ImageCms

from comel.bags.bag import TileGeometry
from comel.errors import SlideError
from comel.prediction.picture import draw_map
from comel.prediction.prediction import Prediction
from pipelines.annotations import read_annotation
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.slide import open_slide
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_manifest, write_slide
from tests.pipelines.vendor_slides import write_dicom, write_mirax

GEOMETRY = TileGeometry(100, 0.5, 0.5, 0.5, 0.5, level0_width=1000, level0_height=800)


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Makes a file one that may not be read, also to root, whom no permissions stop."""

    readable = open

    def lock(path: Path) -> None:
        def refuse(file: Any, *arguments: Any, **named: Any) -> Any:
            if not isinstance(file, int) and Path(file) == path:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return readable(file, *arguments, **named)

        path.chmod(0)
        monkeypatch.setattr("builtins.open", refuse)

    return lock


def test_own_mpp_and_levels(slide_path: Path) -> None:
    with open_slide(slide_path, assume_mpp=3.0) as slide:
        assert slide.dimensions == (1600, 1200)
        assert len(slide.level_dimensions) == 3
        assert slide.mpp_source == "slide"
        assert slide.mpp_x == pytest.approx(0.5, rel=1e-4)
        assert slide.bounds is None


def test_slide_without_mpp_needs_an_assumption(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "bare.tif", tissue_picture(300, 300), mpp=None)
    with pytest.raises(SlideError, match=r"'mpp'.*--assume-mpp") as caught:
        open_slide(path)
    assert caught.value.stage == "mpp"
    with open_slide(path, assume_mpp=0.25) as slide:
        assert (slide.mpp_x, slide.mpp_y, slide.mpp_source) == (0.25, 0.25, "assumed")
    with open_slide(path, assume_mpp=0.25, mpp=0.5) as slide:
        assert (slide.mpp_x, slide.mpp_source) == (0.5, "manifest")


def test_screen_resolution_is_no_mpp(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "screen.tif", tissue_picture(300, 300), mpp=25_400 / 96, unit="INCH")
    for assume in (None, 0.5):
        with pytest.raises(SlideError, match="264") as caught:
            open_slide(path, assume_mpp=assume)
        assert caught.value.stage == "mpp"
        assert "column 'mpp'" in caught.value.remedy
    with open_slide(path, mpp=0.5) as slide:
        assert slide.mpp_x == slide.mpp_y == 0.5


@pytest.mark.parametrize("value", [0.0, -1.0, 264.0, float("nan")])
def test_absurd_override_is_refused(slide_path: Path, value: float) -> None:
    with pytest.raises(SlideError, match=r"the manifest states .* um/px, .*; correct the manifest column 'mpp' \(.*: --mpp\)"):
        open_slide(slide_path, mpp=value)


def test_x_and_y_are_kept_apart(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "oblong.tif", tissue_picture(300, 300), mpp=(0.25, 0.5))
    with open_slide(path) as slide:
        assert (slide.mpp_x, slide.mpp_y) == pytest.approx((0.25, 0.5), rel=1e-4)


def test_unusable_files_say_so_in_one_line(tmp_path: Path, slide_path: Path) -> None:
    (tmp_path / "empty.svs").touch()
    (tmp_path / "text.svs").write_text("not a slide")
    cases = {"missing.svs": "no such file", "empty.svs": "empty", "text.svs": "not a slide", ".": "folder"}
    for name, message in cases.items():
        with pytest.raises(SlideError, match=message) as caught:
            open_slide(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert caught.value.remedy
    # Of a slide cut off in copying nothing tells what it was.
    (tmp_path / "cut.svs").write_bytes(slide_path.read_bytes()[:4096])
    for name in ("text.svs", "cut.svs"):
        with pytest.raises(SlideError, match="copy it again; if that does not help, convert it") as caught:
            open_slide(tmp_path / name)


def test_a_name_that_no_file_system_takes(tmp_path: Path) -> None:
    for opened in (open_slide, lambda path: read_annotation(path, GEOMETRY)):
        with pytest.raises(SlideError, match=r"cannot be read \(File name too long\); check its path"):
            opened(tmp_path / f"{'x' * 300}.xml")


@pytest.mark.parametrize("kind", ["svs", "tif", "png", "mrxs", "dicom"])
def test_slides_that_may_not_be_read_say_so(tmp_path: Path, kind: str, locked: Callable[[Path], None]) -> None:
    pixels = tissue_picture(512, 512, (100, 100, 400, 400))
    path = part = tmp_path / f"s.{kind}"
    if kind == "dicom":
        path, part = tmp_path / "series", write_dicom(tmp_path / "series", [pixels], (0.5, 0.5))[0]
    elif kind == "mrxs":
        path = write_mirax(path, pixels)
        part = next(path.with_suffix("").glob("*.dat"))
    elif kind == "png":
        Image.fromarray(pixels).save(path)
    else:
        write_slide(path, pixels)
    open_slide(path, mpp=0.5)
    locked(part)
    with pytest.raises(SlideError, match=r"cannot be read \(Permission denied.*check its permissions") as caught:
        open_slide(path, mpp=0.5)
    assert caught.value.stage == "open"
    assert path == part or str(part) in caught.value.what


@pytest.mark.parametrize("suffix", [".geojson", ".xml", ".png", ".tif"])
def test_annotations_that_may_not_be_read_say_so(tmp_path: Path, suffix: str, locked: Callable[[Path], None]) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    locked(path)
    with pytest.raises(SlideError, match=r"cannot be read \(Permission denied\); check its permissions") as caught:
        read_annotation(path, GEOMETRY)
    assert caught.value.stage == "annotation"


def test_truncated_slide_fails_by_name(tmp_path: Path, slide_path: Path) -> None:
    whole = slide_path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        cut = tmp_path / "cut.tif"
        cut.write_bytes(whole[: int(len(whole) * share)])

        def read(path: Path = cut) -> None:
            with open_slide(path, mpp=0.5) as slide:
                for level, size in enumerate(slide.level_dimensions):
                    slide.read_region((0, 0), level, size)

        with pytest.raises(SlideError, match=r"cut\.tif"):
            read()


def test_dead_handle_is_replaced(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_slide(slide_path) as slide:
        expected = np.asarray(slide.read_region((300, 300), 0, (64, 64)))
        dead = slide._handle

        def fail(*_: object) -> None:
            raise openslide.OpenSlideError("bad tile")

        monkeypatch.setattr(dead, "read_region", fail)
        assert np.array_equal(np.asarray(slide.read_region((300, 300), 0, (64, 64))), expected)
        assert slide._handle is not dead


def test_transparent_is_white(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        outside = np.asarray(slide.read_region((1500, 1100), 0, (400, 400)))
    assert (outside[200:, 200:] == 255).all()


def test_area_is_exact_on_a_gradient(tmp_path: Path) -> None:
    ramp = np.repeat(np.linspace(0, 255, 512)[None, :, None], 512, axis=0).repeat(3, axis=2).round().astype(np.uint8)
    with open_slide(write_slide(tmp_path / "ramp.tif", ramp)) as slide:
        for left, width, size in ((10.0, 200.0, 200), (10.3, 333.7, 128), (100.25, 50.5, 64)):
            area = np.asarray(slide.read_area(0, (left, 20.0, left + width, 20.0 + width), (size, size)), float)
            centres = left + (np.arange(size) + 0.5) * width / size
            assert np.abs(area[:, :, 0] - (centres - 0.5) * 255 / 511).max() < 1.0


def test_thumbnail_in_strips_equals_one_piece(tmp_path: Path, read_pixels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (1500, 1000, 3), dtype=np.uint8)
    path = write_slide(tmp_path / "single.tif", pixels)
    with open_slide(path) as slide:
        whole = np.asarray(slide.thumbnail(300), int)
        assert read_pixels == [1500 * 1000]
        monkeypatch.setattr("pipelines.slides.scanned._PIECE_PIXELS", 20_000)
        strips = np.asarray(slide.thumbnail(300), int)
    assert whole.shape == (300, 200, 3)
    assert np.abs(whole - strips).max() <= 1
    assert len(read_pixels) > 50
    # A margin of two pixels above and below goes with each strip.
    assert max(read_pixels[1:]) <= 20_000 + 4 * 1000


def test_thumbnail_enlarges_nothing_and_carries_no_profile(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        thumbnail = slide.thumbnail(5000)
    assert thumbnail.size == (1600, 1200)
    assert "icc_profile" not in thumbnail.info


@pytest.fixture
def profiled_slide(tmp_path: Path) -> Path:
    """A slide with a colour profile, which OpenSlide hands to every region it reads."""
    path = tmp_path / "profiled.tif"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = tissue_picture(512, 512, (64, 64, 448, 448))
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(pixels, tile=(256, 256), photometric="rgb", iccprofile=profile, metadata=None)
    with openslide.OpenSlide(path) as handle:
        assert "icc_profile" in handle.read_region((0, 0), 0, (8, 8)).info
    return path


def chunks_of(png: bytes) -> list[bytes]:
    """The names of a PNG's chunks."""
    names, place = [], 8
    while place < len(png):
        names.append(png[place + 4 : place + 8])
        place += 12 + int.from_bytes(png[place : place + 4], "big")
    return names


def test_no_picture_of_a_slide_carries_its_colour_profile(profiled_slide: Path, tmp_path: Path, encoder: MeanColour) -> None:
    with open_slide(profiled_slide, mpp=0.5) as slide:
        pictures = {
            "inside": slide.read_region((0, 0), 0, (64, 64)),
            "border": slide.read_region((500, 500), 0, (64, 64)),
            "resized": slide.read_area(0, (0.0, 0.0, 200.0, 200.0), (64, 64)),
            "thumbnail": slide.thumbnail(100),
        }
    assert "icc_profile" not in pictures["thumbnail"].info
    settings = ExtractSettings(target_mpp=0.5, tile_size=128)
    extracted = extract_slide(profiled_slide, slide_id="s", encoder=encoder, settings=settings, mpp=0.5)
    pictures["overlay"] = extracted.overlay
    bag = extracted.bag
    scores = np.linspace(0, 1, len(bag)).astype(np.float32)
    classes, probabilities = ("organ/a", "organ/b"), np.array([0.25, 0.75])
    prediction = Prediction(
        "s", "class-incremental", "organ", "b", classes, probabilities, scores, 0.5, True, bag.coords, bag.geometry
    )
    pictures["thumbnail"].info["icc_profile"] = b"of another program"
    pictures["map"] = draw_map(prediction, pictures.pop("thumbnail"), width=256)
    for name, picture in pictures.items():
        picture.save(tmp_path / f"{name}.png")
        assert set(chunks_of((tmp_path / f"{name}.png").read_bytes())) == {b"IHDR", b"IDAT", b"IEND"}, name


def test_label_and_macro_images_are_never_looked_at(
    slide_path: Path, tmp_path: Path, encoder: MeanColour, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(_: object) -> None:
        pytest.fail("the label image was read")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(seen))
    manifest = write_manifest(tmp_path / "m.csv", {"s": slide_path})
    settings = ExtractSettings(target_mpp=0.5, tile_size=256)
    assert extract_cohort(manifest, tmp_path / "out", settings, encoder=encoder).done == 1
    names = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file() and ".extract" not in path.parts}
    assert names == {"s.h5", "s.png", "extract.json", "failures.csv"}


def test_a_slide_whose_fresh_handle_fails_too_fails_by_name(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the handle after that reads again: one bad tile does not take the others along."""
    bad = (300, 300)
    read = openslide.OpenSlide.read_region
    opened: list[int] = []

    class Handle(openslide.OpenSlide):
        """As OpenSlide: after one bad tile it fails for good."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.dead = False
            opened.append(1)

        def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
            self.dead = self.dead or location == bad
            if self.dead:
                raise openslide.OpenSlideError("bad tile")
            return read(self, location, level, size)

    monkeypatch.setattr(openslide, "OpenSlide", Handle)
    with open_slide(slide_path) as slide:
        expected = np.asarray(slide.read_region((400, 400), 0, (64, 64)))
        for _ in range(2):
            with pytest.raises(SlideError, match=r"slide\.tif: pixels of level 0 at \(300, 300\) cannot be read") as caught:
                slide.read_region(bad, 0, (64, 64))
            assert caught.value.stage == "tiles"
            assert np.array_equal(np.asarray(slide.read_region((400, 400), 0, (64, 64))), expected)
    assert len(opened) == 5
