"""Which page of a TIFF is a level: another picture of a level's size is never read for it, and a scan is never half read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from comel.errors import SlideError
from pipelines.slides.native import NativeTiles
from pipelines.slides.slide import open_slide
from pipelines.slides.tiff_pages import read_tiff
from pipelines.tiles.decode import decoded_batches
from pipelines.tiles.plan import plan_tiles
from pipelines.tissue import TissueMask
from tests.pipelines.small_slides import tissue_picture
from tests.pipelines.vendor_slides import levels_of

EVERYWHERE = TissueMask(np.ones((8, 8), bool), 1e6, 1e6, 1.0)
PIXELS = tissue_picture(1024, 1024, (256, 256, 896, 896))
SLIDE = levels_of(PIXELS, 3)
GREEN = levels_of(np.full_like(PIXELS, (60, 140, 60)), 3)
SCENE, MACRO = GREEN[0][:800, :900], GREEN[0][:300, :700]
REDUCED = {"subfiletype": 1}
MASK, MASKS = np.ones((1024, 1024), bool), {"subfiletype": 4, "photometric": "minisblack", "compression": None}
STRIPS = {"tile": None, "rowsperstrip": 64}
ABOUT = "Aperio Image Library v12\r\n1024x1024 [0,0 1024x1024] (256x256) JPEG/RGB|AppMag = 20|MPP = 0.5"

Pages = Sequence[tuple[np.ndarray, dict[str, Any]]]


def write_pages(path: Path, pages: Pages) -> Path:
    kind: dict[str, Any] = {"tile": (256, 256), "photometric": "rgb", "compression": "jpeg", "metadata": None}
    kind |= {"resolution": (20_000, 20_000), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as tiff:
        for pixels, own in pages:
            tiff.write(pixels, **{**kind, **own})
    return path


def aperio(*pages: np.ndarray) -> Pages:
    return [(pixels, {"description": ABOUT}) for pixels in pages]


@pytest.mark.parametrize(
    ("name", "pages", "read"),
    [
        ("s.tif", [(SLIDE[0], {}), (GREEN[1], {}), (SLIDE[1], REDUCED)], [True, True]),
        ("s.tif", [(SLIDE[0], {}), (SLIDE[1], REDUCED), (GREEN[1], {}), (GREEN[2], {})], [True, True]),
        ("s.tif", [(SLIDE[0], {}), (GREEN[1], REDUCED), (SLIDE[1], REDUCED)], [True, False, False]),
        ("s.tif", [(SLIDE[0], {}), (GREEN[1][:200, :300], STRIPS), (SLIDE[1], REDUCED)], [True, True]),
        ("s.tif", [(SLIDE[0], {}), (MASK, MASKS), (SLIDE[1], REDUCED)], [True, True]),
        ("s.tif", [(GREEN[2], {}), (SLIDE[0], REDUCED), (SLIDE[1], REDUCED)], [True, True, False]),  # an overview comes first
        ("s.tif", [(GREEN[1][:250, :400], {}), (SLIDE[0], REDUCED), (SLIDE[1], REDUCED)], [True, True, False]),
        ("s.svs", aperio(SLIDE[0], SLIDE[1], GREEN[1]), [True, False, False]),
        ("s.svs", aperio(SLIDE[0], SLIDE[1], GREEN[1][:200, :300]), [True, True, False]),
    ],
)
def test_no_other_picture_is_read_for_a_level(tmp_path: Path, name: str, pages: Pages, read: list[bool]) -> None:
    """Tissue is purple at every resolution, in tiles and in the thumbnail, and never green."""
    with open_slide(write_pages(tmp_path / name, pages)) as slide:
        assert [math.isfinite(downsample) for downsample in slide.level_downsamples] == read
        for target in (0.5, 1.0, 2.0, 4.0):
            plan = plan_tiles(slide, EVERYWHERE, tile_size=32, target_mpp=target, min_tissue=0)
            tiles = np.concatenate(list(decoded_batches(slide, plan, 64)))
            inside = ((plan.coords >= 256) & (plan.coords + 64 * target <= 896)).all(axis=1)
            np.testing.assert_allclose(tiles[inside].mean(axis=(0, 1, 2)), (170, 80, 160), atol=4)
        np.testing.assert_allclose(np.asarray(slide.thumbnail(128))[40:100, 40:100].mean(axis=(0, 1)), (170, 80, 160), atol=4)


def channels(planes: int, **own: Any) -> Pages:
    return [(PIXELS[..., min(plane, 2)].copy(), {"photometric": "minisblack", **own}) for plane in range(planes)]


@pytest.mark.parametrize(
    ("name", "pages", "said"),
    [
        ("s.tif", channels(3), "a TIFF of 3 pages with one channel each"),
        ("s.tif", channels(4, tile=None, compression=None), "a TIFF of 4 pages with one channel each"),
        ("s.tif", [(SLIDE[0], {}), (GREEN[0], {}), (SLIDE[1], REDUCED)], r"2 pictures of 1024 x 1024 px \(pages 1, 2\)"),
        ("s.tif", [(SLIDE[0], {}), (SLIDE[1], REDUCED), (SCENE, {})], r"2 pictures \(pages 1, 3\): scenes"),
        ("s.tif", [(GREEN[1], {}), (SLIDE[0], {}), (SLIDE[1], REDUCED)], "1024 x 1024 px, is page 2, behind one of 512 x 512"),
        ("s.tif", [(GREEN[2], STRIPS), (SLIDE[0], {})], "1024 x 1024 px, is page 2, behind one of 256 x 256"),
        (
            "s.tif",
            [(SLIDE[0], {}), (MACRO, REDUCED), (SLIDE[1], REDUCED)],
            "page 2, 700 x 300 px, .*differs from the slide in shape",
        ),
        ("s.svs", aperio(SLIDE[0], SLIDE[2], SLIDE[1]), "not ordered from fine to coarse"),
    ],
)
def test_what_would_be_half_read_is_refused_by_name(tmp_path: Path, name: str, pages: Pages, said: str) -> None:
    path = write_pages(tmp_path / name, pages)
    with pytest.raises(SlideError, match=said) as caught:
        open_slide(path, mpp=0.5)
    assert "copy it again" not in caught.value.remedy


@pytest.mark.parametrize("levels", [1, 2])
def test_focal_planes_of_an_aperio_slide(tmp_path: Path, levels: int, capfd: pytest.CaptureFixture[str]) -> None:
    pages = [(pixels, {"description": f"{ABOUT}|OffsetZ = {offset}"}) for offset in (0, 0.9, -0.9) for pixels in SLIDE[:levels]]
    with pytest.raises(SlideError, match="3 focal planes; export the intended plane"):
        open_slide(write_pages(tmp_path / "s.svs", pages))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("axes", "shape", "said"),
    [
        ("CYX", (3, 300, 400), "3 pages with one channel each"),
        ("ZYXS", (2, 300, 400, 3), "2 focal planes"),
        ("TYXS", (2, 300, 400, 3), "2 time points"),
        ("YXS", (300, 400, 3), None),
    ],
)
@pytest.mark.parametrize("tile", [(128, 128), None])
def test_planes_of_an_ome_tiff(
    tmp_path: Path, axes: str, shape: tuple[int, ...], said: str | None, tile: tuple[int, int] | None
) -> None:
    path = tmp_path / "s.ome.tif"
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    tifffile.imwrite(
        path, pixels, ome=True, tile=tile, photometric="rgb" if "S" in axes else "minisblack", metadata={"axes": axes}
    )
    if said is None:
        with open_slide(path, mpp=0.5) as slide:
            np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, (400, 300))), pixels)
        return
    with pytest.raises(SlideError, match=said):
        open_slide(path, mpp=0.5)


def test_pictures_that_share_one_page(tmp_path: Path) -> None:
    """ImageJ writes the first page of a large stack only, and says in its description how many pictures follow."""
    path = tmp_path / "s.tif"
    about = "ImageJ=1.53t\nimages=4\nslices=4\n"
    tifffile.imwrite(path, np.zeros((64, 64), np.uint8), photometric="minisblack", description=about, metadata=None)
    with open(path, "ab") as stream:
        stream.write(bytes(3 * 64 * 64))
    with pytest.raises(SlideError, match="4 focal planes"):
        open_slide(path, mpp=0.5)
    tifffile.imwrite(tmp_path / "v.tif", np.zeros((16, 64, 64), np.uint8), tile=(16, 64, 64), volumetric=True)
    with pytest.raises(SlideError, match="16 focal planes"):
        open_slide(tmp_path / "v.tif", mpp=0.5)


def test_tiles_decoded_here_are_compared_where_there_is_texture(tmp_path: Path) -> None:
    """The corner of both pictures is glass; the page of the level is swapped for another of the same size."""
    other = PIXELS.copy()
    other[300:700, 300:700] = np.random.default_rng(1).integers(0, 255, (400, 400, 3))
    pages = [(SLIDE[0], {}), (SLIDE[1], REDUCED), (levels_of(other)[1], {})]
    with open_slide(write_pages(tmp_path / "s.tif", pages)) as slide:
        for level in (0, 1):
            native = NativeTiles(slide, level)
            assert native.direct
            native.close()
        slide.level_pages[1] = read_tiff(tmp_path / "s.tif").pages[2]
        assert not NativeTiles(slide, 1).direct
