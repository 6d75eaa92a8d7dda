"""Files in feature folders that no command reads, counted by kind, so that nobody takes a part for the whole."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from comel.base.names import composed

__all__ = ["count_left_out", "said_left_out"]

_FEATURES = frozenset(
    ".h5 .hdf5 .hdf .he5 .pt .pth .ckpt .bin .npy .npz .zarr .safetensors .pkl .pickle .parquet .feather .mat .tar .zip".split()  # noqa: SIM905
)
_SLIDES = frozenset(".svs .tif .tiff .ndpi .mrxs .scn .svslide .vms .vmu .bif .czi .dcm .qptiff .vsi .isyntax .zvi".split())  # noqa: SIM905


def count_left_out(paths: Sequence[Path], used: Iterable[Path]) -> dict[str, int]:
    """The number of feature and slide files in and below the folders that are not in ``used``, by suffix, most first.

    Args:
        paths: the paths given to a command; only folders count.
        used: the files that the command reads. The same name in another layout does not count as left out.
    """
    names = {composed(file.stem) for file in used}
    counts: Counter[str] = Counter()
    for folder in {path.resolve() for path in paths if path.is_dir()}:
        for _, inner, files in os.walk(folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for name in (*files, *inner):
                kind = Path(name).suffix.lower()
                if kind in _FEATURES | _SLIDES and not name.startswith(".") and composed(Path(name).stem) not in names:
                    counts[kind] += 1
            inner[:] = [name for name in inner if Path(name).suffix.lower() != ".zarr"]
    return dict(counts.most_common())


def said_left_out(paths: Sequence[Path], used: Iterable[Path]) -> str | None:
    """:func:`count_left_out` as a line, or None if nothing is left out."""
    counts = count_left_out(paths, used)
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"left out of the folders, not readable there as bags: {kinds}" if counts else None
