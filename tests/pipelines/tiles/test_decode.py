from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.base.cores import available_cores
from comel.errors import SlideError
from pipelines.slides.area import Area
from pipelines.slides.native import NativeLevel, NativeTiles
from pipelines.slides.slide import Slide, open_slide
from pipelines.tiles import decode
from pipelines.tiles.decode import PixelCount, decoded_batches
from pipelines.tiles.plan import TilePlan, plan_tiles
from pipelines.tissue import TissueMask, find_tissue
from tests.pipelines.small_slides import read_tile, tissue_picture, write_slide

EVERYWHERE = TissueMask(np.ones((8, 8), bool), 1e6, 1e6, 1.0)


def jpeg_slide(path: Path, pixels: np.ndarray, levels: int = 1) -> Path:
    """A pyramid of JPEG tiles as :func:`write_slide` makes of zlib tiles."""
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            writer.write(
                pixels,
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                subfiletype=int(level > 0),
                metadata=None,
                resolution=(20_000 / 2**level,) * 2,
                resolutionunit="CENTIMETER",
            )
            pixels = np.ascontiguousarray(pixels[::2, ::2])
    return path


def texture(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 251, y % 241, (x * 3 + y * 5) % 256], axis=-1).astype(np.uint8)


def all_tiles(slide: Slide, plan: TilePlan, count: PixelCount | None = None, batch_size: int = 5) -> np.ndarray:
    return np.concatenate(list(decoded_batches(slide, plan, batch_size, count=count)))


def one_by_one(slide: Slide, plan: TilePlan) -> np.ndarray:
    """Each tile by an own read of OpenSlide's."""
    return np.stack([read_tile(slide, plan, index) for index in range(len(plan.coords))])


@pytest.mark.parametrize("target", [0.5, 0.52, 0.9, 1.0, 1.3])
@pytest.mark.parametrize("overlap", [0, 40])
def test_tiles_equal_those_read_one_by_one(tmp_path: Path, target: float, overlap: int) -> None:
    for path in (
        jpeg_slide(tmp_path / "jpeg.tif", texture(1900, 1300)),
        write_slide(tmp_path / "zlib.tif", texture(1900, 1300)),
    ):
        with open_slide(path) as slide:
            plan = plan_tiles(slide, EVERYWHERE, tile_size=128, target_mpp=target, overlap=overlap)
            count = PixelCount()
            assert np.array_equal(all_tiles(slide, plan, count), one_by_one(slide, plan))
            assert count.direct == (path.stem == "jpeg")
            assert count.decoded == count.unique


@pytest.mark.parametrize(
    ("name", "direct"),
    [
        ("CMU-1-Small-Region.svs", True),
        ("TCGA-CR-7395-01A-01-TS1.svs", True),
        ("erosion_HE_ds4.tif", True),
    ],
)
@pytest.mark.parametrize("factor", [1.0, 1.053, 2.0])
def test_real_slides_give_openslides_own_pixels(
    real_slide: Callable[[str], Path], name: str, direct: bool, factor: float
) -> None:
    with open_slide(real_slide(name), assume_mpp=1.0) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=224, target_mpp=slide.mpp_x * factor)
        step = max(1, len(plan.coords) // 40)
        plan = TilePlan(plan.geometry, plan.level, plan.coords[::step], plan.tissue[::step])
        count = PixelCount()
        tiles, expected = all_tiles(slide, plan, count), one_by_one(slide, plan)
        assert count.direct == direct
        assert count.decoded <= 1.1 * count.unique
        if plan.level == 0:
            assert np.array_equal(tiles, expected)
        else:
            # OpenSlide starts at a whole level-0 pixel, up to a quarter of a pixel off here.
            assert np.abs(tiles.astype(int) - expected).mean() < 4


def test_coarser_levels_are_read_without_shift(tmp_path: Path) -> None:
    """Where the levels' sizes are exact multiples OpenSlide's place is exact too."""
    with open_slide(jpeg_slide(tmp_path / "s.tif", texture(2048, 2048), levels=3)) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=100, target_mpp=1.0)
        assert plan.level == 1
        assert np.array_equal(all_tiles(slide, plan), one_by_one(slide, plan))


@settings(max_examples=40, deadline=None)
@given(
    left=st.floats(-20, 300),
    top=st.floats(0, 300),
    shrink=st.floats(0.9, 4),
    ratio=st.floats(0.5, 2),
    size=st.integers(16, 64),
)
def test_margin_is_wide_enough(left: float, top: float, shrink: float, ratio: float, size: int) -> None:
    """What is read for an area gives the same image as the whole level would."""
    from PIL import Image

    whole = texture(400, 380)
    area = Area.of((left, top, left + size * shrink, top + size * shrink * ratio), (size, size), (400, 380))
    if area.box[2] - area.box[0] < 1 or area.box[3] - area.box[1] < 1:
        return
    image = np.asarray(area.resample(Image.fromarray(whole[area.top : area.bottom, area.left : area.right])), int)
    box = (area.left + area.box[0], area.top + area.box[1], area.left + area.box[2], area.top + area.box[3])
    everything = Area(0, 0, 400, 380, box, (size, size), False).resample(Image.fromarray(whole))
    # The place of a filter's taps is a difference of floats: a pixel may be rounded the other way.
    assert np.abs(image - np.asarray(everything, int)).max() <= 1


def test_glass_is_not_decoded(tmp_path: Path) -> None:
    path = jpeg_slide(tmp_path / "sparse.tif", tissue_picture(2560, 2560, (0, 0, 256, 256), (2304, 2304, 2560, 2560)))
    with open_slide(path) as slide:
        plan = plan_tiles(slide, find_tissue(slide), tile_size=256, target_mpp=0.5)
        count = PixelCount()
        all_tiles(slide, plan, count)
    assert len(plan.coords) == 2
    assert count.decoded == count.unique == 2 * 256 * 256


