"""Line charts: the positions of lines, bars and ticks. ``templates/blocks.html`` draws them as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

__all__ = ["Bar", "Chart", "Line", "ticks"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 30, 44
_COLOURS = 7
_DASHES = (None, "7 3", "2 3", "8 3 2 3")
_FEW_POINTS, _BROAD = 16, 600
_LETTER = 6.5
"""Width of a letter of a tick's name in CSS pixels."""


@dataclass(frozen=True)
class Line:
    """A line through points; it is broken where y is None."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Bar:
    """A bar from ``left`` to ``right``, with a tooltip."""

    left: float
    right: float
    height: float
    words: str


@dataclass(frozen=True)
class _Drawn:
    """A line with its distinguishing colour and dash."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: int
    dash: str | None


@dataclass(frozen=True)
class Chart:
    """A chart with its legend below.

    Attributes:
        title: the title above the chart.
        lines: the lines to draw; a line without any point is left out.
        x_label, y_label: the axes' labels.
        x_range, y_range: the axes' ranges; by default the span of the lines, with y from 0.
        x_names: tick labels at x = 1, 2, ... instead of numbers.
        bars: drawn behind the lines.
        borders: x of vertical lines.
        diagonal: draw y = x, dashed.
        size: width and height in CSS pixels.
    """

    title: str
    lines: Sequence[Line]
    x_label: str
    y_label: str
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_names: Sequence[str] | None = None
    bars: Sequence[Bar] = ()
    borders: Sequence[float] = ()
    diagonal: bool = False
    size: tuple[int, int] = (440, 300)
    kind: ClassVar[str] = "chart"

    left, top = _LEFT, _TOP
    width = property(lambda self: self.size[0])
    height = property(lambda self: self.size[1])
    right = property(lambda self: self.width - _RIGHT)
    bottom = property(lambda self: self.height - _BOTTOM)
    is_broad = property(lambda self: self.width >= _BROAD)

    @cached_property
    def drawn(self) -> list[_Drawn]:
        """The lines that have a point."""
        there = [line for line in self.lines if any(value is not None for value in line.y)]
        return [
            _Drawn(
                line.name,
                list(zip(line.x, line.y, strict=True)),
                index % _COLOURS,
                _DASHES[(index // _COLOURS + index) % len(_DASHES)],
            )
            for index, line in enumerate(there)
        ]

    @cached_property
    def _span(self) -> tuple[float, float, float, float]:
        """The ends of both axes: x, x, y, y."""
        points = [point for line in self.drawn for point in line.points]
        xs, ys = [x for x, _ in points], [y for _, y in points if y is not None]
        low_x, high_x = self.x_range or (min(xs, default=0.0), max(xs, default=1.0))
        low_y, high_y = self.y_range or (min([*ys, 0.0]), max([*ys, 0.0]) or 1.0)
        return low_x, high_x if high_x > low_x else low_x + 1, low_y, high_y

    low_x = property(lambda self: self._span[0])
    high_x = property(lambda self: self._span[1])
    low_y = property(lambda self: self._span[2])
    high_y = property(lambda self: self._span[3])

    def at_x(self, x: float) -> float:
        """Where x is, in CSS pixels from the left."""
        low, high, _, _ = self._span
        place: float = round(self.left + (x - low) / (high - low) * (self.right - self.left), 1)
        return place

    def at_y(self, y: float) -> float:
        """Where y is, in CSS pixels from the top."""
        _, _, low, high = self._span
        place: float = round(self.top + (high - y) / (high - low) * (self.bottom - self.top), 1)
        return place

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """The ticks of the y axis and their labels."""
        return [(y, f"{y:g}") for y in ticks(self.low_y, self.high_y)]

    @property
    def x_ticks(self) -> list[tuple[float, str, str]]:
        """The ticks of the x axis, their names, and the part of each name that fits."""
        if self.x_names is None:
            named: list[tuple[float, str]] = [(x, f"{x:g}") for x in ticks(self.low_x, self.high_x)]
        else:
            named = list(enumerate(self.x_names, start=1))
        room = max(3, int((self.right - self.left) / max(1, len(named)) / _LETTER))
        return [(x, name, name if len(name) <= room else f"{name[: room - 1]}…") for x, name in named]

    @property
    def ends_at_a_name(self) -> bool:
        """Whether the last tick's name must end at its tick because there is no room beyond it."""
        return bool(self.x_names) and len(self.x_names or ()) > 1

    def path(self, line: _Drawn) -> str:
        """The line as an SVG path."""
        words, pen_down = [], False
        for x, y in line.points:
            if y is not None:
                words.append(f"{'L' if pen_down else 'M'}{self.at_x(x):g} {self.at_y(y):g}")
            pen_down = y is not None
        return "".join(words)

    def dots(self, line: _Drawn) -> list[tuple[float, float, str]]:
        """The points of a line that has few of them, and their tooltips."""
        if len(line.points) > _FEW_POINTS or (self.x_names is None and not self.bars):
            return []
        return [(self.at_x(x), self.at_y(y), f"{line.name}: {y:.3f}") for x, y in line.points if y is not None]


def ticks(low: float, high: float) -> list[float]:
    """About five round numbers from ``low`` to ``high``: multiples of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]
