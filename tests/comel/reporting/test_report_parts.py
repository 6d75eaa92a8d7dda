"""Curves, bins, colours, charts and what is escaped, computed another way."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.reporting.blocks import Block, Cards, Facts, Fold, Table, Text
from comel.reporting.cases import CaseTable, best_and_worst, calibration_error, confusion, reliability, roc_curves
from comel.reporting.charts import Chart, Line, ticks
from comel.reporting.page import template
from comel.reporting.slides import SlideMap, Slides
from comel.reporting.tables import count, heat_colour, heat_table, score


def table_of(probabilities: np.ndarray, truth: np.ndarray) -> CaseTable:
    names = tuple(f"case-{i}" for i in range(len(truth)))
    classes = tuple(f"class-{c}" for c in range(probabilities.shape[1]))
    return CaseTable(names, names, ("task",) * len(truth), classes, truth, probabilities)


@pytest.fixture
def cases() -> CaseTable:
    generator = np.random.default_rng(3)
    probabilities = generator.dirichlet((1.0, 1.0, 1.0), size=40)
    return table_of(probabilities, generator.integers(3, size=40))


def test_the_area_is_the_share_of_pairs_in_order(cases: CaseTable) -> None:
    curves = roc_curves(cases)
    assert [roc.name for roc in curves] == list(cases.classes)
    for column, roc in enumerate(curves):
        inside = cases.probabilities[cases.truth == column, column]
        outside = cases.probabilities[cases.truth != column, column]
        wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a in inside for b in outside)
        assert roc.auc == pytest.approx(wins / (len(inside) * len(outside)))
        assert (roc.false_positive_rate[0], roc.true_positive_rate[-1]) == (0, 1)


def test_a_class_without_cases_has_no_curve() -> None:
    truth = np.array([0, 0, 1])
    assert [roc.name for roc in roc_curves(table_of(np.full((3, 3), 1 / 3), truth))] == ["class-0", "class-1"]


def test_bins_give_the_calibration_error(cases: CaseTable) -> None:
    bins = reliability(cases)
    assert sum(members for _, _, members in bins) == len(cases)
    gap = sum(members * abs(accuracy - confidence) for confidence, accuracy, members in bins) / len(cases)
    error = calibration_error(cases)
    assert error is not None
    assert error == pytest.approx(gap)
    for confidence, accuracy, members in bins:
        low = (math.ceil(confidence * 15) - 1) / 15
        chosen = [i for i in range(len(cases)) if low < cases.probabilities[i].max() <= low + 1 / 15]
        assert members == len(chosen)
        assert accuracy == pytest.approx(np.mean([cases.probabilities[i].argmax() == cases.truth[i] for i in chosen]))


def test_a_confidence_on_the_edge_of_a_bin_is_in_the_lower_one() -> None:
    edge = float(np.linspace(0, 1, 16)[12])
    probabilities = np.array([[edge, 1 - edge], [edge - 0.03, 1.03 - edge]])
    cases = table_of(probabilities, np.array([0, 1]))
    assert [members for _, _, members in reliability(cases)] == [2]
    assert calibration_error(cases) == pytest.approx(abs(0.5 - (edge - 0.015)))


def test_confusion_counts_by_true_and_predicted_class(cases: CaseTable) -> None:
    expected = np.zeros((3, 3), int)
    for row, truth in zip(cases.probabilities, cases.truth, strict=True):
        expected[truth, max(range(3), key=lambda c: row[c])] += 1
    assert (confusion(cases) == expected).all()


@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9, 1.0]), max_size=12), st.integers(1, 4))
def test_best_and_worst_are_apart_and_in_order(values: list[float], wanted: int) -> None:
    probabilities = np.array([[value, 1 - value] for value in values]).reshape(-1, 2)
    best, worst = best_and_worst(table_of(probabilities, np.zeros(len(values), int)), count=wanted)
    assert not set(best) & set(worst)
    assert len(best) + len(worst) == min(len(values), 2 * wanted)
    rest = set(range(len(values))) - set(best) - set(worst)
    assert all(values[w] <= values[o] <= values[b] for w in worst for b in best for o in rest | {w, b})
    assert all(values[a] <= values[b] for a, b in pairwise(worst))
    assert all(values[a] >= values[b] for a, b in pairwise(best))


def luminance(colour: str) -> float:
    """Relative luminance after WCAG 2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_heat_darkens_steadily_and_text_stays_readable() -> None:
    values = [luminance(heat_colour(step / 20)) for step in range(21)]
    assert all(a > b for a, b in pairwise(values))
    assert min(values) + 0.05 >= 7 * (luminance("#10141a") + 0.05)
    assert heat_colour(-1) == heat_colour(0)
    assert heat_colour(2) == heat_colour(1)


