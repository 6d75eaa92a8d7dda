"""Segments: the instances of a batch dealt out to groups that differ in size, and sums, means and softmaxes over each group.

Nothing here holds a table of groups by instances: memory grows with the instances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Segments", "Slots"]

_ROWS_AT_ONCE = 32_768
_FILLED = 0.7


@dataclass(frozen=True)
class Slots:
    """Some segments side by side, each padded to the longest of them.

    Attributes:
        segment: (g,) which segments these are.
        rows: (g, n) the instances of each; where there is none, the segment's first.
        real: (g, n) bool, True where there is an instance.
    """

    segment: Tensor
    rows: Tensor
    real: Tensor

    @property
    def full(self) -> bool:
        """Whether no slot is empty."""
        return bool(self.real.all())


class Segments:
    """A partition of N instances; every segment holds at least one.

    Args:
        of: (N,) the segment of each instance; any integers, put in order of their size.
        bag: (N,) the bag of each instance.

    Attributes:
        of: (N,) the segment of each instance, from 0 to ``number - 1``.
        number: how many there are, G.
        keys: (G,) the integers that were given.
        sizes: (G,) instances in each.
        bag: (G,) the bag of each.
    """

    def __init__(self, of: Tensor, bag: Tensor) -> None:
        self.keys, self.of = torch.unique(of, return_inverse=True)
        self.number = len(self.keys)
        self.sizes = torch.bincount(self.of, minlength=self.number)
        self.bag = torch.zeros_like(self.sizes).scatter_(0, self.of, bag)

    def __len__(self) -> int:
        return self.number

    @cached_property
    def order(self) -> Tensor:
        """Instances sorted by segment, those of one segment in the order of the bag, (N,)."""
        return torch.argsort(self.of, stable=True)

    @cached_property
    def starts(self) -> Tensor:
        """Where each segment begins in :attr:`order`, (G,)."""
        return self.sizes.cumsum(0) - self.sizes

    @cached_property
    def rank(self) -> Tensor:
        """Place of each instance among those of its segment, (N,) from 0."""
        rank = torch.empty_like(self.of)
        rank[self.order] = torch.arange(len(self.of), device=self.of.device) - self.starts[self.of[self.order]]
        return rank

    @cached_property
    def largest(self) -> int:
        """Instances in the largest segment; 0 where there is none."""
        return int(self.sizes.max()) if self.number else 0

    def rows(self, segments: Tensor) -> tuple[Tensor, Tensor]:
        """Instances of each of some segments, padded to the longest.

        Args:
            segments: (...) numbers of segments; below 0 for none.

        Returns:
            (..., n) instances, any one where there is none, and (..., n) bool where there is one.
        """
        known = segments.clamp_min(0)
        sizes = self.sizes[known] * (segments >= 0)
        place = torch.arange(int(sizes.max()) if sizes.numel() else 0, device=self.of.device)
        real = place < sizes.unsqueeze(-1)
        return self.order[self.starts[known].unsqueeze(-1) + place * real], real

    def slots(self, rows_at_once: int = _ROWS_AT_ONCE, *, apart: bool = False) -> Iterator[Slots]:
        """All segments, like sizes together, in slices of about ``rows_at_once`` slots with few of them empty.

        Args:
            rows_at_once: slots in a slice; a larger segment has one of its own.
            apart: no slice holds segments of two bags.
        """
        for chosen in self._slices(rows_at_once, apart):
            rows, real = self.rows(chosen)
            yield Slots(chosen, rows, real)

    def _slices(self, rows_at_once: int, apart: bool) -> list[Tensor]:
        order = torch.argsort(self.sizes, stable=True)
        if apart:
            order = order[torch.argsort(self.bag[order], stable=True)]
        sizes, bags = self.sizes[order].tolist(), self.bag[order].tolist()
        slices, first, total = [], 0, 0
        for i, size in enumerate(sizes):
            number = i - first + 1
            wasteful = number * size > rows_at_once or total + size < _FILLED * number * size
            if i > first and (wasteful or (apart and bags[i] != bags[first])):
                slices.append(order[first:i])
                first, total = i, 0
            total += size
        if len(order):
            slices.append(order[first:])
        return slices

    def sum(self, values: Tensor) -> Tensor:
        """(N, ...) -> (G, ...); in single precision at least."""
        wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
        return wide.new_zeros(self.number, *values.shape[1:]).index_add(0, self.of, wide).to(values.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """(N, ...) -> (G, ...)."""
        wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
        total = wide.new_zeros(self.number, *values.shape[1:]).index_add(0, self.of, wide)
        return (total / self.sizes.view(-1, *[1] * (values.dim() - 1))).to(values.dtype)

    def max(self, values: Tensor) -> Tensor:
        """(N, ...) -> (G, ...); the gradient goes to the largest."""
        index = self.of.view(-1, *[1] * (values.dim() - 1)).expand_as(values)
        start = values.new_full((self.number, *values.shape[1:]), -torch.inf)
        return start.scatter_reduce(0, index, values, "amax", include_self=False)

    def softmax(self, logits: Tensor) -> Tensor:
        """Softmax over the instances of each segment, (N, ...) -> (N, ...)."""
        raised = torch.exp(logits - self.max(logits.detach())[self.of])
        return raised / self.sum(raised)[self.of]

    def top(self, values: Tensor, count: int) -> Tensor:
        """The instances with the largest values of each segment: (N,) -> (G, count) rows, -1 where it has fewer.

        Of equal ones, the first in the bag.
        """
        order = torch.argsort(values, descending=True, stable=True)
        order = order[torch.argsort(self.of[order], stable=True)]
        place = torch.arange(count, device=order.device)
        there = place < self.sizes.unsqueeze(1)
        return torch.where(there, order[(self.starts.unsqueeze(1) + place).clamp_max(len(order) - 1)], -1)
