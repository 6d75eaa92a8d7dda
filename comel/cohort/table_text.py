"""Tables as common programs write them: Excel in any locale, R, pandas, LibreOffice.

UTF-8 with or without a byte-order mark, UTF-16; commas, semicolons, tabs or bars; a first line ``sep=;``; blank rows. Anything
else (a workbook called ``.csv``) is refused, naming what it is.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from comel.base.files import read_bytes
from comel.base.names import without_invisible
from comel.errors import ManifestError

__all__ = ["MISSING_WORDS", "Lines", "is_missing", "lines_of", "read_content"]

Lines = list[tuple[int, list[str]]]
"""The non-blank rows, each with its number in a spreadsheet, cells stripped of white space."""

_WORDS = r"""
nan -nan na n/a <na> null nat #n/a #na #n/a_n/a 1.#ind -1.#ind 1.#qnan -1.#qnan
na_character_ na_integer_ na_real_ none nil missing \N
#null! #value! #ref! #div/0! #num! #name? #nv #n/d #bezug! #wert! #valeur! #nul! #nombre?
. -- '-- [not_available] [not_applicable] [unknown]
"""
# pandas and NumPy; R, Julia, Python and SQL; Excel in English, German, French and Spanish; Stata and the GDC.
MISSING_WORDS = frozenset(_WORDS.casefold().split())
"""What programs write for a missing value, in lower case and with ``_`` for a space."""

_SEPARATORS = ",;\t|"
_SEP_LINE = re.compile(r'"?sep=(\\t|[^\r\n"])"?[,;\t|]*(\r\n|\r|\n|$)', re.IGNORECASE)
_KINDS = {
    b"PK\x03\x04": "an Excel or LibreOffice workbook (.xlsx, .ods) or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"\x1f\x8b": "a compressed file (.gz)",
    b"PAR1": "a Parquet file",
    b"SQLite format 3": "a database",
    b"%PDF": "a PDF",
    b"{\\rtf": "a text with formats (.rtf)",
    b"\x89HDF": "an HDF5 file",
    b"RDX": "an R data file",
    b"$FL2": "an SPSS file",
}
_MARKUP = re.compile(r"\s*<(!doctype|html|\?xml|table|meta)\b", re.IGNORECASE)
_SAVE_AS = "save it as 'CSV UTF-8 (comma delimited)'"


def is_missing(cell: str) -> bool:
    """Whether a cell is missing: empty, white space, invisible characters, or one of :data:`MISSING_WORDS`."""
    return not (word := without_invisible(cell).strip()) or word.casefold().replace(" ", "_") in MISSING_WORDS


def read_content(path: Path, max_bytes: int) -> bytes:
    """The bytes of a table.

    Raises:
        ManifestError: it cannot be read, or is larger than ``max_bytes``.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise ManifestError(
                f"{path}: {size >> 20} MiB, too large for a table of slides", "give a table with one row per slide"
            )
        return read_bytes(path)
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or 'cannot be read'}", "give the path of a table, such as CSV") from None


def _text(path: Path, content: bytes) -> str:
    kind = next((kind for beginning, kind in _KINDS.items() if content.startswith(beginning)), None)
    if kind is not None:
        raise ManifestError(f"{path}: {kind}, whatever its name", f"open it and {_SAVE_AS}")
    try:
        text = content.decode(_encoding(content)).lstrip("\ufeff")
    except UnicodeDecodeError:
        raise ManifestError(f"{path}: not UTF-8 text", _SAVE_AS) from None
    if _MARKUP.match(text):
        raise ManifestError(f"{path}: a web page or XML, whatever its name", f"open it in a spreadsheet and {_SAVE_AS}")
    return text


def _encoding(content: bytes) -> str:
    """Detected by the byte-order mark; without one, text with a zero in every second byte is UTF-16."""
    if content.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "utf-32"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    start = content[:64]
    if len(start) >= 4 and not start[0] and start[1]:
        return "utf-16-be" if b"\0" not in start[1::2] else "utf-8"
    if len(start) >= 4 and start[0] and not start[1]:
        return "utf-16-le" if b"\0" not in start[::2] else "utf-8"
    return "utf-8"


def lines_of(path: Path, content: bytes, *, known: Collection[str] = (), comments: bool = False) -> Lines:
    """The non-blank rows of a table.

    A line ``sep=;`` at the top states the separator and is not a row, as in Excel. Without it, it is whichever of comma,
    semicolon, tab and bar that gives the header most known columns, otherwise most cells.

    Args:
        path: the table, for messages.
        content: its bytes.
        known: names that the header may hold.
        comments: leave out lines that start with ``#``.

    Raises:
        ManifestError: it is not text, or its quotes do not match; an empty table has no rows.
    """
    text = _text(path, content)
    stated = _SEP_LINE.match(text)
    if stated:
        text = text[stated.end() :]
    try:
        separator = (stated[1].replace("\\t", "\t") if stated else None) or _separator(text, known, comments)
        rows = _rows(text, separator)
        lines = [(number, [cell.strip() for cell in cells]) for number, cells in enumerate(rows, start=1)]
    except csv.Error as error:
        raise ManifestError(f"{path.name}: not a CSV ({error})", "check the quotes") from None
    return [(number, cells) for number, cells in lines if any(cells) and not (comments and cells[0].startswith("#"))]


def _rows(text: str, separator: str) -> Iterator[list[str]]:
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)


def _separator(text: str, known: Collection[str], comments: bool) -> str:
    def fitness(separator: str) -> tuple[int, int]:
        try:
            for cells in _rows(text, separator):
                names = [without_invisible(cell).strip() for cell in cells]
                if any(name.strip(_SEPARATORS) for name in names) and not (comments and names[0].startswith("#")):
                    return sum(name in known for name in names), len(names)
        except csv.Error:
            pass
        return 0, 0

    return max(_SEPARATORS, key=fitness)
