"""Valid files of formats that are not read here, recognised by their first bytes or their suffix."""

from __future__ import annotations

from pathlib import Path

__all__ = ["image_without_its_suffix", "jpeg_bits", "kind_of"]

_BEGINNINGS = {
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
    b"\x89HDF": "HDF5",
    b"II\xbc\x01": "JPEG XR",
}
_SUFFIXES = {
    ".isyntax": "Philips iSyntax",
    ".kfb": "KFBIO",
    ".lif": "Leica LIF",
    ".mds": "Motic",
    ".mdsx": "Motic",
    ".nd2": "Nikon ND2",
    ".ndpis": "Hamamatsu NDPIS",
    ".oir": "Olympus OIR",
    ".sdpc": "SQRAY SDPC",
    ".tmap": "UNIC TMAP",
    ".vsi": "Olympus VSI",
    ".zvi": "Zeiss ZVI",
}
_IMAGES = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}
_OF_THESE = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".mrxs")
"""Suffixes under which such an image is read, and that of a slide that begins with one."""
_LARGEST_HEADER = 1 << 20


def kind_of(path: Path) -> str | None:
    """The name of the file's format, if it is a known one that is not read.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        head = stream.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1", b"avif"):
        return "AVIF" if head[8:12] == b"avif" else "HEIF"
    begun = next((kind for beginning, kind in _BEGINNINGS.items() if head.startswith(beginning)), None)
    return begun or _SUFFIXES.get(path.suffix.lower())


def image_without_its_suffix(path: Path) -> str | None:
    """The suffix that a PNG or JPEG image should have, if it has one by which no image is known.

    Raises:
        OSError: it cannot be read.
    """
    if path.suffix.lower() in _OF_THESE:
        return None
    with open(path, "rb") as stream:
        head = stream.read(8)
    return next((suffix for beginning, suffix in _IMAGES.items() if head.startswith(beginning)), None)


def jpeg_bits(path: Path) -> int | None:
    """Bits of the samples of a JPEG file; None if it is not a JPEG or does not state them.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        content = stream.read(_LARGEST_HEADER)
    place = 2
    while content[:2] == b"\xff\xd8" and place + 5 < len(content) and content[place] == 0xFF:
        marker, length = content[place + 1], int.from_bytes(content[place + 2 : place + 4], "big")
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            return content[place + 4]
        place += 2 + length
    return None
