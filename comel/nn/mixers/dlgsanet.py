"""DLGSANet's two halves (Li et al., ICCV 2023, arXiv 2301.02031): a convolution whose kernel each tile makes for itself, then a
sparse attention between channels.

    x <- x + local(LN x);   x <- x + GDFN(LN x);   x <- x + global(LN x);   x <- x + GDFN(LN x)

local:  v = x W_0;  K = (DW(v W_a + b_a) + b_d) W_b + b_b, k x k numbers per group of channels and tile;
        o_p = sum over the k x k tiles around p of K_p * v;  o W_1.   No softmax.
global: [q, k, v] = DW_3(x W_qkv); every channel of q and k is brought to unit length over the bag;
        A = ReLU(tau q^T k) between the channels of a head;  o = v A^T;  o W_out.

A cosine between channels needs no scale that depends on the bag, and ReLU gives channels that disagree exactly nothing. GDFN
is :class:`~comel.nn.feedforward.gdfn.GatedConvolution`. A hole adds nothing in any convolution. Without coordinates the
convolutions are left out: the local half is then a gate on each tile alone. The published evaluation in overlapping windows
of 48 x 48 is not here: A is of the whole bag, as in its training. Heads of the local half are called ``kernel_groups`` here:
how many kernels a tile makes.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.feedforward.gdfn import GatedConvolution
from comel.nn.layout.attention import join, split
from comel.nn.layout.convolution import SparseDepthwise, dynamic_depthwise
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["DLGSANet", "DLGSANetOptions", "DynamicConvolution", "SparseChannelAttention"]

_ROWS_AT_ONCE = 8_192


class DLGSANetOptions(MixerOptions):
    """Settings of the mixer."""

    kernel: int = Field(5, ge=1, le=15, description="side of a tile's own kernel, in tiles; odd (published: 7)")
    kernel_groups: int = Field(8, ge=1, le=1024, description="kernels that each tile makes; divides the width")
    expansion: float = Field(2.0, gt=0, le=16, description="hidden width of the gated feed-forward parts over the width")


class DynamicConvolution(nn.Module):
    """The local half's mixing, see the module.

    Raises:
        ValueError: the width is not a multiple of the kernels, or of 4, or the kernel has no middle.
    """

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        if dim % groups or dim % 4:
            raise ValueError(f"dim {dim} is not a multiple of {groups} kernel_groups and of 4")
        if kernel % 2 == 0:
            raise ValueError(f"kernel is {kernel}; give an odd number")
        self.kernel, self.groups = kernel, groups
        self.value = nn.Linear(dim, dim, bias=False)
        self.reduce = nn.Linear(dim, dim // 4)
        self.around = SparseDepthwise(dim // 4, kernel)
        self.make = nn.Linear(dim // 4, groups * kernel**2)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        v = self.value(x)
        seen = self.reduce(v)
        if layout.placed:
            seen = self.around(seen, layout)
        outs = []
        for rows in seen.split(_ROWS_AT_ONCE):
            outs.append(self.make(rows).unflatten(-1, (self.groups, -1)))
        kernels = torch.cat(outs)  # (N, groups, k^2)
        if layout.placed:
            out = dynamic_depthwise(v, kernels, layout)
        else:
            middle = self.kernel**2 // 2
            out = (v.unflatten(-1, (self.groups, -1)) * kernels[:, :, middle : middle + 1]).flatten(1)
        mixed: Tensor = self.proj(out)
        return mixed


class SparseChannelAttention(nn.Module):
    """The global half's mixing, see the module."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.around = SparseDepthwise(3 * dim, 3, bias=False)
        self.temperature = nn.Parameter(torch.ones(heads))
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        qkv = self.qkv(x)
        if layout.placed:
            qkv = self.around(qkv, layout)
        q, k, v = (split(part, self.heads) for part in qkv.chunk(3, dim=-1))  # (N, heads, d)
        outs, first = [], 0
        for count in layout.counts.tolist():
            if count:
                rows = slice(first, first + count)
                outs.append(torch.einsum("nhe,hde->nhd", v[rows], self._between(q[rows], k[rows]).to(v.dtype)))
            first += count
        out: Tensor = self.proj(join(torch.cat(outs)))
        return out

    def _between(self, q: Tensor, k: Tensor) -> Tensor:
        """A of one bag, (heads, d, d); sums over the bag in single precision at least, slice by slice."""
        with torch.autocast(q.device.type, enabled=False):
            wide = torch.float64 if q.dtype == torch.float64 else torch.float32
            q, k = q.to(wide), k.to(wide)
            product = sum(
                torch.einsum("nhd,nhe->hde", qs, ks)
                for qs, ks in zip(q.split(_ROWS_AT_ONCE), k.split(_ROWS_AT_ONCE), strict=True)
            )
            # The length of a channel over the bag; of a channel that is 0 everywhere, the least that F.normalize takes.
            lengths = [part.square().sum(dim=0).clamp_min(1e-24).sqrt() for part in (q, k)]  # (heads, d) each
            cosine = product / (lengths[0].unsqueeze(2) * lengths[1].unsqueeze(1))
            return F.relu(cosine * self.temperature.to(wide).view(-1, 1, 1))


class DLGSANet(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "dlgsanet"
    Options = DLGSANetOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="a kernel that each tile makes, then sparse attention between channels",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="nothing in the convolutions",
        paper="Li et al., ICCV 2023, arXiv 2301.02031",
        licence="Apache-2.0",
        numbers="authors' code",
        ordered_without=False,
    )

    def __init__(self, width: Width, options: DLGSANetOptions | None = None) -> None:
        super().__init__(width, options)
        dim, hidden = width.dim, int(width.dim * self.options.expansion)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(dim) for _ in range(4))
        self.local = DynamicConvolution(dim, self.options.kernel, self.options.kernel_groups)
        self.local_mlp = GatedConvolution(dim, hidden, width.dropout)
        self.channels = SparseChannelAttention(dim, width.heads)
        self.channels_mlp = GatedConvolution(dim, hidden, width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        x = x + self.local(self.norm1(x), layout)
        x = x + self.local_mlp(self.norm2(x), layout)
        x = x + self.channels(self.norm3(x), layout)
        out: Tensor = x + self.channels_mlp(self.norm4(x), layout)
        return out
