"""PNG, JPEG and plain TIFF images as slides of one level, and images that are refused before they take memory."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from comel.bags.bag import read_bag
from comel.errors import SlideError
from pipelines.extraction.settings import ExtractSettings
from pipelines.extraction.slide import extract_slide
from pipelines.slides.plain_image import MAX_IMAGE_PIXELS
from pipelines.slides.slide import open_slide
from tests.pipelines.in_process import extract_cohort
from tests.pipelines.small_slides import MeanColour, tissue_picture, write_manifest

PIXELS = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)


def png_of(width: int, height: int) -> bytes:
    """A PNG of few bytes that declares this size: rows of zeros, of which a few only are there."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refused(path: Path, mpp: float | None = 0.5) -> SlideError:
    with pytest.raises(SlideError) as caught:
        open_slide(path, mpp=mpp)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("name", ["a.png", "a.PNG", "a.tif", "a.tiff", "lzw.tif"])
def test_lossless_images_are_read_as_they_are(tmp_path: Path, name: str) -> None:
    options = {"compression": "tiff_lzw"} if name == "lzw.tif" else {}
    Image.fromarray(PIXELS).save(tmp_path / name, **options)
    with open_slide(tmp_path / name, mpp=0.5) as slide:
        assert slide.level_dimensions == ((400, 300),)
        assert slide.level_downsamples == (1.0,)
        assert (slide.mpp_x, slide.mpp_y, slide.mpp_source, slide.bounds) == (0.5, 0.5, "manifest", None)
        np.testing.assert_array_equal(np.asarray(slide.read_region((17, 33), 0, (100, 50))), PIXELS[33:83, 17:117])
        assert np.array_equal(np.asarray(slide.thumbnail(1000)), PIXELS)


@pytest.fixture(scope="module")
def image_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "a.png"
    Image.fromarray(PIXELS).save(path)
    return path


@given(left=st.integers(-450, 450), top=st.integers(-350, 350), width=st.integers(1, 120), height=st.integers(1, 120))
def test_any_region_is_cut_from_the_image_on_white(image_path: Path, left: int, top: int, width: int, height: int) -> None:
    framed = np.full((300 + 1200, 400 + 1200, 3), 255, np.uint8)
    framed[600:900, 600:1000] = PIXELS
    with open_slide(image_path, mpp=0.5) as slide:
        found = np.asarray(slide.read_region((left, top), 0, (width, height)))
    np.testing.assert_array_equal(found, framed[top + 600 : top + 600 + height, left + 600 : left + 600 + width])


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA", "P", "CMYK", "1"])
def test_eight_bit_images_of_every_kind_become_rgb(tmp_path: Path, mode: str) -> None:
    picture = Image.fromarray(PIXELS).convert(mode)
    name = "a.tif" if mode == "CMYK" else "a.png"
    if mode in ("RGBA", "LA"):
        picture.putalpha(Image.fromarray(np.where(np.arange(400) < 200, 255, 0).astype(np.uint8)[None].repeat(300, 0)))
    picture.save(tmp_path / name)
    expected = np.asarray(picture.convert("RGBA").convert("RGB")).copy()
    if mode in ("RGBA", "LA"):
        expected[:, 200:] = 255
    with open_slide(tmp_path / name, mpp=0.5) as slide:
        np.testing.assert_array_equal(np.asarray(slide.read_region((0, 0), 0, (400, 300))), expected)


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 400)[None, :, None], (300, 400, 3)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    with open_slide(tmp_path / "a.jpg", assume_mpp=0.25) as slide:
        assert (slide.mpp_x, slide.mpp_source) == (0.25, "assumed")
        found = np.asarray(slide.read_region((100, 0), 0, (100, 100)), int)
    assert np.abs(found - smooth[:100, 100:200]).max() <= 4


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_the_resolution_is_the_users_never_the_files(tmp_path: Path, name: str) -> None:
    """25,400 dots an inch would be 1 um/px."""
    Image.fromarray(PIXELS).save(tmp_path / name, dpi=(25_400, 25_400))
    error = refused(tmp_path / name, mpp=None)
    assert error.stage == "mpp"
    assert "--assume-mpp" in error.remedy
    with open_slide(tmp_path / name, assume_mpp=0.25) as slide:
        assert (slide.mpp_x, slide.mpp_source) == (0.25, "assumed")


