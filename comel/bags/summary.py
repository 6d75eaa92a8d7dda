"""What a folder of bags contains: tiles, tissue and positive tiles, per bag and in total."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from comel.bags.bag import Bag
from comel.bags.foreign import feature_files, read_any_bag
from comel.errors import BagError

__all__ = ["BLURRED", "bag_statistics", "statistics_table"]

BLURRED = 0.6
"""A tile with more blur than this is out of focus; ``pipelines/tiles/quality.py`` defines the measure."""
_SPOILT = {"pen_over_tenth": ("pen", 0.1), "fold_over_tenth": ("fold", 0.1), "blurred": ("blur", BLURRED)}


def bag_statistics(paths: Sequence[Path]) -> dict[str, Any]:
    """Count tiles, tissue and positive tiles.

    Args:
        paths: feature files, or folders of them, of any layout that :mod:`comel.bags.foreign` reads.

    Returns:
        ``bags``: for each file ``file, tiles, tissue_mm2, labelled_tiles, positive_tiles, positive_share, encoder, mpp,
        scales`` (the tiles of each coarser scale by its mpp)``, dimension``, or ``file, error``. ``all``: ``bags, unreadable,
        tiles``, the fewest, the median and the most tiles of a bag, sums of the others, and every encoder, mpp and dimension
        found. A value that the files do not state is None: tissue of another tool's bags, the positive share if no tile
        has a label. Both also hold ``pen_over_tenth``, ``fold_over_tenth`` and ``blurred``: the shares of their tiles that
        have more than a tenth of their area under ink or on folds, and a blur over :data:`BLURRED`.

    Raises:
        BagError: there is no feature file at all.
    """
    entries: list[dict[str, Any]] = []
    for file in feature_files(paths):
        try:
            entries.append({"file": str(file), **_of_bag(read_any_bag(file))})
        except BagError as error:
            entries.append({"file": str(file), "error": str(error)})
    read = [entry for entry in entries if "error" not in entry]
    tiles = [entry["tiles"] for entry in read]
    tissue = [entry["tissue_mm2"] for entry in read if entry["tissue_mm2"] is not None]
    labelled, positive = (sum(entry[name] for entry in read) for name in ("labelled_tiles", "positive_tiles"))
    together = {
        "bags": len(read),
        "unreadable": len(entries) - len(read),
        "tiles": sum(tiles),
        "tiles_fewest": min(tiles, default=None),
        "tiles_median": float(np.median(tiles)) if tiles else None,
        "tiles_most": max(tiles, default=None),
        "tissue_mm2": sum(tissue) if tissue else None,
        "labelled_tiles": labelled,
        "positive_tiles": positive,
        "positive_share": positive / labelled if labelled else None,
        **{name: _mean_over_tiles(read, name) for name in _SPOILT},
        "encoders": _different(read, "encoder"),
        "mpps": _different(read, "mpp"),
        "dimensions": _different(read, "dimension"),
    }
    return {"bags": entries, "all": together}


def statistics_table(statistics: Mapping[str, Any]) -> str:
    """The result of :func:`bag_statistics` as text: one line per bag, one for all, and a line for each file with an error."""
    lines: list[tuple[str, ...]] = [
        ("bag", "tiles", "tissue mm2", "positive", "pen", "fold", "blurred", "encoder", "um/px", "dimension")
    ]
    for entry in statistics["bags"]:
        if "error" not in entry:
            mpps = [entry["mpp"], *map(float, entry["scales"])]
            lines.append(_line(Path(entry["file"]).stem, entry, [entry["encoder"]], mpps, [entry["dimension"]]))
    together = statistics["all"]
    lines.append(_line(f"all {together['bags']}", together, *(together[name] for name in ("encoders", "mpps", "dimensions"))))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, *(entry["error"] for entry in statistics["bags"] if "error" in entry)])


def _of_bag(bag: Bag) -> dict[str, Any]:
    labels = bag.labels if bag.labels is not None else np.zeros(0, np.int8)
    labelled, positive = int(np.isin(labels, (0, 1)).sum()), int((labels == 1).sum())
    return {
        "tiles": len(bag),
        "tissue_mm2": _tissue(bag),
        **_spoilt(bag),
        "labelled_tiles": labelled,
        "positive_tiles": positive,
        "positive_share": positive / labelled if labelled else None,
        "encoder": bag.contract.encoder,
        "mpp": bag.contract.mpp,
        "scales": {f"{scale.contract.mpp:g}": len(scale) for scale in bag.scales},
        "dimension": bag.contract.dimension,
    }


def _spoilt(bag: Bag) -> dict[str, float | None]:
    """Shares of the bag's tiles; None if the bag does not state the measure, or has no tiles."""
    measured = {name: bag.quality.get(quality) for name, (quality, _) in _SPOILT.items()}
    return {
        name: None if values is None or not len(values) else float((values > _SPOILT[name][1]).mean())
        for name, values in measured.items()
    }


def _mean_over_tiles(entries: Sequence[Mapping[str, Any]], name: str) -> float | None:
    known = [(entry[name], entry["tiles"]) for entry in entries if entry[name] is not None]
    return sum(share * tiles for share, tiles in known) / sum(tiles for _, tiles in known) if known else None


def _tissue(bag: Bag) -> float | None:
    """Square millimetres of tissue under the tiles; each counts for the area of its stride, so that overlap counts once."""
    share = bag.quality.get("tissue")
    if bag.geometry is None or share is None or not np.isfinite(share).all():
        return None
    stride = bag.geometry.patch_size - bag.geometry.overlap
    cell = stride * bag.geometry.mpp_x * stride * bag.geometry.mpp_y / 1e6
    return float(share.astype(np.float64).sum() * cell)


def _different(entries: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    """The distinct values in order, None last."""
    return sorted({entry[name] for entry in entries}, key=lambda value: (value is None, 0 if value is None else value))


def _line(
    name: str, entry: Mapping[str, Any], encoders: Sequence[Any], mpps: Sequence[Any], dimensions: Sequence[Any]
) -> tuple[str, ...]:
    tissue, share = entry["tissue_mm2"], entry["positive_share"]
    return (
        name,
        str(entry["tiles"]),
        "-" if tissue is None else f"{tissue:.2f}",
        "-" if share is None else f"{share:.3f}",
        *("-" if entry[name] is None else f"{entry[name]:.1%}" for name in _SPOILT),
        ", ".join(str(encoder or "not stated") for encoder in encoders),
        ", ".join("-" if mpp is None else f"{mpp:g}" for mpp in mpps),
        ", ".join(map(str, dimensions)),
    )
