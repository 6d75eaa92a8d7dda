"""DICOM slides: known by their content, whatever their files are called, and refused by what is wrong with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from comel.base.files import is_dicom
from comel.errors import SlideError
from pipelines.slides.dicom_files import dicom_files, read_dicom
from pipelines.slides.slide import open_slide
from pipelines.slides.slide_files import fingerprint, slide_files
from tests.pipelines.small_slides import tissue_picture
from tests.pipelines.vendor_slides import levels_of, write_dicom

PIXELS = tissue_picture(1024, 512, (128, 128, 896, 384))


def changed(path: Path, change: Callable[[Dataset], None]) -> Path:
    """The file with another header."""
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path, enforce_file_format=True)
    return path


def refusal(path: Path) -> SlideError:
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    assert path.name in caught.value.what
    assert "copy it again" not in caught.value.remedy
    return caught.value


@pytest.mark.parametrize("name", ["1.2.840.99.{}", "IM{:06}", "level-{}.dicom", "{}.svs"])
def test_a_series_whatever_its_files_are_called(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "series"
    for number, path in enumerate(write_dicom(folder, levels_of(PIXELS), (0.5, 0.5))):
        path.rename(folder / name.format(number))
    (folder / "notes.txt").write_text("a file of another kind")
    files = [folder / name.format(number) for number in (0, 1)]
    assert dicom_files(folder) == slide_files(folder) == files
    for path in (folder, *files):
        with open_slide(path) as slide:
            assert (slide.mpp_x, slide.level_dimensions) == (0.5, ((1024, 512), (512, 256)))
            assert np.abs(np.asarray(slide.read_region((0, 0), 0, (1024, 512)), int) - PIXELS).mean() < 2
    before = fingerprint(files[0])
    write_dicom(tmp_path / "other", levels_of(PIXELS), (0.5, 0.5))
    shutil.copy(tmp_path / "other" / "level-1.dcm", files[1])
    shutil.copy(tmp_path / "other" / "level-0.dcm", files[0])
    assert fingerprint(files[0]) != before


def test_what_is_no_dicom_image(tmp_path: Path) -> None:
    [path] = write_dicom(tmp_path / "s", [PIXELS], (0.5, 0.5))
    index = shutil.copy(path, tmp_path / "DICOMDIR")
    tiff = shutil.copy(path, tmp_path / "dual.tiff")
    (tmp_path / "short").write_bytes(b"DICM")
    assert is_dicom(path)
    assert not any(is_dicom(other) for other in (Path(index), Path(tiff), tmp_path / "short", tmp_path))
    (tmp_path / "broken.dcm").write_bytes(bytes(128) + b"DICM" + b"\xff" * 50)
    broken = read_dicom(tmp_path / "broken.dcm")
    assert broken is None or not broken.is_slide


def test_a_folder_of_other_dicom_says_so(tmp_path: Path) -> None:
    [path] = write_dicom(tmp_path / "s", [PIXELS], (0.5, 0.5))
    changed(path, lambda dataset: setattr(dataset, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2"))
    for given in (path.parent, path):
        assert "DICOM" in refusal(given).what
        assert "not an image of a slide" in refusal(given).what


def _encoded(syntax: str) -> Callable[[Dataset], None]:
    return lambda dataset: setattr(dataset.file_meta, "TransferSyntaxUID", syntax)


def _deep(dataset: Dataset) -> None:
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11


def _grey(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"


def _planes(dataset: Dataset) -> None:
    dataset.TotalPixelMatrixFocalPlanes = 3


def _label(dataset: Dataset) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_encoded(JPEGLSLossless), "its pixels are encoded as JPEG-LS Lossless"),
        (_encoded(RLELossless), "its pixels are encoded as RLE Lossless"),
        (_encoded("1.2.840.10008.1.2.4.201"), "which is not decoded here"),
        (_encoded("1.2.3.4"), "its pixels are encoded as 1.2.3.4"),
        (_deep, "samples of 16 bits"),
        (_grey, "1 channel per pixel instead of red, green and blue"),
        (_planes, "3 focal planes"),
        (_label, "a label or an overview"),
    ],
)
def test_the_cause_is_named(tmp_path: Path, change: Callable[[Dataset], None], said: str) -> None:
    [path] = write_dicom(tmp_path / "s", [PIXELS], (0.5, 0.5))
    assert said in refusal(changed(path, change)).what


def test_two_images_of_one_size(tmp_path: Path) -> None:
    [path] = write_dicom(tmp_path / "s", [PIXELS], (0.5, 0.5))
    twin = shutil.copy(path, path.parent / "twin.dcm")
    changed(Path(twin), lambda dataset: setattr(dataset, "SOPInstanceUID", generate_uid()))
    assert "two images of 1024 x 512 px in one series, level-0.dcm and twin.dcm" in refusal(path).what


def test_jpeg_2000_is_read(tmp_path: Path) -> None:
    import imagecodecs

    [path] = write_dicom(tmp_path / "s", [PIXELS], (0.5, 0.5))

    def encode(dataset: Dataset) -> None:
        frames = [imagecodecs.jpeg8_decode(frame) for frame in generate_frames(dataset.PixelData, number_of_frames=8)]
        dataset.PixelData = encapsulate(
            [bytes(imagecodecs.jpeg2k_encode(frame, level=0, codecformat="j2k")) for frame in frames]
        )
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID, dataset.PhotometricInterpretation = JPEG2000Lossless, "RGB"

    with open_slide(changed(path, encode)) as slide:
        assert np.abs(np.asarray(slide.read_region((0, 0), 0, (1024, 512)), int) - PIXELS).mean() < 2


def test_a_level_in_two_files_is_one_level(tmp_path: Path) -> None:
    [path] = write_dicom(tmp_path / "whole", [PIXELS], (0.5, 0.5))
    whole, name = pydicom.dcmread(path), generate_uid()
    frames = list(generate_frames(whole.PixelData, number_of_frames=8))
    (tmp_path / "parts").mkdir()
    for number, (first, last) in enumerate([(0, 4), (4, 8)]):
        part = pydicom.dcmread(path)
        part.SOPInstanceUID = part.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        part.NumberOfFrames, part.PixelData = last - first, encapsulate(frames[first:last], has_bot=True)
        part["PixelData"].VR = "OB"
        part.ConcatenationUID, part.InConcatenationNumber, part.InConcatenationTotalNumber = name, number + 1, 2
        part.ConcatenationFrameOffsetNumber, part.SOPInstanceUIDOfConcatenationSource = first, whole.SOPInstanceUID
        part.save_as(tmp_path / "parts" / f"{number}.dcm", enforce_file_format=True)
    with open_slide(path) as one, open_slide(tmp_path / "parts") as other:
        assert other.level_downsamples == (1.0,)
        first_region, second_region = (np.asarray(slide.read_region((0, 0), 0, (1024, 512))) for slide in (one, other))
    np.testing.assert_array_equal(first_region, second_region)
