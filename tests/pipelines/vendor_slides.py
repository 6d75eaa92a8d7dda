"""Small slides as scanners of several makers write them: what OpenSlide needs to know them, and nothing more."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

TILE = 256


def levels_of(pixels: np.ndarray, count: int = 2) -> list[np.ndarray]:
    """The picture and its halves, for sides that divide."""
    levels = [pixels]
    for _ in range(count - 1):
        height, width = levels[-1].shape[:2]
        mean = levels[-1].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
        levels.append(mean.round().astype(np.uint8))
    return levels


def write_aperio(path: Path, pixels: np.ndarray, mpp: float | None = 0.25, power: int = 40, label: bool = True) -> Path:
    """SVS: descriptions that begin with "Aperio", a thumbnail in strips after level 0, and a label at the end."""
    stated = f"|AppMag = {power}" + (f"|MPP = {mpp}" if mpp else "")
    levels = levels_of(pixels)
    height, width = pixels.shape[:2]
    with tifffile.TiffWriter(path) as tiff:
        kind: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
        about = f"Aperio Image Library v12\r\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=90{stated}"
        tiff.write(levels[0], tile=(TILE, TILE), description=about, **kind)
        tiff.write(levels[-1][::4, ::4], rowsperstrip=16, description="Aperio Image Library v12\r\nthumbnail", **kind)
        for level in levels[1:]:
            tiff.write(level, tile=(TILE, TILE), description=f"{about}\r\nreduced", **kind)
        if label:
            tiff.write(
                np.zeros((64, 64, 3), np.uint8),
                rowsperstrip=64,
                description="Aperio Image Library v12\r\nlabel 64x64",
                subfiletype=1,
                **kind,
            )
    return path


def write_philips(path: Path, pixels: np.ndarray, mpp: tuple[float, float] = (0.25, 0.25)) -> Path:
    """Philips TIFF: the pixel spacing, y then x in millimetres, stands in the XML of the first description."""
    levels = levels_of(pixels)

    def attribute(name: str, kind: str, value: str, group: str = "0x301D") -> str:
        return f'<Attribute Name="{name}" Group="{group}" Element="0x0000" PMSVR="{kind}">{value}</Attribute>'

    representations = ""
    for number, level in enumerate(levels):
        spacing = " ".join(f"&quot;{side * 2**number / 1000:.9f}&quot;" for side in (mpp[1], mpp[0]))
        inside = (
            attribute("DICOM_PIXEL_SPACING", "IDoubleArray", spacing, "0x0028")
            + attribute("PIIM_PIXEL_DATA_REPRESENTATION_NUMBER", "IUInt16", str(number))
            + attribute("PIIM_PIXEL_DATA_REPRESENTATION_COLUMNS", "IUInt32", str(level.shape[1]))
            + attribute("PIIM_PIXEL_DATA_REPRESENTATION_ROWS", "IUInt32", str(level.shape[0]))
        )
        representations += f'<DataObject ObjectType="PixelDataRepresentation">{inside}</DataObject>'
    image = (
        attribute("PIM_DP_IMAGE_TYPE", "IString", "WSI")
        + attribute("DICOM_PIXEL_SPACING", "IDoubleArray", f"&quot;{mpp[1] / 1000:.9f}&quot; &quot;{mpp[0] / 1000:.9f}&quot;")
        + attribute("PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE", "IDataObjectArray", f"<Array>{representations}</Array>")
    )
    images = f'<Array><DataObject ObjectType="DPScannedImage">{image}</DataObject></Array>'
    about = (
        '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
        + attribute("DICOM_MANUFACTURER", "IString", "PHILIPS", "0x0008")
        + attribute("PIM_DP_SCANNED_IMAGES", "IDataObjectArray", images)
        + "</DataObject>"
    )
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(
                level,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                metadata=None,
                software="Philips DP v1.0",
                description=about if number == 0 else "level=1",
                subfiletype=int(number > 0),
            )
    return path


def write_leica(
    path: Path,
    pixels: np.ndarray,
    *offsets: tuple[int, int],
    mpp: float = 0.5,
    canvas: tuple[int, int] = (6000, 3000),
    levels: int = 2,
) -> Path:
    """SCN: scanned areas, placed in nanometres on a slide, and a macro image of it; a BigTIFF whose XML lists their levels.

    Each of ``offsets``, in pixels of level 0 of the slide of (width, height) ``canvas``, has the picture; one where none is
    given.
    """
    pyramid = levels_of(pixels, levels)
    height, width = pixels.shape[:2]
    nanometres = round(mpp * 1000)
    how = (
        "<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>"
        "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
        "</illuminationSettings></scanSettings>"
    )
    images = ""
    for area, (left, top) in enumerate(offsets or [(2000, 1000)]):
        sizes = "".join(
            f'<dimension sizeX="{level.shape[1]}" sizeY="{level.shape[0]}" r="{number}" ifd="{area * levels + number}"/>'
            for number, level in enumerate(pyramid)
        )
        images += (
            f'<image name="scan {area}"><device model="Leica SCN400"/><pixels sizeX="{width}" sizeY="{height}">{sizes}</pixels>'
            f'<view sizeX="{width * nanometres}" sizeY="{height * nanometres}" offsetX="{left * nanometres}" '
            f'offsetY="{top * nanometres}"/>'
            f"{how}</image>"
        )
    slide = f'sizeX="{canvas[0] * nanometres}" sizeY="{canvas[1] * nanometres}"'
    macro = (
        f'<image name="macro"><pixels sizeX="{width}" sizeY="{height}"><dimension sizeX="{width}" sizeY="{height}" r="0" '
        f'ifd="{max(1, len(offsets)) * levels}"/></pixels><view {slide} offsetX="0" offsetY="0"/>{how}</image>'
    )
    about = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="c" {slide}>{macro}{images}</collection></scn>'
    )
    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        for number in range(max(1, len(offsets)) * levels + 1):
            per_cm = 10_000 / mpp / 2 ** (number % levels)
            tiff.write(
                pyramid[number % levels],
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
                metadata=None,
                resolution=(per_cm, per_cm),
                resolutionunit="CENTIMETER",
                description=about if number == 0 else None,
            )
    return path


def write_hamamatsu(path: Path, pixels: np.ndarray, mpp: float = 0.25) -> Path:
    """NDPI: one JPEG a level in a TIFF with the maker's tags for format and lens; the macro image's lens is negative."""
    levels = levels_of(pixels)
    pictures = [*((level, 40 / 2**number, mpp * 2**number) for number, level in enumerate(levels)), (levels[-1], -1.0, 30.0)]
    with tifffile.TiffWriter(path) as tiff:
        for picture, lens, side in pictures:
            tiff.write(
                picture,
                rowsperstrip=picture.shape[0],
                photometric="rgb",
                compression="jpeg",
                metadata=None,
                software=False,
                resolution=(10_000 / side, 10_000 / side),
                resolutionunit="CENTIMETER",
                extratags=[
                    (271, 2, 0, "Hamamatsu", True),
                    (65420, 4, 1, 1, True),
                    (65421, 11, 1, lens, True),
                    (65424, 9, 1, 0, True),
                ],
            )
    return path


def write_ventana(path: Path, pixels: np.ndarray, mpp: float = 0.25) -> Path:
    """BIF: a macro image with the scanner's XML, then the levels; level 0 says how its tiles join.

    Tiles are numbered from the bottom row up, every other row from right to left.
    """
    levels = levels_of(pixels)
    across, down = pixels.shape[1] // TILE, pixels.shape[0] // TILE

    def number(column: int, row: int) -> int:
        up = down - 1 - row
        size: int = 1 + up * across + (across - 1 - column if up % 2 else column)
        return size

    joints = [("RIGHT", (x, y), (x + 1, y)) for y in range(down) for x in range(across - 1)]
    joints += [("UP", (x, y + 1), (x, y)) for y in range(down - 1) for x in range(across)]
    joined = "".join(
        f'<TileJointInfo FlagJoined="1" Confidence="99" Direction="{way}" Tile1="{number(*one)}" Tile2="{number(*two)}" '
        'OverlapX="0" OverlapY="0"/>'
        for way, one, two in joints
    )
    scanner = f'<iScan Magnification="40" ScanRes="{mpp}" Z-layers="1"/>'
    stitching = (
        f'<EncodeInfo Ver="2"><SlideStitchInfo><ImageInfo AOIScanned="1" Width="{TILE}" Height="{TILE}" NumRows="{down}" '
        f'NumCols="{across}" Pos-X="0" Pos-Y="0">{joined}</ImageInfo></SlideStitchInfo>'
        '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
    )
    with tifffile.TiffWriter(path) as tiff:
        kind: dict[str, Any] = {"photometric": "rgb", "compression": "jpeg", "metadata": None, "software": False}
        packet = [(700, 1, len(scanner), scanner.encode(), True)]
        tiff.write(levels[-1], rowsperstrip=64, description="Label Image", extratags=packet, **kind)
        for place, level in enumerate(levels):
            packet = [(700, 1, len(stitching), stitching.encode(), True)] if place == 0 else []
            about = f"level={place} mag={40 / 2**place:g} quality=90"
            tiff.write(level, tile=(TILE, TILE), description=about, extratags=packet, **kind)
    return path


def write_mirax(path: Path, pixels: np.ndarray, mpp: tuple[float, float] = (0.25, 0.25)) -> Path:
    """MIRAX: a preview, and beside it a folder with Slidedat.ini, Index.dat and the camera's JPEG images.

    The index begins with its version and the slide's name, then two pointers: to the levels and to the rest. Each level is
    a pointer to a page of (image, offset, length, file); an image of level 1 takes the place of two by two of level 0.
    """
    folder = path.with_suffix("")
    folder.mkdir()
    Image.fromarray(pixels[::8, ::8]).save(path, "JPEG")
    levels, name = levels_of(pixels), "A1B2C3"
    across, down = pixels.shape[1] // TILE, pixels.shape[0] // TILE
    sections, pages, data = "", [], b""
    for number, level in enumerate(levels):
        page, step = [], 2**number
        for place, frame in zip(_places(level), _frames(level), strict=True):
            page.append((place[1] * step * across + place[0] * step, len(data), len(frame), 0))
            data += frame
        pages.append(page)
        sections += (
            f"[LEVEL_{number}]\nOVERLAP_X=0\nOVERLAP_Y=0\nMICROMETER_PER_PIXEL_X={mpp[0] * step}\n"
            f"MICROMETER_PER_PIXEL_Y={mpp[1] * step}\nIMAGE_FORMAT=JPEG\nIMAGE_FILL_COLOR_BGR=16777215\n"
            f"DIGITIZER_WIDTH={TILE}\nDIGITIZER_HEIGHT={TILE}\nIMAGE_CONCAT_FACTOR={min(number, 1)}\n"
        )
    names = "".join(
        f"HIER_0_VAL_{number}=ZoomLevel_{number}\nHIER_0_VAL_{number}_SECTION=LEVEL_{number}\n" for number in (0, 1)
    )
    (folder / "Slidedat.ini").write_text(
        f"[GENERAL]\nSLIDE_VERSION=01.02\nSLIDE_ID={name}\nIMAGENUMBER_X={across}\nIMAGENUMBER_Y={down}\n"
        "OBJECTIVE_MAGNIFICATION=40\nCameraImageDivisionsPerSide=1\n[HIERARCHICAL]\nINDEXFILE=Index.dat\nHIER_COUNT=1\n"
        f"NONHIER_COUNT=0\nHIER_0_NAME=Slide zoom level\nHIER_0_COUNT={len(levels)}\n{names}"
        f"[DATAFILE]\nFILE_COUNT=1\nFILE_0=Data0000.dat\n{sections}"
    )
    (folder / "Data0000.dat").write_bytes(data)
    head = f"01.02{name}".encode()
    table = len(head) + 8  # after the two pointers: one pointer a level
    start, records = table + 4 * len(levels), b""
    pointers: list[int] = []
    for page in pages:
        pointers.append(start + len(records))
        entries = b"".join(struct.pack("<4i", *entry) for entry in page)
        records += struct.pack("<4i", 0, start + len(records) + 8, len(page), 0) + entries
    (folder / "Index.dat").write_bytes(head + struct.pack(f"<{2 + len(pointers)}i", table, 0, *pointers) + records)
    return path


def write_dicom(folder: Path, levels: Sequence[np.ndarray], mpp: tuple[float, float]) -> list[Path]:
    """A series of DICOM files, one a level: JPEG baseline frames on a full grid, PixelSpacing (y, x) in millimetres."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    study, series, frame_of_reference = (generate_uid() for _ in range(3))
    files = []
    for number, pixels in enumerate(levels):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = JPEGBaseline8Bit
        level = Dataset()
        level.file_meta = meta
        level.SOPClassUID, level.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        level.StudyInstanceUID, level.SeriesInstanceUID, level.FrameOfReferenceUID = study, series, frame_of_reference
        level.Modality, level.InstanceNumber, level.PatientID = "SM", number + 1, "a-patient-by-name"
        level.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"] if number else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        frames = _frames(pixels)
        level.Rows = level.Columns = TILE
        level.TotalPixelMatrixRows, level.TotalPixelMatrixColumns = pixels.shape[:2]
        level.NumberOfFrames, level.DimensionOrganizationType = len(frames), "TILED_FULL"
        level.NumberOfOpticalPaths = level.TotalPixelMatrixFocalPlanes = 1
        level.SamplesPerPixel, level.PhotometricInterpretation, level.PlanarConfiguration = 3, "YBR_FULL_422", 0
        level.BitsAllocated, level.BitsStored, level.HighBit, level.PixelRepresentation = 8, 8, 7, 0
        measures, shared, path = Dataset(), Dataset(), Dataset()
        measures.PixelSpacing = [side * 2**number / 1000 for side in (mpp[1], mpp[0])]
        shared.PixelMeasuresSequence = [measures]
        path.OpticalPathIdentifier, path.ObjectiveLensPower = "1", "40"
        level.SharedFunctionalGroupsSequence, level.OpticalPathSequence = [shared], [path]
        level.PixelData = encapsulate(frames, has_bot=True)
        level["PixelData"].VR = "OB"
        files.append(folder / f"level-{number}.dcm")
        level.save_as(files[-1], enforce_file_format=True)
    return files


def _places(pixels: np.ndarray) -> list[tuple[int, int]]:
    """Column and row of each frame."""
    height, width = pixels.shape[:2]
    return [(column, row) for row in range(-(-height // TILE)) for column in range(-(-width // TILE))]


def _frames(pixels: np.ndarray) -> list[bytes]:
    height, width = pixels.shape[:2]
    frames = []
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            tile = np.full((TILE, TILE, 3), 255, np.uint8)
            part = pixels[top : top + TILE, left : left + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            content = io.BytesIO()
            Image.fromarray(tile).save(content, "JPEG", quality=95, subsampling=0)
            frames.append(content.getvalue())
    return frames
