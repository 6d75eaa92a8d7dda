"""Softmax attention within segments and between segments, in slices, without a matrix of instances by instances.

Queries, keys and values are packed rows (N, heads, d). Each slice is one call of torch's scaled dot-product attention on
segments that are padded to a common length, with a mask for the empty slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from comel.nn.layout.segments import Segments, Slots

__all__ = ["Summaries", "attend_between", "attend_segments", "attend_to", "beyond", "join", "split"]

_PAIRS_AT_ONCE = 1 << 25
"""Logits of one slice over all heads, in case an attention kernel stores them."""
_SLOTS_AT_ONCE = 32_768
_KEYS_AT_ONCE = {"cpu": 16_384}
"""Keys of one slice, by kind of device; on a CPU the memory of a small slice is used again by the next one."""
_KEYS_AT_ONCE_ELSE = 65_536

Bias = Callable[[Tensor, Tensor], Tensor]
"""Rows of queries (g, n) and of keys (g, m) -> what is added to their logits, (g, heads or 1, n, m)."""


@dataclass(frozen=True)
class Summaries:
    """Keys that stand for whole segments, beside the instances.

    Attributes:
        k, v: (S, heads, d).
        visible: segments of queries (g,) -> which summaries each sees, (g, S) bool.
    """

    k: Tensor
    v: Tensor
    visible: Callable[[Tensor], Tensor]


def beyond(segments: Segments, near: Tensor) -> Callable[[Tensor], Tensor]:
    """Visibility for :class:`Summaries`, one of each segment: those of the same bag that a segment is not ``near`` to.

    Args:
        segments: that are summarised.
        near: (G, K) as :func:`attend_between` takes it; a segment is near to itself.
    """

    def visible(segment: Tensor) -> Tensor:
        apart = segments.bag[segment].unsqueeze(1) == segments.bag  # (g, S)
        beside = torch.where(near[segment] < 0, segment.unsqueeze(1), near[segment])  # (g, K)
        return apart.scatter(1, beside, torch.zeros_like(beside, dtype=torch.bool))

    return visible


def split(x: Tensor, heads: int) -> Tensor:
    """(N, dim) -> (N, heads, dim / heads)."""
    parts: Tensor = x.unflatten(-1, (heads, -1))
    return parts


def join(x: Tensor) -> Tensor:
    """(N, heads, d) -> (N, heads d)."""
    return x.flatten(1)


def attend_segments(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, *, scale: float | None = None, bias: Bias | None = None
) -> Tensor:
    """Each instance attends to all instances of its own segment.

    Args:
        q, k: (N, heads, d).
        v: (N, heads, e).
        segments: of the N rows.
        scale: of the logits; default d^-1/2.
        bias: added to the logits.

    Returns:
        (N, heads, e).
    """
    outs, rows = [], []
    for slots in _slices(segments, q.shape[1], dense=bias is not None):
        seen = None if slots.full else slots.real[:, None, None, :]  # (g, 1, 1, n)
        if bias is not None:
            added = bias(slots.rows, slots.rows)
            seen = added if seen is None else added.masked_fill(~seen, -torch.inf)
        out = _sdpa(_take(q, slots.rows), _take(k, slots.rows), _take(v, slots.rows), seen, scale)  # (g, n, heads, e)
        outs.append(out[slots.real])
        rows.append(slots.rows[slots.real])
    return _scatter(outs, rows, v)


def attend_between(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    segments: Segments,
    near: Tensor,
    *,
    scale: float | None = None,
    summaries: Summaries | None = None,
    among: Segments | None = None,
) -> Tensor:
    """Each instance attends to all instances of the segments that its own segment is given, and to summaries, in one softmax.

    Args:
        q, k: (N, heads, d).
        v: (N, heads, e).
        segments: of the N rows; those of the queries.
        near: (G, K) for each segment, the segments whose instances are its keys; -1 for none.
        scale: of the logits; default d^-1/2.
        summaries: keys beside the instances.
        among: the segments that ``near`` numbers; default ``segments``.

    Returns:
        (N, heads, e). Every query needs at least one key.
    """
    keys = segments if among is None else among
    per_segment = (keys.sizes[near.clamp_min(0)] * (near >= 0)).sum(dim=1)  # (G,)
    outs, rows = [], []
    extra, first = 0, len(k)
    if summaries is not None:
        extra = len(summaries.k)
        k, v = torch.cat([k, summaries.k]), torch.cat([v, summaries.v])
    for slots in _slices(segments, q.shape[1], keys=per_segment + extra, apart=summaries is not None):
        key_rows, key_real = keys.rows(near[slots.segment])  # (g, K, n)
        key_rows, key_real = _squeeze(key_rows.flatten(1), key_real.flatten(1))
        if summaries is not None:
            visible = summaries.visible(slots.segment)  # (g, S)
            some = visible.any(dim=0).nonzero().squeeze(1)  # not those of other bags
            key_rows = torch.cat([key_rows, first + some.expand(len(visible), -1)], dim=1)
            key_real = torch.cat([key_real, visible[:, some]], dim=1)
        ks, vs = _take(k, key_rows), _take(v, key_rows)  # (g, m, heads, d)
        out = _sdpa(_take(q, slots.rows), ks, vs, key_real[:, None, None, :], scale)
        outs.append(out[slots.real])
        rows.append(slots.rows[slots.real])
    return _scatter(outs, rows, v)


def attend_to(q: Tensor, k: Tensor, v: Tensor, queries: Segments, keys: Segments, *, scale: float | None = None) -> Tensor:
    """Rows of each bag attend to the keys of the same bag, such as group tokens or landmarks.

    Args:
        q: (N, heads, d).
        k, v: (S, heads, d).
        queries: the bags of the N rows; ``bag`` says which.
        keys: the bags of the S keys; a bag with queries has keys.
        scale: of the logits; default d^-1/2.

    Returns:
        (N, heads, d).
    """
    of_bag = {int(bag): number for number, bag in enumerate(keys.bag)}
    outs, rows = [], []
    for number, bag in enumerate(queries.bag.tolist()):
        at = queries.order[queries.starts[number] : queries.starts[number] + queries.sizes[number]]
        other = of_bag[bag]
        to = keys.order[keys.starts[other] : keys.starts[other] + keys.sizes[other]]
        outs.append(_sdpa(q[at][None], k[to][None], v[to][None], None, scale)[0])
        rows.append(at)
    return _scatter(outs, rows, v)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> Tensor:
    """(g, n, heads, d), (g, m, heads, d) -> (g, n, heads, e)."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    mask = mask.to(q.dtype) if mask is not None and mask.dtype != torch.bool else mask
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(1, 2)


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """(N, heads, d), (g, n) -> (g, n, heads, d)."""
    return x.flatten(1).index_select(0, rows.flatten()).view(*rows.shape, *x.shape[1:])


