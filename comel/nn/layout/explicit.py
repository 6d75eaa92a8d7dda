"""Attention whose weights are at hand: other normalisers than softmax, biases by pair, and factors after the softmax.

Computed for slices of the queries; in training each slice is computed again on the way back, so that no matrix of instances
by instances is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from comel.nn.layout.segments import Segments

__all__ = ["Normaliser", "attend_explicitly"]

Normaliser = Literal["softmax", "sigmoid"]
ByPair = Callable[[Tensor, Tensor], Tensor]
"""Rows of queries (g, n) and of keys (g, m) -> (g, heads or 1, n, m)."""

_PAIRS_AT_ONCE = 1 << 22


def attend_explicitly(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    *,
    scale: float | None = None,
    normaliser: Normaliser = "softmax",
    bias: ByPair | None = None,
    factor: ByPair | None = None,
) -> Tensor:
    """Each instance attends to all instances of its own segment.

    Args:
        q, k: (N, heads, d).
        v: (N, heads, e).
        segments: of the N rows.
        scale: of the logits; default d^-1/2.
        normaliser: ``sigmoid`` is sigmoid(logit - ln n) over the n instances of the segment (Ramapuram et al., ICLR 2025).
        bias: added to the logits.
        factor: multiplies the weights after the normaliser.

    Returns:
        (N, heads, e).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale

    def attend(rows: Tensor, keys: Tensor, real: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(g, n) queries, (g, m) keys and which of them are real -> (g, n, heads, e)."""
        logits = torch.einsum("gnhd,gmhd->ghnm", q[rows], k[keys]) * scale
        if bias is not None:
            logits = logits + bias(rows, keys)
        if normaliser == "softmax":
            weights = logits.masked_fill(~real[:, None, None], -torch.inf).softmax(dim=-1)
        else:
            number = real.sum(dim=1).to(logits.dtype).log()
            weights = torch.sigmoid(logits - number[:, None, None, None]) * real[:, None, None]
        if factor is not None:
            weights = weights * factor(rows, keys)
        return torch.einsum("ghnm,gmhe->gnhe", weights, v[keys])

    outs, places = [], []
    for slots in segments.slots():
        length = slots.rows.shape[1]
        per_query = max(1, q.shape[1] * length)
        queries = min(length, max(1, _PAIRS_AT_ONCE // per_query))
        at_once = max(1, _PAIRS_AT_ONCE // (per_query * queries))
        for first in range(0, len(slots.rows), at_once):
            keys, real = slots.rows[first : first + at_once], slots.real[first : first + at_once]
            for start in range(0, length, queries):
                rows, there = keys[:, start : start + queries], real[:, start : start + queries]
                if torch.is_grad_enabled():
                    out = checkpoint(attend, rows, keys, real, q, k, v, use_reentrant=False)
                else:
                    out = attend(rows, keys, real, q, k, v)
                outs.append(out[there])
                places.append(rows[there])
    joined = torch.cat(outs)
    return torch.empty_like(joined).index_copy(0, torch.cat(places), joined)