def test_numbers_as_text() -> None:
    assert [score(None), score(-0.0001), score(0.12345), score(0.5, (0.25, 0.75))] == [
        "-", "0.000", "0.123", "0.500 [0.250, 0.750]",
    ]  # fmt: skip
    assert [count(None), count(0), count(1234567.0)] == ["-", "0", "1 234 567"]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    if high - low < 1e-9 * max(1.0, abs(low)):
        return
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    slack = 1e-6 * (high - low) + 1e-9 * abs(low)
    assert all(low - slack <= tick <= high + slack for tick in found)


def drawn(*blocks: Block) -> str:
    """The blocks as HTML."""
    return str(template("blocks.html").module.draw(blocks))


def test_a_line_is_broken_where_a_value_is_missing() -> None:
    figure = Chart("t", [Line("a", [1, 2, 3, 4], [0.0, None, 0.5, 1.0])], "x", "y", y_range=(0, 1))
    path = re.search(r'class="line c0" d="([^"]*)"', drawn(figure))
    assert path is not None
    # The plot is 374 wide from 52 and 226 high from 30.
    assert path[1] == "M52 256M301.3 143L426 30"


def test_a_line_without_points_is_not_drawn() -> None:
    figure = drawn(Chart("t", [Line("empty", [1], [None]), Line("b", [1], [1.0])], "x", "y"))
    assert "empty" not in figure
    assert figure.count('class="line') == 1


HOSTILE = """</td></pre></title><b a="1">&'x'"""


def test_whatever_a_block_says_is_escaped() -> None:
    line = Line(HOSTILE, [1, 2], [0.0, 1.0])
    said = drawn(
        Text(HOSTILE, HOSTILE),
        Cards([(HOSTILE, HOSTILE)]),
        Table([HOSTILE], [(HOSTILE, HOSTILE, HOSTILE)], HOSTILE, {(0, 2)}),
        heat_table(HOSTILE, [HOSTILE], [(HOSTILE, [0.5])], corner=HOSTILE, texts=[[HOSTILE]]),
        Facts([(HOSTILE, HOSTILE)]),
        Fold(HOSTILE, [Text(HOSTILE)], text=HOSTILE),
        Chart(HOSTILE, [line, line], HOSTILE, HOSTILE, x_names=[HOSTILE]),
        Slides([SlideMap(HOSTILE, HOSTILE, HOSTILE, 0.5, None, HOSTILE), SlideMap(HOSTILE, HOSTILE, HOSTILE, 0.5, b"")], False),
    )
    for sign in ("<b a", "</td></pre>", "&'", 'a="1"'):
        assert sign not in said
    assert said.count("&lt;b a=&#34;1&#34;&gt;&amp;&#39;x&#39;") >= 30


def test_the_cell_that_is_emphasised() -> None:
    said = drawn(Table(["run", "a", "b"], [("one", 1, 2), ("two", 3, 4)], strong={(1, 2)}))
    assert re.findall("<strong>(.*?)</strong>", said) == ["4"]
    assert "<caption>" not in said