def _slices(
    segments: Segments, heads: int, *, dense: bool = False, keys: Tensor | None = None, apart: bool = False
) -> Iterator[Slots]:
    """Slots in slices; fewer at once where a slice stores logits (``dense``), or each segment has many keys (G,)."""
    for slots in segments.slots(_SLOTS_AT_ONCE, apart=apart):
        number, length = slots.rows.shape
        width = length if keys is None else int(keys[slots.segment].max())
        at_once = number
        if dense or keys is not None:
            at_once = min(number, max(1, _PAIRS_AT_ONCE // max(1, heads * length * width)))
            most = _KEYS_AT_ONCE.get(segments.of.device.type, _KEYS_AT_ONCE_ELSE)
            at_once = min(at_once, max(1, most // max(1, width)))
        for first in range(0, number, at_once):
            part = slice(first, first + at_once)
            yield Slots(slots.segment[part], slots.rows[part], slots.real[part])


def _squeeze(rows: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Real slots first, and no more slots than the fullest row needs: (g, m), (g, m)."""
    most = int(real.sum(dim=1).max())
    if most == rows.shape[1]:
        return rows, real
    order = torch.argsort(real.int(), dim=1, descending=True, stable=True)[:, :most]
    return rows.gather(1, order), real.gather(1, order)


def _scatter(outs: list[Tensor], rows: list[Tensor], like: Tensor) -> Tensor:
    """Rows that were computed in slices, in the order of the batch."""
    if not outs:
        return like[:0]
    return torch.empty_like(torch.cat(outs)).index_copy(0, torch.cat(rows), torch.cat(outs))
