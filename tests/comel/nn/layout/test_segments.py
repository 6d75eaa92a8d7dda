"""Segments against plain loops."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comel.nn.layout.segments import Segments

LABELS = st.lists(st.integers(0, 9), min_size=1, max_size=60)


def segments(labels: list[int]) -> Segments:
    of = torch.tensor(labels)
    return Segments(of, of // 5)  # two bags of five labels each


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_a_partition(labels: list[int]) -> None:
    made = segments(labels)
    assert made.number == len(made) == len(set(labels))
    assert made.keys[made.of].tolist() == labels
    assert made.sizes.tolist() == [labels.count(key) for key in made.keys.tolist()]
    assert made.bag.tolist() == [key // 5 for key in made.keys.tolist()]
    for row, label in enumerate(labels):
        assert made.rank[row] == labels[:row].count(label)
        assert made.order[made.starts[made.of[row]] + made.rank[row]] == row


@settings(max_examples=60, deadline=None)
@given(LABELS)
def test_sums_means_largest_and_softmax(labels: list[int]) -> None:
    made = segments(labels)
    values = torch.randn(len(labels), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(len(labels)))
    shares = made.softmax(values)
    for number in range(made.number):
        rows = values[made.of == number]
        torch.testing.assert_close(made.sum(values)[number], rows.sum(dim=0))
        torch.testing.assert_close(made.mean(values)[number], rows.mean(dim=0))
        assert torch.equal(made.max(values)[number], rows.amax(dim=0))
        torch.testing.assert_close(shares[made.of == number], rows.softmax(dim=0))


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(1, 40), st.booleans())
def test_slots_hold_every_row_once(labels: list[int], at_once: int, apart: bool) -> None:
    made, seen = segments(labels), []
    for slots in made.slots(at_once, apart=apart):
        assert slots.full == bool(slots.real.all())
        assert slots.rows.numel() <= max(at_once, made.largest)
        assert not apart or len(made.bag[slots.segment].unique()) == 1
        for number, rows, real in zip(slots.segment, slots.rows, slots.real, strict=True):
            assert (made.of[rows] == number).all()  # empty slots hold a row of their own segment too
            seen += rows[real].tolist()
    assert sorted(seen) == list(range(len(labels)))


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(1, 5))
def test_top_rows_of_each_segment(labels: list[int], count: int) -> None:
    made = segments(labels)
    values = torch.tensor([(7 * i) % 5 for i in range(len(labels))])
    for number, found in enumerate(made.top(values, count).tolist()):
        rows = [row for row in range(len(labels)) if made.of[row] == number]
        expected = sorted(rows, key=lambda row: (-int(values[row]), row))[:count]
        assert found == expected + [-1] * (count - len(expected))


def test_rows_of_chosen_segments() -> None:
    rows, real = segments([3, 1, 3, 1, 1]).rows(torch.tensor([[1, -1], [0, 1]]))
    assert rows[real].tolist() == [0, 2, 1, 3, 4, 0, 2]
    assert real.sum(dim=-1).tolist() == [[2, 0], [3, 2]]


def test_half_precision_sums_do_not_lose_rows() -> None:
    made = Segments(torch.zeros(5000, dtype=torch.int64), torch.zeros(5000, dtype=torch.int64))
    assert made.mean(torch.ones(5000, 1, dtype=torch.float16)).item() == 1
    assert made.sum(torch.full((5000, 1), 0.5, dtype=torch.bfloat16)).item() == 2496  # 2500, as far as bfloat16 has it
