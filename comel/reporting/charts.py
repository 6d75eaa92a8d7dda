"""Line charts as inline SVG. Lines differ in colour, dash and marker, so that they can be told apart without colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from comel.reporting.markup import Markup, tag

__all__ = ["Bar", "Line", "chart"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 44
_DASHES = ("", "7 3", "2 3", "8 3 2 3")
_FEW_POINTS, _BROAD = 16, 600
COLOURS = 7


@dataclass(frozen=True)
class Line:
    """A line through points; where y is None it is broken."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Bar:
    """A bar from ``left`` to ``right``, with words for whoever points at it."""

    left: float
    right: float
    height: float
    words: str


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_names: Sequence[str] | None = None,
    bars: Sequence[Bar] = (),
    borders: Sequence[float] = (),
    diagonal: bool = False,
    size: tuple[int, int] = (440, 300),
) -> Markup:
    """A figure: the chart and, below it, which line is which.

    Args:
        title: above the chart.
        lines: what to draw; a line without a single point is left out.
        x_label, y_label: of the axes.
        x_range, y_range: of the axes; default what the lines span, y from 0.
        x_names: tick labels at x = 1, 2, ... in place of numbers.
        bars: drawn behind the lines.
        borders: x of vertical lines.
        diagonal: draw y = x, dashed.
        size: width and height in CSS pixels.
    """
    drawn = [line for line in lines if any(value is not None for value in line.y)]
    xs = [x for line in drawn for x in line.x]
    ys = [y for line in drawn for y in line.y if y is not None]
    low_x, high_x = x_range or (min(xs, default=0.0), max(xs, default=1.0))
    low_y, high_y = y_range or (min([*ys, 0.0]), max([*ys, 0.0]) or 1.0)
    high_x = high_x if high_x > low_x else low_x + 1
    width, height = size
    plot_width, plot_height = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def at_x(x: float) -> float:
        return round(_LEFT + (x - low_x) / (high_x - low_x) * plot_width, 1)

    def at_y(y: float) -> float:
        return round(_TOP + (high_y - y) / (high_y - low_y) * plot_height, 1)

    parts: list[Markup] = []
    for y in ticks(low_y, high_y):
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=width - _RIGHT, y1=at_y(y), y2=at_y(y)))
        parts.append(tag("text", f"{y:g}", x=_LEFT - 7, y=at_y(y) + 4, text_anchor="end"))
    named = list(enumerate(x_names, start=1)) if x_names is not None else [(x, f"{x:g}") for x in ticks(low_x, high_x)]
    room = max(3, int(plot_width / max(1, len(named)) / 6.5))
    for place, name in named:
        anchor = "end" if x_names and len(named) > 1 and place == len(named) else "middle"
        shown = name if len(name) <= room else f"{name[: room - 1]}…"
        parts.append(tag("text", tag("title", name), shown, x=at_x(place), y=height - _BOTTOM + 17, text_anchor=anchor))
    parts += [
        tag("rect", tag("title", bar.words), class_="bar", x=at_x(bar.left), y=at_y(bar.height),
            width=round(at_x(bar.right) - at_x(bar.left), 1), height=round(at_y(low_y) - at_y(bar.height), 1))
        for bar in bars
    ]  # fmt: skip
    inside = [at_x(x) for x in borders if low_x < x < high_x]
    parts += [tag("line", class_="border", x1=x, x2=x, y1=_TOP, y2=height - _BOTTOM) for x in inside]
    if diagonal:
        parts.append(tag("line", class_="border", x1=at_x(low_x), y1=at_y(low_y), x2=at_x(high_x), y2=at_y(high_y)))
    axis = f"M{_LEFT} {_TOP}V{height - _BOTTOM}H{width - _RIGHT}"
    parts.append(tag("path", class_="axis", d=axis))
    for index, line in enumerate(drawn):
        points = [None if y is None else (at_x(x), at_y(y)) for x, y in zip(line.x, line.y, strict=True)]
        parts.append(tag("path", class_=f"line c{index % COLOURS}", d=_path(points), stroke_dasharray=_dash(index)))
        if len(points) <= _FEW_POINTS and (x_names is not None or bars):
            parts += [
                tag("circle", tag("title", f"{line.name}: {y:.3f}"), class_=f"dot c{index % COLOURS}", cx=p[0], cy=p[1], r=3.5)
                for p, y in zip(points, line.y, strict=True)
                if p is not None
            ]
    middle = _TOP + plot_height / 2
    parts += [
        tag("text", title, class_="title", x=_LEFT, y=17),
        tag("text", x_label, x=_LEFT + plot_width / 2, y=height - 7, text_anchor="middle"),
        tag("text", y_label, x=0, y=0, text_anchor="middle", transform=f"translate(13 {middle:g}) rotate(-90)"),
    ]
    picture = tag("svg", *parts, viewBox=f"0 0 {width} {height}", width=width, height=height, role="img", aria_label=title)
    words = "broad" if width >= _BROAD else None
    return tag("figure", picture, _legend(drawn) if len(drawn) > 1 else None, style=f"width:{width}px", class_=words)


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    words, pen_down = [], False
    for point in points:
        if point is not None:
            words.append(f"{'L' if pen_down else 'M'}{point[0]:g} {point[1]:g}")
        pen_down = point is not None
    return "".join(words)


def _dash(index: int) -> str | None:
    return _DASHES[(index // COLOURS + index) % len(_DASHES)] or None


def _legend(lines: Sequence[Line]) -> Markup:
    entries = []
    for index, line in enumerate(lines):
        stroke = tag("path", class_=f"line c{index % COLOURS}", d="M0 6H26", stroke_dasharray=_dash(index))
        sample = tag("svg", stroke, viewBox="0 0 26 12", width=26, height=12, aria_hidden="true")
        entries.append(tag("li", sample, " ", line.name))
    return tag("figcaption", tag("ul", *entries, class_="legend"))
