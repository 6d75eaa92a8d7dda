"""MossFormer's gated block: attention within chunks and linear attention over all (Zhao, Ma, "MossFormer: Pushing the
Performance Limit of Monaural Speech Separation using Gated Single-Head Transformer with Convolution-Augmented Joint
Self-Attentions", ICASSP 2023, arXiv 2302.11824; after the gated attention unit of FLASH, Hua et al. 2022).

The instances of a bag, in order, are a sequence of M rows, cut into chunks of g:

    P(x)         = t + DWConv(t),   t = SiLU(W norm(x) + b),   norm(x) = x / (|x| / sqrt C) * scale,   over 17 neighbours
    z            = x, with the first half of its channels taken from the row before
    [v, u]       = P_hidden(z), 2C channels each;    s = P_qk(z)
    q1 q2 k1 k2  = four affine copies of s, each with rotary positions on its first 32 channels
    A1           = relu(q1 k1^T / g)^2  within each chunk;    A2 = q2 k2^T / M  over the bag
    o            = (A1 + A2) u * v * sigmoid( (A1 + A2) v * u )
    out          = x + P_out(o)

A2 is never a matrix: k2^T [v, u] is a sum over the bag. With coordinates the order is a Hilbert curve over the slide, so that
256 rows are about 16 x 16 tiles and no file's order matters; without, the list's order. Holes are skipped: the sequence goes
on at the next tile. M is the bag's own number of instances, and its last chunk divides by g though it has fewer, as
published. The published network adds a sinusoidal embedding once before its 24 blocks; it is no part of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["ConvolvedProjection", "MossFormer", "MossFormerOptions", "rotate", "shift"]

_ROWS_AT_ONCE = 4096
_ROTARY_CHANNELS = 32
_ROTARY_BASE = 10_000.0


class MossFormerOptions(MixerOptions):
    """Settings of the mixer."""

    chunk: int = Field(
        256, ge=1, le=4096, description="instances in a chunk (g); a trained model needs the g it was trained with"
    )
    key_dim: int = Field(128, ge=2, le=1024, multiple_of=2, description="width of queries and keys")
    kernel: int = Field(17, ge=1, le=255, description="instances that a convolution sees, an odd number")

    @field_validator("kernel")
    @classmethod
    def _odd(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError("give an odd number, so that an instance lies in the middle")
        return kernel


class ConvolvedProjection(nn.Module):
    """P of the module's docstring, over the rows of one bag.

    Args:
        width_in: C of the input.
        width_out: C of the output.
        kernel: rows that the convolution sees; odd.
        dropout: of the output.
    """

    def __init__(self, width_in: int, width_out: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.linear = nn.Linear(width_in, width_out)
        self.conv = nn.Conv1d(width_out, width_out, kernel, groups=width_out, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(M, width_in) -> (M, width_out), in slices with what the convolution sees around them."""
        count, reach = len(x), self.conv.kernel_size[0] // 2
        parts = []
        for first in range(0, count, _ROWS_AT_ONCE):
            last = min(first + _ROWS_AT_ONCE, count)
            begin, end = max(first - reach, 0), min(last + reach, count)
            rows = F.silu(self.linear(self._normalised(x[begin:end])))  # (n, width_out)
            padded = F.pad(rows.T, (reach - (first - begin), reach - (end - last)))  # (width_out, last - first + 2 reach)
            parts.append(self.dropout(rows[first - begin : last - begin] + self.conv(padded[None])[0].T))
        return torch.cat(parts)

    def _normalised(self, x: Tensor) -> Tensor:
        size = x.norm(dim=-1, keepdim=True) * x.shape[-1] ** -0.5  # root of the mean square
        normalised: Tensor = x / size.clamp_min(1e-5) * self.scale
        return normalised


