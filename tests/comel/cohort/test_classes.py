"""Columns of a class space by hand."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comel.cohort.classes import ClassSpace, Head
from comel.errors import ConfigError

BREAST = Head("breast", ("normal", "ductal", "lobular"), "normal")
LUNG = Head("lung", ("adeno", "squamous"), None)
COLON = Head("colon", ("tumour", "normal"), "normal")


def test_columns_by_hand() -> None:
    space = ClassSpace.of([BREAST, LUNG, COLON])
    assert len(space) == 7
    assert [space.columns(head) for head in range(3)] == [slice(0, 3), slice(3, 5), slice(5, 7)]
    assert space.names[2:6] == ("breast/lobular", "lung/adeno", "lung/squamous", "colon/tumour")
    assert space.positive == (False, True, True, True, True, True, False)
    assert [space.head_of(column) for column in range(7)] == [0, 0, 0, 1, 1, 2, 2]
    assert space.column(2, "normal") == 6
    assert space.head_index("lung") == 1


@given(st.lists(st.integers(2, 5), min_size=1, max_size=5))
def test_columns_and_labels_are_inverse(sizes: list[int]) -> None:
    space = ClassSpace.of(Head(f"t{i}", tuple(f"l{j}" for j in range(size)), None) for i, size in enumerate(sizes))
    for column, name in enumerate(space.names):
        task, label = name.split("/")
        head = space.head_index(task)
        assert space.column(head, label) == column
        assert space.head_of(column) == head


def test_growing_moves_no_column() -> None:
    before, after = ClassSpace.of([BREAST, LUNG]), ClassSpace.of([BREAST, LUNG, COLON])
    assert after.names[: len(before)] == before.names
    assert [after.columns(head) for head in range(2)] == [before.columns(head) for head in range(2)]


def test_json_round_trip() -> None:
    for head in (BREAST, LUNG, COLON):
        assert Head.from_dict(json.loads(json.dumps(head.to_dict()))) == head


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ConfigError, match="'x' has only the label"):
        Head("x", ("only",), None)
    with pytest.raises(ConfigError, match="'x' has no label 'benign'"):
        Head("x", ("a", "b"), "benign")
    with pytest.raises(ConfigError, match="two tasks are called 'lung'"):
        ClassSpace.of([LUNG, BREAST, LUNG])
    space = ClassSpace.of([BREAST, LUNG])
    with pytest.raises(ConfigError, match=r"no task 'colon'; it knows breast, lung"):
        space.head_index("colon")
    with pytest.raises(ConfigError, match=r"'lung' has no label 'normal'; it has adeno, squamous"):
        space.column(1, "normal")
    assert len(ClassSpace(())) == 0
