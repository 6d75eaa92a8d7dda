"""Numbers of a report as text, and tables whose numbers stay readable in print and without colour."""

from __future__ import annotations

from collections.abc import Sequence

from comel.reporting.blocks import Cell, Heats

__all__ = ["MISSING", "count", "duration", "heat_colour", "heat_table", "score"]

MISSING = "-"

# Dark text on the darker end has a contrast above 7 to 1.
_LIGHT, _DARK = (247, 251, 255), (107, 174, 214)


def score(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """A score with three decimals and its interval; a dash if it is not defined."""
    if value is None:
        return MISSING
    # Adding 0.0 makes a rounded -0.0 positive.
    text = f"{round(value, 3) + 0.0:.3f}"
    return text if interval is None else f"{text} [{interval[0]:.3f}, {interval[1]:.3f}]"


def count(value: float | None) -> str:
    """A count with separated thousands."""
    return MISSING if value is None else f"{value:,.0f}".replace(",", " ")


def duration(seconds: float | None) -> str:
    """Seconds with separated thousands."""
    return MISSING if seconds is None else f"{seconds:,.1f}".replace(",", " ")


def heat_colour(value: float) -> str:
    """One hue, from light at 0 to dark at 1."""
    share = min(1.0, max(0.0, value))
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(_LIGHT, _DARK, strict=True))


def heat_table(
    caption: str,
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    *,
    corner: str = "",
    texts: Sequence[Sequence[str]] | None = None,
    faint: Sequence[Sequence[bool]] | None = None,
) -> Heats:
    """A table of values from 0 to 1 on a background that darkens with them.

    Args:
        caption: the caption above the table.
        columns: the columns' names.
        rows: a name and one value per column; None is an empty cell.
        corner: the name of the rows.
        texts: cell texts to print instead of the values.
        faint: cells to print in italics.
    """
    body = []
    for r, (name, values) in enumerate(rows):
        cells = []
        for c, value in enumerate(values):
            text = texts[r][c] if texts is not None else score(value)
            look = " ".join(["heat"] * (value is not None) + ["faint"] * bool(faint is not None and faint[r][c]))
            cells.append(Cell(text, look or None, None if value is None else f"background:{heat_colour(value)}"))
        body.append((name, cells))
    return Heats(caption, columns, body, corner)
