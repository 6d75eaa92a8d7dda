"""What works on each row alone, over slices of the rows, so that wide layers need little memory beside the rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["in_slices"]

_ROWS_AT_ONCE = 16_384


def in_slices(change: Callable[[Tensor], Tensor], x: Tensor, rows_at_once: int = _ROWS_AT_ONCE) -> Tensor:
    """``change(x)``, where row i of the result depends on row i of x alone.

    Args:
        change: (n, C) -> (n, D).
        x: (N, C), N at least 1.
        rows_at_once: rows in a slice; with gradients there is one slice, since they need the whole in memory.

    Returns:
        (N, D).
    """
    if torch.is_grad_enabled() or len(x) <= rows_at_once:
        return change(x)
    return torch.cat([change(part) for part in x.split(rows_at_once)])
