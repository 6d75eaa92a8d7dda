"""Convolutions over the box around a slide's tiles by Fourier transform, with zeros where there is no tissue.

The kernel may be as large as the slide. Channels are independent, so they pass in slices, and memory is that of a few of
them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from comel.nn.layout.layout import Layout

__all__ = ["filter_box", "on_grid"]

_VALUES_AT_ONCE = 1 << 22


def on_grid(x: Tensor, rows: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    """Some rows of one bag on a grid of cells: (n, C) -> (C, height, width), zeros in holes; tiles in one cell add up.

    Args:
        x: (n, C).
        rows: (n,) which rows of the layout they are.
        layout: of the batch.
        size: height and width of the grid.
    """
    height, width = size
    cells = layout.cells[rows]
    flat = x.new_zeros(x.shape[1], height * width)
    return flat.index_add(1, cells[:, 1] * width + cells[:, 0], x.T).view(-1, height, width)


def filter_box(
    x: Tensor,
    layout: Layout,
    spectrum: Callable[[tuple[int, int], tuple[int, int], slice], Tensor],
    *,
    circular: bool = False,
) -> Tensor:
    """Multiply the spectrum of each channel by a filter: a convolution as wide as the slide.

    Args:
        x: (N, C) packed rows.
        layout: whose bags have coordinates.
        spectrum: (height, width) of a bag's box, (height, width) of the transform, and a slice of the channels
            -> (channels, height of the transform, width of the transform // 2 + 1) complex, to multiply ``rfft2`` by.
        circular: the transform has the size of the box, so that its left edge meets the right one; else twice the size,
            which makes the convolution linear.

    Returns:
        (N, C).
    """
    wide = x if x.dtype == torch.float64 else x.float()  # torch.fft knows no bfloat16
    outs, places = [], []
    for number, bag in enumerate(layout.within.bag.tolist()):
        rows = layout.within.order[layout.within.starts[number] :][: layout.within.sizes[number]]
        width, height = layout.box[bag].tolist()
        size = (height, width)
        transform = size if circular else (2 * height, 2 * width)
        at_once = max(1, _VALUES_AT_ONCE // (transform[0] * transform[1]))
        cells = layout.cells[rows]
        parts = []
        for first in range(0, x.shape[1], at_once):
            channels = slice(first, min(first + at_once, x.shape[1]))
            canvas = on_grid(wide[rows, channels], rows, layout, size)
            changed = torch.fft.rfft2(canvas, s=transform) * spectrum(size, transform, channels)
            parts.append(torch.fft.irfft2(changed, s=transform)[:, cells[:, 1], cells[:, 0]].T)
        outs.append(torch.cat(parts, dim=1))
        places.append(rows)
    if not outs:
        return x
    joined = torch.cat(outs)
    return torch.empty_like(joined).index_copy(0, torch.cat(places), joined).to(x.dtype)
