"""EfficientViT's cascaded group attention between two feed-forward parts (Liu et al., CVPR 2023, arXiv 2305.07027).

    x <- x + N DW(x);  x <- x + FFN(x);  x <- x + CGA(x);  x <- x + N DW'(x);  x <- x + FFN'(x)

CGA, within windows of R x R tiles: head i sees a slice of the channels, to which the output of the head before is added,

    f_i = x_i + o_(i-1),   [q, k, v] = N(f_i W_i),   q <- N(DW_i(q)) inside the window
    o_i = softmax(k^-1/2 q k^T + b_i[|drow|, |dcol|]) v,      out = N(relu([o_0, ..., o_(h-1)]) W)

Only the convolutions DW over the 3 x 3 tiles around each move anything between windows: the published network looks farther
by shrinking the picture, which a bag does not do, so that this mixer is local, two tiles a block beyond its window.

N is a BatchNorm in the published code. Bags differ in size, and one alone has no batch, so that N is a LayerNorm over the
channels here; with ``norm="affine"`` it is the scale and shift alone into which a trained BatchNorm can be folded, which
makes the numbers the published ones. Windows hold the tiles that there are; the published code attends to padding too.
Without coordinates windows are stretches of the list, and convolutions and b are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments
from comel.nn.layout.convolution import SparseDepthwise, depthwise
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["CascadedGroupAttention", "EfficientViT", "EfficientViTOptions"]

Norm = Literal["layer", "affine"]


class EfficientViTOptions(MixerOptions):
    """Settings of the mixer."""

    window: int = Field(7, ge=1, le=64, description="side of a window, in tiles")
    key_width: int = Field(16, ge=1, le=4096, description="width of queries and keys of a head")
    kernels: tuple[int, ...] = Field((5,), description="side of the convolution of the queries: one number, or one per head")
    ratio: float = Field(2.0, gt=0, le=64, description="hidden width of the feed-forward parts over dim")
    norm: Norm = Field("layer", description="LayerNorm, or the scale and shift of a folded BatchNorm")


class _Affine(nn.Module):
    """A scale and a shift per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


def _norm(kind: Norm, channels: int, start: float = 1.0) -> nn.Module:
    made = _Affine(channels) if kind == "affine" else nn.LayerNorm(channels)
    nn.init.constant_(made.weight, start)
    return made


class _Convolution(nn.Module):
    """``N(DW(x))`` over the 3 x 3 tiles around each; nothing at the start."""

    def __init__(self, dim: int, norm: Norm) -> None:
        super().__init__()
        self.around, self.norm = SparseDepthwise(dim, 3, bias=False), _norm(norm, dim, 0.0)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        out: Tensor = self.norm(self.around(x, layout))
        return out


class _FeedForward(nn.Module):
    """``N(relu(N(x W_1)) W_2)``; nothing at the start."""

    def __init__(self, dim: int, hidden: int, norm: Norm) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden, bias=False), nn.Linear(hidden, dim, bias=False)
        self.norm1, self.norm2 = _norm(norm, hidden), _norm(norm, dim, 0.0)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.fc2(F.relu(self.norm1(self.fc1(x)))))
        return out


class CascadedGroupAttention(nn.Module):
    """CGA, see the module.

    Raises:
        ValueError: a number of kernels that is neither one nor that of the heads, or a kernel without a middle.
    """

    def __init__(self, dim: int, heads: int, options: EfficientViTOptions) -> None:
        super().__init__()
        kernels = options.kernels * heads if len(options.kernels) == 1 else options.kernels
        if len(kernels) != heads or any(kernel < 1 or kernel % 2 == 0 for kernel in kernels):
            raise ValueError(f"kernels are {options.kernels} for {heads} heads; give one odd number, or one per head")
        self.window, self.key = options.window, options.key_width
        d = dim // heads
        self.qkvs = nn.ModuleList(nn.Linear(d, 2 * self.key + d, bias=False) for _ in kernels)
        self.qkv_norms = nn.ModuleList(_norm(options.norm, 2 * self.key + d) for _ in kernels)
        taps = [torch.empty(self.key, kernel, kernel).uniform_(-1 / kernel, 1 / kernel) for kernel in kernels]
        self.around = nn.ParameterList(nn.Parameter(weight) for weight in taps)
        self.around_norms = nn.ModuleList(_norm(options.norm, self.key) for _ in kernels)
        self.biases = nn.Parameter(torch.zeros(heads, options.window**2))
        self.proj, self.norm = nn.Linear(dim, dim, bias=False), _norm(options.norm, dim, 0.0)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        windows = layout.regions(self.window)
        outs: list[Tensor] = []
        for i, part in enumerate(x.chunk(len(self.qkvs), dim=-1)):
            seen = part + outs[-1] if outs else part
            qkv = self.qkv_norms[i](self.qkvs[i](seen))
            q, k, v = qkv.split([self.key, self.key, qkv.shape[-1] - 2 * self.key], dim=-1)
            bias = None
            if layout.placed:
                table = layout.neighbours_in_square(self.around[i].shape[-1], self.window)
                q = self.around_norms[i](depthwise(q, self.around[i], layout, table))
                bias = self._bias_of(i, layout.place_in_square(self.window))
            out = attend_segments(
                q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), windows, scale=self.key**-0.5, bias=bias
            )  # (N, 1, d)
            outs.append(out.squeeze(1))
        mixed: Tensor = self.norm(self.proj(F.relu(torch.cat(outs, dim=-1))))
        return mixed

    def _bias_of(self, head: int, place: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        row, column = place // self.window, place % self.window

        def bias(queries: Tensor, keys: Tensor) -> Tensor:
            down = (row[queries].unsqueeze(2) - row[keys].unsqueeze(1)).abs()
            across = (column[queries].unsqueeze(2) - column[keys].unsqueeze(1)).abs()
            return self.biases[head][down * self.window + across].unsqueeze(1)  # (g, 1, n, m)

        return bias


class EfficientViT(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "efficientvit"
    Options = EfficientViTOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="heads in a cascade within windows, between two feed-forward parts",
        sees="grid",
        reach="local",
        exponent=1.0,
        coords="used",
        holes="in no window; nothing in the convolutions",
        paper="Liu et al., CVPR 2023, arXiv 2305.07027",
        licence="MIT",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: EfficientViTOptions | None = None) -> None:
        super().__init__(width, options)
        dim, norm, hidden = width.dim, self.options.norm, int(width.dim * self.options.ratio)
        self.around1, self.around2 = _Convolution(dim, norm), _Convolution(dim, norm)
        self.mlp1, self.mlp2 = _FeedForward(dim, hidden, norm), _FeedForward(dim, hidden, norm)
        self.attention = CascadedGroupAttention(dim, width.heads, self.options)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        if layout.placed:
            x = x + self.around1(x, layout)
        x = x + self.dropout(self.mlp1(x))
        x = x + self.dropout(self.attention(x, layout))
        if layout.placed:
            x = x + self.around2(x, layout)
        out: Tensor = x + self.dropout(self.mlp2(x))
        return out
