"""DeFTAN-II's block along the rows of a slide, then along its columns (Lee, Choi, "DeFTAN-II: Efficient Multichannel Speech
Enhancement With Subgroup Processing", IEEE/ACM TASLP 32 (2024), arXiv 2308.15777).

Each half takes sequences of L tiles with C channels, every sequence alone:

    u    = windows of 4 tiles of LN(s), a step of ``stride`` apart                     L' windows
    u    = SDB(u):  o_i = PReLU(GN(Conv3([o_(i-1), tap i of u]))), i = 0 ... 3;  o_3    4 C -> C
    u   += CEA(LN u);  u += DPFN(LN u)
    out  = s + transposed convolution of u over 4 tiles, back to length L

    CEA:   e = GLU(Conv3(u));  q = W_q e, k = W_k e, v = W_v u
           o = softmax_channels(q) [ d^-1/2 softmax_tokens(k)^T v ];  W_o o + b_o
    DPFN:  a = gelu(W_1 u + b_1), b = gelu(W_2 u + b_2);  b = PReLU(GN(Conv5(b)));  W_3 [a, b] + b_3

GN normalises over all channels and all windows of one sequence. Conv5 is a full convolution whose taps lie ``dilation``
apart; the published network doubles that from block to block. Nothing is larger than the tiles and a d x d table a head.

With ``gaps`` = cut a sequence is a run of tiles without a hole, with join a whole row or column. Without coordinates the list
is one sequence for both halves. Zeros stand behind a sequence that its windows do not fill, as published, and behind one of
fewer than 4 tiles, which the published code does not take; what the windows give there is dropped, where the published code
returns it.

The block has ``channels`` channels, 64 in the paper: instances of another width are projected to them and the block's answer
back, x + W_up block(W_down x), which is this project's; 0 runs the block on the instances themselves.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["DPFN", "ConvolvedEfficientAttention", "DeFTAN2", "DeFTAN2Options", "Half", "SplitDenseBlock"]

_TAPS = 4
_TILES_AT_ONCE = 16_384


class DeFTAN2Options(MixerOptions):
    """Settings of the mixer."""

    channels: int = Field(64, ge=0, le=4096, description="width of the block; 0: that of the instances")
    heads: int = Field(4, ge=1, le=64, description="heads of the attention")
    head_dim: int = Field(64, ge=1, le=512, description="width of a head")
    stride: int = Field(1, ge=1, le=4, description="step between windows of 4 tiles")
    dilation: int = Field(1, ge=1, le=64, description="distance of the taps in the feed-forward part's convolution, in windows")
    gaps: Literal["cut", "join"] = Field("cut", description="whether a hole ends a sequence, or is skipped")


class SequenceNorm(nn.Module):
    """GN of the module's docstring: one mean and variance for each sequence, over its real windows.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """(g, C, n) and (g, 1, n), 1 for a window and 0 for none -> (g, C, n)."""
        count = real.sum(dim=(1, 2), keepdim=True) * x.shape[1]
        mean = (x * real).sum(dim=(1, 2), keepdim=True) / count
        centred = x - mean
        variance = (centred.square() * real).sum(dim=(1, 2), keepdim=True) / count
        return centred * (variance + 1e-5).rsqrt() * self.weight[:, None] + self.bias[:, None]


