"""Which files a slide is made of, and that its fingerprint is of their content."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from comel.errors import SlideError
from pipelines.slides.slide import open_slide
from pipelines.slides.slide_files import file_to_open, fingerprint, slide_files
from tests.pipelines.small_slides import tissue_picture
from tests.pipelines.vendor_slides import levels_of, write_dicom


def change(path: Path) -> None:
    """Another byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_content_not_name(slide_path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.tif"
    copy.write_bytes(slide_path.read_bytes())
    assert fingerprint(copy) == fingerprint(slide_path)
    change(copy)
    assert fingerprint(copy) != fingerprint(slide_path)


def test_mirax_has_a_folder(tmp_path: Path) -> None:
    (tmp_path / "s.mrxs").write_bytes(b"head")
    assert slide_files(tmp_path / "s.mrxs") == [tmp_path / "s.mrxs"]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "Data0.dat").write_bytes(b"one")
    before = fingerprint(tmp_path / "s.mrxs")
    change(tmp_path / "s" / "Data0.dat")
    assert fingerprint(tmp_path / "s.mrxs") != before


def test_hamamatsu_names_its_images(tmp_path: Path) -> None:
    index = tmp_path / "s.vms"
    index.write_text(
        "[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nImageFile(1,0)=b.jpg\nMapFile=../c.jpg\nx=\0\n"
    )
    for name in ("a.jpg", "b.jpg", "unnamed.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path.parent / "c.jpg").write_bytes(b"outside")
    assert slide_files(index) == [index, tmp_path / "a.jpg", tmp_path / "b.jpg"]
    before = fingerprint(index)
    change(tmp_path / "unnamed.jpg")
    assert fingerprint(index) == before
    change(tmp_path / "b.jpg")
    assert fingerprint(index) != before


def test_dicom_is_a_folder_or_one_of_its_files(tmp_path: Path) -> None:
    levels = levels_of(tissue_picture(512, 512, (100, 100, 400, 400)))
    first, second = write_dicom(tmp_path / "one", levels, (0.25, 0.25))
    (tmp_path / "one" / "report.dcm").write_bytes(b"no image")
    assert file_to_open(tmp_path / "one") == first
    before = {path: fingerprint(path) for path in (tmp_path / "one", first, second)}
    assert len(set(before.values())) == 3
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    assert fingerprint(tmp_path / "copy") == before[tmp_path / "one"]
    assert fingerprint(tmp_path / "copy" / first.name) == before[first]
    write_dicom(tmp_path / "one", levels, (0.25, 0.25))  # another series of the same pixels
    assert all(fingerprint(path) != known for path, known in before.items())


def test_folders_that_are_no_slide(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match="but not of a slide's DICOM files"):
        open_slide(tmp_path / "empty")
    picture = tissue_picture(256, 256)
    for name in ("a", "b"):
        [file] = write_dicom(tmp_path / name, [picture], (0.5, 0.5))
        file.rename(tmp_path / "empty" / f"{name}.dcm")
    with pytest.raises(SlideError, match=r"a folder of 2 slides; give one file of the slide meant, such as a\.dcm, b\.dcm"):
        open_slide(tmp_path / "empty")
    with open_slide(tmp_path / "empty" / "b.dcm") as slide:
        assert slide.dimensions == (256, 256)
