"""Multi-head attention on packed rows, within segments or from one set of rows to another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.layout.attention import attend_between, attend_segments, attend_to, join, split
from comel.nn.layout.segments import Segments

__all__ = ["MultiHead"]


class MultiHead(nn.Module):
    """``concat_h(softmax(q_h k_h^T / sqrt d) v_h) W_o + b_o``.

    Args:
        dim: width of the queries' rows and of what comes out.
        heads: attention heads.
        keys_dim: width of the keys' rows; default ``dim``.
        inner: width of all heads together; default ``dim``.
        bias: whether q, k and v have biases.

    Raises:
        ValueError: ``heads`` do not divide the inner width.
    """

    def __init__(
        self, dim: int, heads: int, *, keys_dim: int | None = None, inner: int | None = None, bias: bool = True
    ) -> None:
        super().__init__()
        inner, keys_dim = inner or dim, keys_dim or dim
        if inner % heads:
            raise ValueError(f"width {inner} is not a multiple of {heads} heads")
        self.heads = heads
        self.q = nn.Linear(dim, inner, bias=bias)
        self.k, self.v = nn.Linear(keys_dim, inner, bias=bias), nn.Linear(keys_dim, inner, bias=bias)
        self.proj = nn.Linear(inner, dim)

    def within(self, x: Tensor, segments: Segments) -> Tensor:
        """Each row attends to its own segment, (N, dim) -> (N, dim)."""
        q, k, v = (split(linear(x), self.heads) for linear in (self.q, self.k, self.v))
        out: Tensor = self.proj(join(attend_segments(q, k, v, segments)))
        return out

    def between(self, x: Tensor, keys: Tensor, segments: Segments, among: Segments) -> Tensor:
        """Rows of segment i attend to the rows ``keys`` of segment i of ``among``: (N, dim), (M, keys_dim) -> (N, dim)."""
        q, k, v = split(self.q(x), self.heads), split(self.k(keys), self.heads), split(self.v(keys), self.heads)
        near = torch.arange(segments.number, device=x.device).unsqueeze(1)
        out: Tensor = self.proj(join(attend_between(q, k, v, segments, near, among=among)))
        return out

    def to_bags(self, x: Tensor, keys: Tensor, queries: Segments, among: Segments) -> Tensor:
        """Rows of each bag attend to the keys of the same bag, as :func:`~comel.nn.layout.attention.attend_to`."""
        q, k, v = split(self.q(x), self.heads), split(self.k(keys), self.heads), split(self.v(keys), self.heads)
        out: Tensor = self.proj(join(attend_to(q, k, v, queries, among)))
        return out