def test_what_is_kept_is_bounded_and_recounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_MOST_BYTES", 1)
    with open_slide(jpeg_slide(tmp_path / "wide.tif", texture(256 * 24, 1024))) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=0.52)
        count = PixelCount()
        assert np.array_equal(all_tiles(slide, plan, count), one_by_one(slide, plan))
    assert count.decoded > 1.2 * count.unique


def test_nothing_is_kept_after_its_last_use(tmp_path: Path) -> None:
    with open_slide(jpeg_slide(tmp_path / "s.tif", texture(1500, 1000))) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=128, target_mpp=0.6)
        native = NativeTiles(slide, plan.level)
        cutter = decode._Cutter(slide, plan, native, PixelCount())
        cutter.cut(0, len(plan.coords))
        native.close()
    assert cutter._cache._kept == {}
    assert set(cutter._cache._uses.values()) == {0}


def test_decoding_runs_ahead_but_not_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[int] = []
    original = decode._Cutter.cut

    def counted(self: decode._Cutter, first: int, last: int) -> np.ndarray:
        cut.extend(range(first, last))
        return original(self, first, last)

    monkeypatch.setattr(decode._Cutter, "cut", counted)
    before = threading.active_count()
    with open_slide(jpeg_slide(tmp_path / "s.tif", texture(1600, 1200))) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=64, target_mpp=0.5)
        batches = decoded_batches(slide, plan, batch_size=4, workers=2)
        next(batches)
        until = time.monotonic() + 600
        while len(cut) <= 4:
            assert time.monotonic() < until, "nothing is decoded ahead"
            time.sleep(0.01)
        time.sleep(0.5)
        assert len(cut) <= 4 * 6
        batches.close()
        assert threading.active_count() == before
    assert len(plan.coords) > 300


def damage(path: Path, column: int, row: int) -> None:
    """Cut the second half of a stored tile off: zeros in its place."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        index = row * -(-page.imagewidth // page.tilewidth) + column
        offset, length = page.dataoffsets[index], page.databytecounts[index]
    with open(path, "r+b") as stream:
        stream.seek(offset + length // 2)
        stream.write(bytes(length - length // 2))


def test_a_damaged_tile_fails_the_slide_and_poisons_no_other(tmp_path: Path) -> None:
    whole = jpeg_slide(tmp_path / "whole.tif", texture(1024, 1024))
    path = jpeg_slide(tmp_path / "damaged.tif", texture(1024, 1024))
    damage(path, 1, 1)
    with open_slide(path) as slide, open_slide(whole) as other:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=0.5)
        with pytest.raises(SlideError, match=r"damaged\.tif: pixels of level 0 at \(256, 256\) cannot be read") as caught:
            all_tiles(slide, plan)
        assert caught.value.stage == "tiles"
        away = [index for index, xy in enumerate(plan.coords.tolist()) if xy != [256, 256]]
        rest = TilePlan(plan.geometry, plan.level, plan.coords[away], plan.tissue[away])
        assert np.array_equal(all_tiles(slide, rest), all_tiles(other, rest))


def test_a_level_that_openslide_sees_otherwise_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.slides import native as module

    monkeypatch.setitem(module._COLOUR, 2, "YCBCR")
    monkeypatch.setitem(module._COLOUR, 6, "RGB")
    with open_slide(jpeg_slide(tmp_path / "s.tif", texture(600, 600))) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=128, target_mpp=0.5)
        count = PixelCount()
        assert np.array_equal(all_tiles(slide, plan, count), one_by_one(slide, plan))
    assert not count.direct


def test_a_tile_of_another_size_than_stated_is_not_decoded_here(tmp_path: Path) -> None:
    """A tile's own header may claim any size: memory is taken for what the page states."""
    path = jpeg_slide(tmp_path / "s.tif", texture(768, 768))
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages.first.dataoffsets[0], file.pages.first.databytecounts[0]
    frame = content.index(b"\xff\xc0", offset, offset + length)
    content[frame + 5 : frame + 9] = b"\xff\x00\xff\x00"
    path.write_bytes(content)
    with open_slide(path) as slide:
        native = NativeTiles(slide, 0)
        assert native.direct
        with pytest.raises(SlideError):
            native.read(0, 0)
        assert native.read(1, 1).shape == (256, 256, 3)
        native.close()


def test_grid_of_strips_and_of_unstated_tiles(tmp_path: Path) -> None:
    with open_slide(write_slide(tmp_path / "s.tif", texture(1000, 700))) as slide:
        sides = {}
        for stated in ("8", "100", "240", "1024", "65536", "many", None):
            slide.properties = {} if stated is None else {"openslide.level[0].tile-width": stated}
            sides[stated] = NativeLevel.of(slide, 0).tile_width
    assert sides == {"8": 192, "100": 200, "240": 240, "1024": 1024, "65536": 512, "many": 512, None: 512}


def test_no_tiles_give_no_batches(slide_path: Path) -> None:
    with open_slide(slide_path) as slide:
        plan = plan_tiles(slide, EVERYWHERE, tile_size=256, target_mpp=0.5)
        empty = TilePlan(plan.geometry, plan.level, plan.coords[:0], plan.tissue[:0])
        assert list(decoded_batches(slide, empty, 4)) == []


@pytest.mark.parametrize(("threads", "expected"), [("1", 1), ("many", None), (None, None)])
def test_a_process_decodes_in_as_many_threads_as_it_is_told(threads: str | None, expected: int | None) -> None:
    told = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads is not None:
        told["OMP_NUM_THREADS"] = threads
    code = "from pipelines.tiles.decode import DECODERS; print(DECODERS)"
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (expected or min(8, available_cores()))
