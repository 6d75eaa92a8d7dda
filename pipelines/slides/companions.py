"""Slides with a missing part: a MIRAX file without its folder, an index without its images."""

from __future__ import annotations

from pathlib import Path

from comel.errors import SlideError

__all__ = ["check_companions", "ini_values"]

_INDEX_BYTES = 1 << 20
_SLIDEDAT = "Slidedat.ini"


def check_companions(path: Path) -> None:
    """Report which file or folder beside a slide is missing.

    Args:
        path: the slide; only MIRAX, VMS and VMU are checked.

    Raises:
        SlideError: a part is missing.
        OSError: the index of a slide cannot be read.
    """
    kind = path.suffix.lower()
    if kind == ".mrxs":
        _check_mirax(path)
    elif kind in (".vms", ".vmu"):
        named = [value for name, value in ini_values(path) if name.startswith(("imagefile", "mapfile", "macroimage")) and value]
        missing = sorted({name for name in named if name == Path(name).name and not (path.parent / name).exists()})
        if missing:
            raise _missing(path, f"{_listed(missing)} beside it", "its images")


def ini_values(path: Path) -> list[tuple[str, str]]:
    """(name in lower case, value) of every line of an index of the form ``name = value``.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as stream:
        lines = stream.read(_INDEX_BYTES).decode("utf-8-sig", errors="replace").splitlines()
    pairs = (line.partition("=") for line in lines)
    return [(name.strip().lower(), value.strip()) for name, equals, value in pairs if equals]


def _check_mirax(path: Path) -> None:
    folder = path.with_suffix("")
    if not folder.is_dir():
        target = path.resolve()
        if path.is_symlink() and target.with_suffix("").is_dir():
            said = f"{path}: a link, and the folder {folder.name}/ is not beside it"
            raise SlideError(said, f"give {target}, or link its folder too, beside the link and with the same name")
        what = f"the folder {folder.name}/ beside it, in which the pixels of a MIRAX slide lie"
        raise _missing(path, what, f"the folder, and leave it the name of the {path.suffix} file")
    if not (folder / _SLIDEDAT).is_file():
        raise _missing(path, f"{folder.name}/{_SLIDEDAT}", "the whole folder")
    values = ini_values(folder / _SLIDEDAT)
    parts = [value for name, value in values if name == "indexfile" or (name.startswith("file_") and name[5:].isdigit())]
    missing = sorted({part for part in parts if part == Path(part).name and not (folder / part).is_file()})
    if missing:
        raise _missing(path, f"{_listed(missing)} in its folder {folder.name}/", "the whole folder")


def _missing(path: Path, what: str, whole: str) -> SlideError:
    return SlideError(f"{path}: {what}, is missing" if ", " in what else f"{path}: {what} is missing", f"copy {whole} too")


def _listed(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]
