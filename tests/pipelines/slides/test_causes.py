"""Slides that cannot be opened or read: each cause in its own sentence, and nothing else on the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from comel.errors import SlideError
from pipelines.slides.silence import libraries_silenced
from pipelines.slides.slide import open_slide
from tests.pipelines.small_slides import tissue_picture, write_slide
from tests.pipelines.vendor_slides import write_mirax

PIXELS = tissue_picture(512, 512, (100, 100, 400, 400))


def refusal(path: Path) -> SlideError:
    with pytest.raises(SlideError) as caught, open_slide(path, mpp=0.5) as slide:
        slide.thumbnail(10_000)
    assert path.name in caught.value.what
    return caught.value


def test_mirax_without_its_folder(tmp_path: Path) -> None:
    path = write_mirax(tmp_path / "a.mrxs", PIXELS, (0.5, 0.5))
    renamed = Path(shutil.copy(path, tmp_path / "renamed.mrxs"))
    assert "the folder renamed/ beside it" in refusal(renamed).what
    assert "leave it the name" in refusal(renamed).remedy
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.mrxs").symlink_to(path)
    linked = refusal(tmp_path / "x" / "a.mrxs")
    assert "a link, and the folder a/ is not beside it" in linked.what
    assert str(path) in linked.remedy
    (tmp_path / "x" / "a").symlink_to(tmp_path / "a")
    open_slide(tmp_path / "x" / "a.mrxs")


@pytest.mark.parametrize("part", ["Slidedat.ini", "Index.dat", "Data0000.dat"])
def test_mirax_without_a_file_of_its_folder(tmp_path: Path, part: str) -> None:
    path = write_mirax(tmp_path / "a.mrxs", PIXELS, (0.5, 0.5))
    (tmp_path / "a" / part).unlink()
    error = refusal(path)
    assert part in error.what
    assert error.remedy == "copy the whole folder too"


def test_an_index_without_its_images(tmp_path: Path) -> None:
    path = tmp_path / "s.vms"
    path.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=2\nNoJpegRows=1\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\n"
        "MapFile=c.jpg\nOptimisationFile=\n"
    )
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg")
    assert "b.jpg and 1 more beside it" in refusal(path).what
    assert refusal(path).remedy == "copy its images too"


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg")])
@pytest.mark.parametrize("name", ["s.svs", "s", "s.SCN"])
def test_an_image_under_another_name_says_which_it_should_have(tmp_path: Path, kind: str, suffix: str, name: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / name, format=kind)
    error = refusal(tmp_path / name)
    assert error.what.endswith(f"{name}: not a slide that OpenSlide reads, but an image")
    assert error.remedy == f"rename it to s{suffix}"
    open_slide((tmp_path / name).rename(tmp_path / f"s{suffix}"), mpp=0.5)


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_file_that_is_cut_off_says_how_much_is_missing(tmp_path: Path, kept: float) -> None:
    path = write_slide(tmp_path / "s.tif", PIXELS)
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        last = max(file.pages.first.dataoffsets)
    path.write_bytes(content[: int(last * kept)])
    error = refusal(path)
    assert f"truncated to {int(last * kept)} of at least" in error.what
    assert "copy it again" in error.remedy


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.jpg", imagecodecs.jpeg2k_encode(PIXELS), "JPEG 2000"),
        ("a.jp2", imagecodecs.jpeg2k_encode(PIXELS, codecformat="j2k"), "JPEG 2000"),
        ("a.png", imagecodecs.webp_encode(PIXELS), "WebP"),
        ("a.tif", imagecodecs.jpegxl_encode(PIXELS), "JPEG XL"),
        ("a.svs", b"PK\x03\x04" + bytes(99), "ZIP"),
        ("a.vsi", b"II*\0\x10\0\0\0" + bytes(99), "Olympus VSI"),
        ("a.isyntax", b"<DataObject>", "Philips iSyntax"),
    ],
)
def test_other_kinds_of_files_are_named(tmp_path: Path, name: str, content: bytes, kind: str) -> None:
    (tmp_path / name).write_bytes(content)
    error = refusal(tmp_path / name)
    assert error.what.endswith(f"but {kind}")
    assert error.remedy == "convert it to a tiled pyramidal TIFF"


@pytest.mark.parametrize("bits", [12, 15, 16])
def test_pictures_of_more_than_eight_bits(tmp_path: Path, bits: int) -> None:
    wide = PIXELS.astype(np.uint16) << (bits - 8)
    for pixels in (wide, wide[..., 0].copy(), np.dstack([wide, wide[..., :1]])):
        (tmp_path / "s.png").write_bytes(imagecodecs.png_encode(pixels))
        assert "samples of 16 bits; save it with 8 bits per channel" in str(refusal(tmp_path / "s.png"))
    if bits == 12:
        (tmp_path / "s.jpg").write_bytes(imagecodecs.jpeg8_encode(wide, bitspersample=12))
        assert "samples of 12 bits" in refusal(tmp_path / "s.jpg").what


def test_libraries_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """GLib's warning of levels that are out of order, and libtiff's of a strip that it cannot decode."""
    with tifffile.TiffWriter(tmp_path / "order.tif") as tiff:
        for level in (PIXELS, PIXELS[:100, :400], PIXELS[::2, ::2]):
            tiff.write(level, tile=(128, 128), photometric="rgb", metadata=None, subfiletype=int(level is not PIXELS))
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", compression="lzw", rowsperstrip=64, metadata=None)
    with tifffile.TiffFile(path) as file:
        offset, length = file.pages.first.dataoffsets[3], file.pages.first.databytecounts[3]
    content = bytearray(path.read_bytes())
    content[offset : offset + length] = bytes(length)
    path.write_bytes(content)
    for broken in (tmp_path / "order.tif", path):
        refusal(broken)
    assert capfd.readouterr() == ("", "")


def test_only_what_libraries_print_is_dropped(capfd: pytest.CaptureFixture[str]) -> None:
    with libraries_silenced():
        os.write(2, b"(process:12): GLib-WARNING **: 12:00:00.000: odd\nTIFFReadDirectory: Warning, odd.\n")
        with libraries_silenced():
            os.write(2, b"tempfile.tif: LZWDecode: odd.\n")
        sys.stderr.write("a line of ours\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "a line of ours\nafter\n"


def test_silence_in_several_threads(capfd: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        for _ in range(20):
            with libraries_silenced():
                os.write(2, b"TIFFFetch: odd\n")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