class MossFormer(Mixer):
    """See the module."""

    name: ClassVar[str] = "mossformer"
    Options = MossFormerOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="chunks along a curve by squared ReLU, the bag by linear attention, both as gates",
        sees="list",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="skipped; the curve goes on at the next tile",
        paper="Zhao, Ma, ICASSP 2023, arXiv 2302.11824",
        licence="Apache-2.0",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: MossFormerOptions | None = None) -> None:
        super().__init__(width, options)
        dim, key_dim, kernel, dropout = width.dim, self.options.key_dim, self.options.kernel, width.dropout
        self.to_hidden = ConvolvedProjection(dim, 4 * dim, kernel, dropout)
        self.to_qk = ConvolvedProjection(dim, key_dim, kernel, dropout)
        self.gamma = nn.Parameter(torch.randn(4, key_dim) * 0.02)  # q1, q2, k1, k2
        self.beta = nn.Parameter(torch.zeros(4, key_dim))
        self.to_out = ConvolvedProjection(2 * dim, dim, kernel, dropout)
        self.dropout = nn.Dropout(dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        order = layout.curve()
        changes = [self._change(x[rows]) for rows in order.split(layout.counts.tolist()) if len(rows)]
        return x.index_add(0, order, torch.cat(changes).to(x.dtype))

    def _change(self, x: Tensor) -> Tensor:
        """One bag in order, (M, dim) -> (M, dim)."""
        z = shift(x)
        hidden = self.to_hidden(z)  # (M, 4 dim): v and u
        gated = []
        for rows, attended in self.attend(self.to_qk(z), hidden):
            (v, u), (attended_v, attended_u) = hidden[rows].chunk(2, dim=-1), attended.chunk(2, dim=-1)
            gated.append(attended_u * v * torch.sigmoid(attended_v * u))  # (n, 2 dim)
        change: Tensor = self.to_out(torch.cat(gated))
        return change

    def attend(self, qk: Tensor, values: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """``(A1 + A2) values`` of one bag, in slices of whole chunks.

        Args:
            qk: (M, key_dim), s of the module's docstring.
            values: (M, E).

        Yields:
            rows, and (n, E) for these rows.
        """
        step = self.options.chunk * max(1, _ROWS_AT_ONCE // self.options.chunk)
        slices = [slice(first, min(first + step, len(qk))) for first in range(0, len(qk), step)]
        wide = torch.promote_types(values.dtype, torch.float32)
        total = qk.new_zeros(qk.shape[1], values.shape[1], dtype=wide)
        for rows in slices:
            total = total + (self._copies(qk, rows)[3].T @ values[rows]).to(wide)
        total = (total / len(qk)).to(values.dtype)  # (key_dim, E)
        for rows in slices:
            q1, q2, k1, _ = self._copies(qk, rows)  # (n, key_dim) each
            yield rows, self._within_chunks(q1, k1, values[rows]) + q2 @ total

    def _copies(self, qk: Tensor, rows: slice) -> Tensor:
        """q1, q2, k1 and k2 of some rows, (4, n, key_dim)."""
        places = torch.arange(rows.start, rows.stop, device=qk.device)
        return rotate(qk[rows] * self.gamma.unsqueeze(1) + self.beta.unsqueeze(1), places)

    def _within_chunks(self, q: Tensor, k: Tensor, values: Tensor) -> Tensor:
        """``A1 values``: (n, key_dim), (n, key_dim), (n, E) -> (n, E). A key of zeros, as in the last chunk, gives nothing."""
        count, chunk = len(q), min(self.options.chunk, len(q))
        q, k, values = (F.pad(x, (0, 0, 0, -count % chunk)).unflatten(0, (-1, chunk)) for x in (q, k, values))
        weights = F.relu(q @ k.mT / self.options.chunk).square()  # (chunks, chunk, chunk)
        attended: Tensor = (self.dropout(weights) @ values).flatten(0, 1)
        return attended[:count]


def shift(x: Tensor) -> Tensor:
    """The first half of the channels from the row before, zeros for the first row: (M, C) -> (M, C)."""
    moved, kept = x.chunk(2, dim=-1) if x.shape[-1] > 1 else (x[:, :0], x)
    return torch.cat([F.pad(moved, (0, 0, 1, -1)), kept], dim=-1)


def rotate(x: Tensor, places: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): channels 2i and 2i + 1 turned by ``place * 10000^(-2i / r)``, for the first r = 32.

    Args:
        x: (..., n, C), C even.
        places: (n,).

    Returns:
        (..., n, C).
    """
    turned = min(_ROTARY_CHANNELS, x.shape[-1])
    frequencies = _ROTARY_BASE ** (-torch.arange(0, turned, 2, dtype=torch.float64, device=x.device) / turned)
    angles = places.double().unsqueeze(1) * frequencies  # (n, turned / 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0:turned:2], x[..., 1:turned:2]
    pairs = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., turned:]], dim=-1)
