"""A patient's probabilities follow the rule of its label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from comel.cohort.classes import ClassSpace, Head
from comel.scoring.patients import patient_probabilities

BINARY = ClassSpace.of([Head("colon", ("normal", "tumour"), "normal")])
FINDINGS = ClassSpace.of([Head("colon", ("normal", "polyp", "tumour"), "normal")])
SUBTYPES = ClassSpace.of([Head("lung", ("LUAD", "LUSC"), None)])
MIXED = ClassSpace.of([Head("colon", ("polyp", "normal", "tumour"), "normal"), Head("lung", ("LUAD", "LUSC"), None)])

shares = arrays(np.float64, st.tuples(st.integers(1, 5), st.just(5)), elements=st.floats(1e-3, 1)).map(
    lambda table: table / table.sum(axis=1, keepdims=True)
)


def test_one_slide_with_the_tumour_makes_the_patient_positive() -> None:
    slides = np.array([[0.1, 0.9], [0.95, 0.05], [0.9, 0.1]])
    assert patient_probabilities(slides, BINARY) == pytest.approx([0.1, 0.9])
    assert patient_probabilities(slides[1:], BINARY) == pytest.approx([0.9, 0.1])


def test_each_finding_has_its_own_strongest_slide() -> None:
    slides = np.array([[0.1, 0.8, 0.1], [0.2, 0.0, 0.8], [0.98, 0.01, 0.01]])
    assert patient_probabilities(slides, FINDINGS) == pytest.approx(np.array([1, 8, 4]) / 13)


def test_without_a_negative_label_the_slides_agree_by_their_mean() -> None:
    slides = np.array([[0.6, 0.4], [0.6, 0.4], [0.1, 0.9]])
    assert patient_probabilities(slides, SUBTYPES) == pytest.approx(slides.mean(axis=0))


def test_certain_slides_and_heads_without_probability_are_no_division_by_nothing() -> None:
    assert patient_probabilities(np.array([[0.0, 1.0], [1.0, 0.0]]), BINARY) == pytest.approx([0, 1])
    lung = np.array([[0, 0, 0, 0.7, 0.3], [0, 0, 0, 0.5, 0.5]])
    assert patient_probabilities(lung, MIXED) == pytest.approx([0, 0, 0, 0.6, 0.4])
    one_colon = np.array([[0.1, 0.4, 0.5, 0, 0], [0, 0, 0, 1, 0]])
    assert patient_probabilities(one_colon, MIXED) == pytest.approx([0.05, 0.2, 0.25, 0.5, 0])


@given(shares)
def test_what_holds_of_every_patient(table: np.ndarray) -> None:
    found = patient_probabilities(table, MIXED)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert found[:3].sum() == pytest.approx(table[:, :3].sum(axis=1).mean())
    assert patient_probabilities(table[:1], MIXED) == pytest.approx(table[0])
    assert patient_probabilities(table[::-1], MIXED) == pytest.approx(found)
    assert patient_probabilities(np.repeat(table, 2, axis=0), MIXED) == pytest.approx(found)
    within = table[:, :3] / table[:, :3].sum(axis=1, keepdims=True)
    assume(np.abs(within[:, [0, 2]] - within[:, [1]]).min() > 1e-9)
    own = patient_probabilities(within, FINDINGS_OF_COLON)
    assert (own.argmax() != 1) == bool((within.argmax(axis=1) != 1).any())


FINDINGS_OF_COLON = ClassSpace.of([MIXED.heads[0]])