@pytest.mark.parametrize(
    ("width", "height"), [(2**31 - 1, 2**31 - 1), (100_000, 100_000), (MAX_IMAGE_PIXELS // 4 + 1, 4), (12_000, 12_000)]
)
def test_absurd_sizes_are_refused_before_anything_is_decoded(
    tmp_path: Path, width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(width, height))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    assert "at most 128 Mpx" in refused(tmp_path / "bomb.png").what


def test_an_image_within_the_limit_is_opened_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "large.png").write_bytes(png_of(10_000, 10_000))
    with open_slide(tmp_path / "large.png", mpp=0.5) as slide:
        assert slide.dimensions == (10_000, 10_000)
    assert not list(recwarn)


def _cut(path: Path) -> None:
    Image.fromarray(PIXELS).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _broken_header(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)


def _text(path: Path) -> None:
    path.write_text("no image")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
@pytest.mark.parametrize("damage", [_cut, _broken_header, _text])
def test_damaged_images_fail_by_name(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / name)

    def read() -> None:
        with open_slide(tmp_path / name, mpp=0.5) as slide:
            slide.thumbnail(100)

    with pytest.raises(SlideError) as caught:
        read()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_picture_of_one_page_and_eight_bits_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 40, 50), np.uint8), photometric="minisblack")
    assert "TIFF of 3 pages" in refused(tmp_path / "stack.tif").what
    Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 200).save(tmp_path / "deep.png")
    assert "8 bits" in refused(tmp_path / "deep.png").remedy
    Image.fromarray(PIXELS).save(tmp_path / "a.gif")
    (tmp_path / "a.gif").rename(tmp_path / "gif.png")
    assert "nor an image" in refused(tmp_path / "gif.png").what
    Image.fromarray(PIXELS).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.svs")
    assert "not a slide" in refused(tmp_path / "b.svs").what


def test_threads_share_one_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.slides import plain_image

    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    decoded, decode = [], plain_image._decoded

    def counted(path: Path) -> Image.Image:
        decoded.append(path)
        return decode(path)

    monkeypatch.setattr(plain_image, "_decoded", counted)
    found: list[np.ndarray] = []
    with open_slide(tmp_path / "a.png", mpp=0.5) as slide:
        assert not decoded
        readers = [
            threading.Thread(target=lambda: found.append(np.asarray(slide.read_region((5, 5), 0, (64, 64))))) for _ in range(4)
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert len(decoded) == 1
    assert len(found) == 4
    assert all(np.array_equal(tile, PIXELS[5:69, 5:69]) for tile in found)


def test_an_image_gives_the_bag_of_the_same_slide(tmp_path: Path, slide_path: Path, encoder: MeanColour) -> None:
    with open_slide(slide_path) as slide:
        Image.fromarray(np.asarray(slide.read_region((0, 0), 0, slide.dimensions))).save(tmp_path / "same.png")
    settings = ExtractSettings(target_mpp=0.5, tile_size=128)
    expected = extract_slide(slide_path, slide_id="s", encoder=encoder, settings=settings, mpp=0.5).bag
    found = extract_slide(tmp_path / "same.png", slide_id="s", encoder=encoder, settings=settings, mpp=0.5).bag
    assert len(found) > 20
    np.testing.assert_array_equal(found.coords, expected.coords)
    np.testing.assert_array_equal(found.features, expected.features)


def test_a_cohort_of_images_takes_its_mpp_from_the_manifest(tmp_path: Path, encoder: MeanColour) -> None:
    picture = Image.fromarray(tissue_picture(600, 500, (50, 50, 550, 450)))
    paths = {}
    for name in ("fine.png", "coarse.jpg", "silent.tif"):
        picture.save(tmp_path / name)
        paths[name.split(".")[0]] = tmp_path / name
    (tmp_path / "bomb.png").write_bytes(png_of(100_000, 100_000))
    manifest = write_manifest(
        tmp_path / "m.csv", {**paths, "bomb": tmp_path / "bomb.png"}, mpp={"fine": "0.25", "coarse": "0.5", "bomb": "0.5"}
    )
    report = extract_cohort(manifest, tmp_path / "bags", ExtractSettings(target_mpp=0.5, tile_size=64), encoder=encoder)
    assert (report.done, report.failed) == (2, 2)
    assert {failure.slide: failure.stage for failure in report.failures} == {"silent": "mpp", "bomb": "open"}
    fine, coarse = (read_bag(tmp_path / f"bags/{name}.h5") for name in ("fine", "coarse"))
    assert fine.geometry is not None
    assert coarse.geometry is not None
    assert (fine.geometry.patch_size_level0, coarse.geometry.patch_size_level0) == (128, 64)
