"""Attention in slices against softmaxes with explicit masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from comel.nn.layout import attention
from comel.nn.layout.attention import Summaries, attend_between, attend_segments, attend_to
from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from tests.comel.nn.mixers.seeds import bag_coords

HEADS, D = 2, 4


def rows(count: int, seed: int) -> Tensor:
    return torch.randn(count, HEADS, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float, bias: Tensor | float = 0.0) -> Tensor:
    """(N, heads, d), (M, heads, d), seen (N, M) -> (N, heads, d)."""
    logits = torch.einsum("nhd,mhd->hnm", q, k) * scale + bias
    return torch.einsum("hnm,mhe->nhe", logits.masked_fill(~seen, -torch.inf).softmax(dim=-1), v)


@pytest.fixture(params=[(32_768, 1 << 25), (7, 200)], ids=["whole", "slices"])
def sliced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_SLOTS_AT_ONCE", request.param[0])
    monkeypatch.setattr(attention, "_PAIRS_AT_ONCE", request.param[1])


def layout() -> Layout:
    coords = torch.stack([bag_coords(40), bag_coords(40, 1)])
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 33:] = False
    return Layout((2, 40), coords, mask)


@pytest.mark.usefixtures("sliced")
def test_within_segments() -> None:
    here = layout()
    q, k, v = (rows(len(here), seed) for seed in range(3))
    squares = here.squares(3)
    seen = squares.of.unsqueeze(1) == squares.of
    torch.testing.assert_close(attend_segments(q, k, v, squares), dense(q, k, v, seen, D**-0.5))
    torch.testing.assert_close(attend_segments(q, k, v, squares, scale=0.3), dense(q, k, v, seen, 0.3))
    table = torch.randn(HEADS, len(here), len(here), dtype=torch.float64)
    found = attend_segments(q, k, v, squares, bias=lambda a, b: table[:, a.unsqueeze(2), b.unsqueeze(1)].transpose(0, 1))
    torch.testing.assert_close(found, dense(q, k, v, seen, D**-0.5, table))


@pytest.mark.usefixtures("sliced")
def test_between_segments_and_summaries() -> None:
    here = layout()
    q, k, v = (rows(len(here), seed) for seed in range(3))
    squares, near = here.squares(3), here.neighbouring_squares(3)
    close = torch.zeros(squares.number, squares.number, dtype=torch.bool)
    for number, others in enumerate(near.tolist()):
        close[number, [other for other in others if other >= 0]] = True
    seen = close[squares.of][:, squares.of]
    torch.testing.assert_close(attend_between(q, k, v, squares, near), dense(q, k, v, seen, D**-0.5))
    far = ~close & (squares.bag.unsqueeze(1) == squares.bag)
    summary = Summaries(rows(squares.number, 5), rows(squares.number, 6), lambda segment: far[segment])
    found = attend_between(q, k, v, squares, near, summaries=summary)
    both = torch.cat([seen, far[squares.of]], dim=1)
    expected = dense(q, torch.cat([k, summary.k]), torch.cat([v, summary.v]), both, D**-0.5)
    torch.testing.assert_close(found, expected)


def test_each_bag_to_its_own_keys() -> None:
    here = layout()
    q = rows(len(here), 0)
    bins = here.bins(3, 3)
    k, v = rows(bins.number, 1), rows(bins.number, 2)
    seen = here.bag.unsqueeze(1) == bins.bag
    found = attend_to(q, k, v, here.within, Segments(bins.bag, bins.bag))
    torch.testing.assert_close(found, dense(q, k, v, seen, D**-0.5))


@pytest.mark.usefixtures("sliced")
def test_gradients_reach_what_was_seen() -> None:
    here = layout()
    q, k, v = (rows(len(here), seed).requires_grad_(True) for seed in range(3))
    squares = here.squares(3)
    attend_segments(q, k, v, squares)[0].sum().backward()
    assert v.grad is not None
    assert torch.equal(v.grad.abs().sum(dim=(1, 2)) > 0, squares.of == squares.of[0])
