"""Lesions and false alarms counted by hand, and connected tiles against a flood fill."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from comel.scoring.froc import FALSE_ALARMS, connected_tiles, froc


def grid(height: int, width: int, step: int = 256) -> np.ndarray:
    """Corners of all tiles of a slide, row by row."""
    return np.array([(x * step, y * step) for y in range(height) for x in range(width)])


def flooded(picture: np.ndarray) -> list[set[tuple[int, int]]]:
    """Groups of true cells that touch, corners included."""
    left, groups = {(int(y), int(x)) for y, x in np.argwhere(picture)}, []
    while left:
        group, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            group.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        groups.append(group)
    return groups


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7))), st.sampled_from([1, 256, 511]))
def test_connected_tiles_are_those_a_flood_reaches(picture: np.ndarray, step: int) -> None:
    group = connected_tiles(grid(picture.shape[0], picture.shape[1], step), picture.ravel(), np.array([step, step])).reshape(
        picture.shape
    )
    assert ((group >= 0) == picture).all()
    found = [{(int(y), int(x)) for y, x in np.argwhere(group == number)} for number in range(group.max(initial=-1) + 1)]
    assert sorted(map(sorted, found)) == sorted(map(sorted, flooded(picture)))


def test_by_hand() -> None:
    """Two slides. Lesions: a pair found at 0.9, one found at 0.6, one missed. False alarms: 0.8, and 0.7 on the other."""
    row = grid(1, 11)
    first = np.array([0.7, 0.9, 0.0, 0.8, 0.0, 0.6, 0.0, 0.1, 0.0, 0.0, 0.0])
    labels = np.array([1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0])
    second = np.array([0.0, 0.7, 0.65, 0.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    clean = np.zeros(11, dtype=int)
    clean[4] = -1
    got = froc([first, second], [labels, clean], [row, row], threshold=0.5)
    # 1/4 of a false alarm a slide is none over two slides, 1/2 is one (0.8), 1 is both
    assert got == {0.25: pytest.approx(1 / 3), 0.5: pytest.approx(1 / 3), **dict.fromkeys((1.0, 2.0, 4.0, 8.0), 2 / 3)}


def test_several_detections_of_a_lesion_count_once_and_a_peak_outside_is_a_false_alarm() -> None:
    row = grid(1, 6)
    labels = np.array([1, 1, 1, 1, 1, 0])
    twice = froc([np.array([0.9, 0.0, 0.0, 0.8, 0.0, 0.0])], [labels], [row], threshold=0.5)
    assert twice == dict.fromkeys(FALSE_ALARMS, 1.0)
    outside = froc([np.array([0.0, 0.0, 0.0, 0.0, 0.8, 0.9])], [labels], [row], threshold=0.5)
    assert outside == dict.fromkeys(FALSE_ALARMS, 0.0)


def test_positions_rounded_from_a_fraction_still_touch() -> None:
    places = np.array([(round(i * 227.6), round(j * 227.6)) for j in range(9) for i in range(9)])
    labels = np.ones(81, dtype=int)
    assert froc([np.r_[1.0, np.zeros(80)]], [labels], [places], threshold=0.5) == dict.fromkeys(FALSE_ALARMS, 1.0)


def test_no_lesion_and_tiny_slides() -> None:
    assert froc([], [], [], threshold=0.5) is None
    empty = np.empty((0, 2))
    assert froc([np.empty(0)], [np.empty(0)], [empty], threshold=0.5) is None
    assert froc([np.array([0.9])], [np.array([0])], [np.array([[5, 5]])], threshold=0.5) is None
    assert froc([np.array([0.9])], [np.array([1])], [np.array([[5, 5]])], threshold=0.5) == dict.fromkeys(FALSE_ALARMS, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_more_false_alarms_never_find_less(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = [generator.integers(0, 10, 30) / 10 for _ in range(3)]
    labels = [generator.integers(-1, 2, 30) for _ in range(3)]
    got = froc(scores, labels, [grid(5, 6)] * 3, threshold=0.4)
    assert got is not None
    values = list(got.values())
    assert values == sorted(values)
    assert all(0 <= value <= 1 for value in values)
