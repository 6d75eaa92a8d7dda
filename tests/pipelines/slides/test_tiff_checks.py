"""Samples and compressions of TIFFs: read as they are, or refused by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from comel.errors import SlideError
from pipelines.slides.slide import open_slide

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
TILED: dict[str, Any] = {"tile": (128, 128)}
STRIPS: dict[str, Any] = {"rowsperstrip": 32}
LAYOUTS = pytest.mark.parametrize("layout", [TILED, STRIPS], ids=["tiled", "strips"])


def write(path: Path, pixels: np.ndarray, **how: Any) -> Path:
    tifffile.imwrite(path, pixels, **{"photometric": "rgb", "metadata": None, **how})
    return path


def refusal(path: Path) -> SlideError:
    with pytest.raises(SlideError) as caught:
        open_slide(path, mpp=0.5)
    assert path.name in caught.value.what
    assert "copy it again" not in caught.value.remedy
    return caught.value


@LAYOUTS
@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "adobe_deflate", "packbits", "zstd"])
def test_lossless_compressions_that_are_read(tmp_path: Path, layout: dict[str, Any], compression: str | None) -> None:
    path = write(tmp_path / "s.tif", PIXELS, compression=compression, **layout)
    with open_slide(path, mpp=0.5) as slide:
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, (400, 300))), PIXELS)


@LAYOUTS
@pytest.mark.parametrize(
    ("compression", "name"),
    [
        ("webp", "WebP"),
        ("jpeg2000", "JPEG 2000"),
        ("jpegxl", "JPEG XL"),
        ("jpegxr", "JPEG XR"),
        ("lerc", "LERC"),
        ("png", "PNG"),
    ],
)
def test_other_compressions_are_named(
    tmp_path: Path, layout: dict[str, Any], compression: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    error = refusal(write(tmp_path / "s.tif", PIXELS, compression=compression, **layout))
    assert f"compressed as {name}," in error.what
    assert "convert it" in error.remedy
    assert capfd.readouterr().err == ""


def test_an_unknown_compression_is_named_by_its_number(tmp_path: Path) -> None:
    path = write(tmp_path / "s.tif", PIXELS, **TILED)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags["Compression"].overwrite(60_001)
    assert "compressed as method 60001" in refusal(path).what


@LAYOUTS
@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (PIXELS.astype(np.uint16) * 16, "samples of 16 bits"),
        (PIXELS.astype(np.uint16) * 257, "samples of 16 bits"),
        (PIXELS.astype(np.uint32), "samples of 32 bits"),
        (PIXELS.astype(np.float16), "16-bit floating-point numbers"),
        (PIXELS.astype(np.float32) / 255, "32-bit floating-point numbers"),
        (PIXELS.astype(np.float64) / 255, "64-bit floating-point numbers"),
        ((PIXELS.astype(int) - 128).astype(np.int8), "8-bit signed numbers"),
    ],
)
def test_samples_of_another_kind_are_named(tmp_path: Path, layout: dict[str, Any], pixels: np.ndarray, said: str) -> None:
    error = refusal(write(tmp_path / "s.tif", pixels, **layout))
    assert said in error.what
    assert "8 bits per channel" in error.remedy


@pytest.mark.parametrize(
    ("channels", "how"),
    [
        (4, {"extrasamples": ["unspecified"]}),
        (6, {"extrasamples": ["unspecified"] * 3}),
        (3, {"photometric": "minisblack", "planarconfig": "contig"}),
        (4, {"photometric": "minisblack", "planarconfig": "contig"}),
    ],
)
def test_channels_beyond_the_colours_are_not_taken_for_transparency(tmp_path: Path, channels: int, how: dict[str, Any]) -> None:
    pixels = np.zeros((300, 400, channels), np.uint8)
    pixels[..., :3] = PIXELS
    assert f"{channels} channels, of which" in refusal(write(tmp_path / "s.tif", pixels, **TILED, **how)).what


@LAYOUTS
def test_transparency_that_the_file_states_is_white(tmp_path: Path, layout: dict[str, Any]) -> None:
    pixels = np.dstack([PIXELS, np.full((300, 400), 255, np.uint8)])
    pixels[:, 200:] = 0
    path = write(tmp_path / "s.tif", pixels, extrasamples=["unassalpha"], **layout)
    with open_slide(path, mpp=0.5) as slide:
        found = np.asarray(slide.read_region((0, 0), 0, (400, 300)))
    np.testing.assert_array_equal(found[:, :200], PIXELS[:, :200])
    assert (found[:, 200:] == 255).all()


@LAYOUTS
def test_colour_in_separate_planes_of_one_page_is_colour(tmp_path: Path, layout: dict[str, Any]) -> None:
    planes = np.ascontiguousarray(PIXELS.transpose(2, 0, 1))
    with open_slide(write(tmp_path / "s.tif", planes, planarconfig="separate", **layout), mpp=0.5) as slide:
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, (400, 300))), PIXELS)


@LAYOUTS
def test_grey_is_read_either_way_round(tmp_path: Path, layout: dict[str, Any]) -> None:
    grey = np.ascontiguousarray(PIXELS[..., 0])
    for photometric, stored in (("minisblack", grey), ("miniswhite", 255 - grey)):
        with open_slide(write(tmp_path / "s.tif", stored, photometric=photometric, **layout), mpp=0.5) as slide:
            found = np.asarray(slide.read_region((0, 0), 0, (400, 300)))
        np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=2))


def test_one_bit_in_tiles(tmp_path: Path) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, PIXELS[..., 0] > 99, photometric="minisblack", metadata=None, **TILED)
    assert "samples of 1 bit" in refusal(path).what
    Image.fromarray(PIXELS[..., 0] > 99).save(tmp_path / "strips.tif")
    with open_slide(tmp_path / "strips.tif", mpp=0.5) as slide:
        assert set(np.unique(np.asarray(slide.read_region((0, 0), 0, (400, 300))))) == {0, 255}