class SplitDenseBlock(nn.Module):
    """SDB of the module's docstring.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        widths = [channels, *[2 * channels] * (_TAPS - 1)]
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, 3, padding=1) for width in widths)
        self.norms = nn.ModuleList(SequenceNorm(channels) for _ in widths)
        self.activations = nn.ModuleList(nn.PReLU(channels) for _ in widths)

    def forward(self, taps: list[Tensor], real: Tensor) -> Tensor:
        """Tile i of each window, (g, C, n) each, 0 where there is no window -> (g, C, n)."""
        out = taps[0][:, :0]
        for tap, convolution, norm, activation in zip(taps, self.convolutions, self.norms, self.activations, strict=True):
            out = activation(norm(convolution(torch.cat([out, tap], dim=1)), real)) * real
        return out


class ConvolvedEfficientAttention(nn.Module):
    """CEA of the module's docstring.

    Args:
        channels: C.
        heads: of the attention.
        head_dim: d.
        dropout: after the context and the output.
    """

    def __init__(self, channels: int, heads: int, head_dim: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.conv = nn.Conv1d(channels, 2 * channels, 3, padding=1, bias=False)
        self.q, self.k, self.v = (nn.Linear(channels, inner, bias=False) for _ in range(3))
        self.out = nn.Linear(inner, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Tensor, real: Tensor) -> Tensor:
        """(g, n, C) and (g, 1, n) -> (g, n, C)."""
        u = u * real.mT
        emphasised = F.glu(self.conv(u.mT), dim=1).mT  # (g, n, C)
        q, k, v = (y.unflatten(-1, (self.heads, -1)) for y in (self.q(emphasised), self.k(emphasised), self.v(u)))
        k = k.masked_fill(~real.bool().mT.unsqueeze(-1), -torch.inf).softmax(dim=1)  # (g, n, heads, d)
        context = self.dropout(torch.einsum("gnhd,gnhe->ghde", k, v) * k.shape[-1] ** -0.5)
        mixed: Tensor = self.out(torch.einsum("gnhd,ghde->gnhe", q.softmax(dim=-1), context).flatten(2))
        dropped: Tensor = self.dropout(mixed)
        return dropped


class DPFN(nn.Module):
    """The dual-path feed-forward part of the module's docstring.

    Args:
        channels: C.
        hidden: width of both paths together; even.
        dilation: distance of the convolution's taps.
        dropout: after the paths and the output.
    """

    def __init__(self, channels: int, hidden: int, dilation: int, dropout: float = 0.0) -> None:
        super().__init__()
        half = hidden // 2
        self.plain, self.convolved = nn.Linear(channels, half), nn.Linear(channels, half)
        self.conv = nn.Conv1d(half, half, 5, padding=2 * dilation, dilation=dilation)
        self.norm, self.activation = SequenceNorm(half), nn.PReLU(half)
        self.out = nn.Linear(2 * half, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, u: Tensor, real: Tensor) -> Tensor:
        """(g, n, C) and (g, 1, n) -> (g, n, C)."""
        a, b = self.dropout(F.gelu(self.plain(u))), self.dropout(F.gelu(self.convolved(u)))  # (g, n, hidden / 2)
        b = self.activation(self.norm(self.conv(b.mT * real), real)).mT
        out: Tensor = self.dropout(self.out(torch.cat([a, b], dim=-1)))
        return out


class Half(nn.Module):
    """One half of the block, along one axis.

    Args:
        channels: C.
        options: of the mixer.
        width: whose ``mlp_ratio`` and dropout are taken.
    """

    def __init__(self, channels: int, options: DeFTAN2Options, width: Width) -> None:
        super().__init__()
        self.stride = options.stride
        self.norm = nn.LayerNorm(channels)
        self.sdb = SplitDenseBlock(channels)
        self.cea_norm = nn.LayerNorm(channels)
        self.cea = ConvolvedEfficientAttention(channels, options.heads, options.head_dim, width.dropout)
        self.dpfn_norm = nn.LayerNorm(channels)
        self.dpfn = DPFN(channels, max(2, int(channels * width.mlp_ratio)), options.dilation, width.dropout)
        self.back = nn.ConvTranspose1d(channels, channels, _TAPS, stride=options.stride)

    def forward(self, s: Tensor, real: Tensor) -> Tensor:
        """Sequences (g, n, C) and which of their places hold a tile, (g, n) -> (g, n, C), any number where there is none."""
        tiles = real.sum(dim=1)
        windows = self._windows(tiles)  # (g,)
        number = int(windows.max())
        there = (torch.arange(number, device=s.device) < windows[:, None])[:, None].to(s.dtype)  # (g, 1, n')
        length = (number - 1) * self.stride + _TAPS
        normalised = self.norm(F.pad(s * real.unsqueeze(-1), (0, 0, 0, length - s.shape[1]))).mT  # (g, C, length)
        taps = [normalised[:, :, tap :: self.stride][:, :, :number] * there for tap in range(_TAPS)]
        u = self.sdb(taps, there).mT  # (g, n', C)
        u = u + self.cea(self.cea_norm(u), there)
        u = u + self.dpfn(self.dpfn_norm(u), there)
        back: Tensor = self.back(u.mT * there).mT  # (g, length, C)
        return back[:, : s.shape[1]] + s

    def _windows(self, tiles: Tensor) -> Tensor:
        """How many windows hold sequences of some lengths."""
        return (tiles - _TAPS).clamp_min(0).add(self.stride - 1).div(self.stride, rounding_mode="floor") + 1


class DeFTAN2(Mixer):
    """See the module."""

    name: ClassVar[str] = "deftan2"
    Options = DeFTAN2Options
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="convolutions and linear attention along rows, then along columns",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="end a sequence, or are skipped",
        paper="Lee, Choi, TASLP 2024, arXiv 2308.15777",
        licence="none stated",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: DeFTAN2Options | None = None) -> None:
        super().__init__(width, options)
        channels = self.options.channels or width.dim
        self.down: nn.Module | None = None
        if self.options.channels:
            self.down, self.up = nn.Linear(width.dim, channels), nn.Linear(channels, width.dim)
        self.along_rows = Half(channels, self.options, width)
        self.along_columns = Half(channels, self.options, width)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        s = x if self.down is None else self.down(x)  # (N, C)
        for axis, half in enumerate((self.along_rows, self.along_columns)):
            s = self._half(half, s, axis, layout)
        if self.down is None:
            return s
        mixed: Tensor = x + self.up(s)
        return mixed

    def _half(self, half: nn.Module, s: Tensor, axis: int, layout: Layout) -> Tensor:
        """All sequences along one axis, those of like lengths together, (N, C) -> (N, C)."""
        order = layout.along(axis) if layout.placed else torch.arange(len(layout), device=s.device)
        sequences = self._sequences(axis, layout)
        ordered = Segments(sequences.of[order], layout.bag[order])  # each from left to right, or from top to bottom
        outs, rows = [], []
        for slots in ordered.slots(_TILES_AT_ONCE):
            places = order[slots.rows]  # (g, n)
            outs.append(half(s[places], slots.real)[slots.real])
            rows.append(places[slots.real])
        joined = torch.cat(outs)
        return torch.empty_like(joined).index_copy(0, torch.cat(rows), joined)

    def _sequences(self, axis: int, layout: Layout) -> Segments:
        if not layout.placed:
            return layout.within
        return layout.stretches(axis) if self.options.gaps == "cut" else layout.lines(axis)
