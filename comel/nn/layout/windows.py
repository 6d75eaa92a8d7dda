"""Convolutions with kernels of many tiles, by Fourier transform, window by window (overlap-save).

A slide is cut into squares; each square that holds tissue is transformed with as much around it as the kernel reaches, zeros
in holes. Time and memory grow with the tissue and never with the box around it, so two pieces may lie as far apart as they
like.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from comel.nn.layout.layout import Layout

__all__ = ["Halo", "convolve", "halo"]

_VALUES_AT_ONCE = {"cpu": 1 << 18}  # what a core's cache holds
_VALUES_AT_ONCE_ELSEWHERE = 1 << 24
_CHANNELS_AT_ONCE = 16
_SIDE_AT_LEAST = 16


@dataclass(frozen=True)
class Halo:
    """The tiles in and around each square, square by square; a tile counts once for each square that it lies near.

    Attributes:
        rows: (P,) the tiles.
        cells: (P, 2) column and row of each, counted from the top left corner of the square with its surroundings.
        ends: (G,) where each square's part of the list ends.
    """

    rows: Tensor
    cells: Tensor
    ends: Tensor


def halo(layout: Layout, side: int, before: tuple[int, int], after: tuple[int, int]) -> Halo:
    """Each square of ``side`` x ``side`` cells with some rows and columns of cells around it.

    Args:
        layout: whose bags have coordinates.
        side: of the squares.
        before: rows above and columns to the left of a square.
        after: rows below and columns to the right.
    """
    squares, corners = layout.squares(side), layout.square_cells(side) * side
    near = layout.neighbouring_squares(side, -(-max(*before, *after) // side))  # (G, K)
    lead = corners.new_tensor([before[1], before[0]])  # columns and rows, as cells are
    extent = side + lead + corners.new_tensor([after[1], after[0]])
    found = []
    for others in near.T:
        rows, real = squares.rows(others)  # (G, n)
        cells = layout.cells[rows] - corners.unsqueeze(1) + lead  # (G, n, 2)
        inside = real & ((cells >= 0) & (cells < extent)).all(dim=2)
        found.append((rows[inside], cells[inside], inside.nonzero()[:, 0]))
    rows, cells, square = (torch.cat(part) for part in zip(*found, strict=True))
    order = torch.argsort(square, stable=True)
    return Halo(rows[order], cells[order], torch.bincount(square, minlength=len(squares)).cumsum(0))


def convolve(x: Tensor, layout: Layout, kernel: Tensor, centre: tuple[int, int]) -> Tensor:
    """``y_p = sum_l kernel_l x_(p - l)`` over the tiles of p's bag, channel by channel; tiles in one cell add up.

    Args:
        x: (N, C) packed rows.
        layout: whose bags have coordinates.
        kernel: (C, height, width) by lag l, rows of the slide first.
        centre: where in the kernel lag 0 stands, (row, column).

    Returns:
        (N, C); computed in single precision at least.
    """
    wide = torch.promote_types(x.dtype, torch.float32)  # torch.fft knows no bfloat16
    kernel, centre = _within(kernel.to(wide), centre, int(layout.box.max()))
    height, width = kernel.shape[1:]
    side, transform = _sizes(int(layout.box.max()), max(height, width))
    before, after = (height - 1 - centre[0], width - 1 - centre[1]), centre
    around = halo(layout, side, before, after)
    channels_at_once = max(_CHANNELS_AT_ONCE, _values_at_once(x) // transform**2)
    columns = []
    for part, taps in zip(x.split(channels_at_once, dim=1), kernel.split(channels_at_once), strict=True):
        spectrum = torch.fft.rfft2(taps, s=(transform, transform))  # (c, transform, transform // 2 + 1)
        columns.append(_filtered(part.to(wide), layout, around, side, spectrum, (height - 1, width - 1)))
    return torch.cat(columns, dim=1).to(x.dtype)


def _filtered(x: Tensor, layout: Layout, around: Halo, side: int, spectrum: Tensor, first: tuple[int, int]) -> Tensor:
    """Some channels (N, c) through all windows; ``first`` is where a square begins within its result."""
    squares, transform = layout.squares(side), spectrum.shape[1]
    at_once = max(1, _values_at_once(x) // (transform**2 * x.shape[1]))
    inner = layout.cells % side + x.new_tensor([first[1], first[0]], dtype=torch.int64)  # (N, 2)
    inner_place = inner[:, 1] * transform + inner[:, 0]  # (N,)
    place = around.cells[:, 1] * transform + around.cells[:, 0]  # (P,)
    ends, tiles = [0, *around.ends.tolist()], [*squares.starts.tolist(), len(layout)]
    outs = []
    for begin in range(0, len(squares), at_once):
        end = min(begin + at_once, len(squares))
        near = slice(ends[begin], ends[end])
        window = torch.repeat_interleave(around.ends[begin:end].diff(prepend=around.ends.new_tensor([ends[begin]])))
        canvas = x.new_zeros((end - begin) * transform**2, x.shape[1])
        canvas = canvas.index_add(0, window * transform**2 + place[near], x[around.rows[near]])
        canvas = canvas.view(end - begin, transform, transform, -1).permute(0, 3, 1, 2)  # (g, c, transform, transform)
        result = torch.fft.irfft2(torch.fft.rfft2(canvas) * spectrum, s=(transform, transform))
        own = squares.order[tiles[begin] : tiles[end]]
        outs.append(result.flatten(2)[squares.of[own] - begin, :, inner_place[own]])  # (n, c)
    joined = torch.cat(outs)
    return torch.empty_like(joined).index_copy(0, squares.order, joined)


def _values_at_once(x: Tensor) -> int:
    return _VALUES_AT_ONCE.get(x.device.type, _VALUES_AT_ONCE_ELSEWHERE)


def _within(kernel: Tensor, centre: tuple[int, int], box: int) -> tuple[Tensor, tuple[int, int]]:
    """The kernel without lags that no two tiles of a box of ``box`` cells have."""
    top, left = (max(0, place - box + 1) for place in centre)
    cut = kernel[:, top : centre[0] + box, left : centre[1] + box]
    return cut, (centre[0] - top, centre[1] - left)


def _sizes(box: int, reach: int) -> tuple[int, int]:
    """Side of a square, and of its transform: about twice the kernel, or one window where all tissue fits into it."""
    transform = _fast(min(box + reach - 1, max(2 * reach, _SIDE_AT_LEAST + reach)))
    return transform - reach + 1, transform


def _fast(size: int) -> int:
    """The smallest 2^n or 3 * 2^n that is at least ``size``: transforms of these sides are quick."""
    power = 1
    while power < size:
        power *= 2
    return power // 4 * 3 if power >= 4 and power // 4 * 3 >= size else power
