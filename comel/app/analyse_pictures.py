"""The pictures of ``comel analyse``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["draw_distances", "draw_heads", "draw_patterns", "draw_where"]


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def draw_heads(heads: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Probability lost without each head, a row per layer, with the number in each cell."""
    pyplot = _pyplot()
    layers, most = sorted({row["layer"] for row in heads}), max(row["head"] for row in heads)
    values = np.full((len(layers), most), np.nan)
    for row in heads:
        values[layers.index(row["layer"]), row["head"] - 1] = row["pruned"]["drop"]
    limit = max(1e-6, float(np.nanmax(np.abs(values))))
    figure, axes = pyplot.subplots(figsize=(1.6 + 0.75 * most, 1.4 + 0.6 * len(layers)), constrained_layout=True)
    image = axes.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for (row_at, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * limit else "black"
            axes.text(column, row_at, f"{value:+.3f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(most), [f"head {n + 1}" for n in range(most)], fontsize=8)
    axes.set_yticks(range(len(layers)), [f"layer {n}" for n in layers], fontsize=8)
    figure.colorbar(image, label="probability lost without it")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_distances(distances: Sequence[Mapping[str, Any]], unit: str, path: Path) -> None:
    """Attention over distance, over what an indifferent head gives, a panel per layer and a line per head."""
    from matplotlib.ticker import ScalarFormatter

    pyplot = _pyplot()
    panels = len(distances)
    figure, every = pyplot.subplots(1, panels, figsize=(5 * panels, 3.8), squeeze=False, constrained_layout=True)
    for axes, layer in zip(every[0], distances, strict=True):
        for number, line in enumerate(layer["mass_over_base"]):
            axes.plot(layer["distance"], np.maximum(line, 1e-6), label=f"head {number + 1}", linewidth=1.4)
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set(yscale="log", title=f"layer {layer['layer']}", xlabel=f"distance ({'µm' if unit == 'um' else unit})")
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(ScalarFormatter())
        axes.grid(alpha=0.25)
    every[0][0].set_ylabel("attention over that of an indifferent head")
    every[0][-1].legend(fontsize=7, ncols=2)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_patterns(patterns: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each head's attention around a tile, those that are alike side by side; 1 is indifferent."""
    pyplot = _pyplot()
    ordered = sorted(patterns, key=lambda row: (row["group"], row["layer"], row["head"]))
    columns = min(8, len(ordered))
    rows = -(-len(ordered) // columns)
    figure, every = pyplot.subplots(rows, columns, figsize=(1.35 * columns, 1.6 * rows), squeeze=False, constrained_layout=True)
    largest = max(float(np.max(row["map"])) for row in ordered)
    image = None
    for axes in every.flat:
        axes.axis("off")
    for axes, row in zip(every.flat, ordered, strict=False):
        image = axes.imshow(row["map"], cmap="viridis", vmin=0, vmax=largest)
        axes.set_title(f"{row['layer']}.{row['head']}  group {row['group'] + 1}", fontsize=7)
    figure.colorbar(image, ax=every, shrink=0.8, label="times indifferent")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def draw_where(where: Mapping[str, Any], name: str, path: Path) -> None:
    """Where one tile looks, by head, over the slide's tiles; the tile itself is ringed."""
    pyplot = _pyplot()
    cells, rows, query = where["cells"], where["rows"], where["query"]
    width, height = cells.max(axis=0) + 1
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    tall = max(0.6, min(2.0, height / width))
    size = (3.0 * columns, 3.0 * tall * lines + 0.5)
    figure, every = pyplot.subplots(lines, columns, figsize=size, squeeze=False, constrained_layout=True)
    for axes in every.flat:
        axes.axis("off")
    for number, (axes, row) in enumerate(zip(every.flat, rows, strict=False)):
        canvas = np.full((height, width), np.nan)
        canvas[cells[:, 1], cells[:, 0]] = row * len(row)
        axes.imshow(canvas, cmap="magma", interpolation="nearest", vmin=0)
        axes.plot(*cells[query], "o", markersize=9, markerfacecolor="none", markeredgecolor="deepskyblue", markeredgewidth=1.6)
        axes.set_title(f"head {number + 1}: up to {np.nanmax(canvas):.1f} times indifferent", fontsize=7)
    figure.suptitle(name, fontsize=9)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
