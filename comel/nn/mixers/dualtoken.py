"""DualToken-ViT: a convolution for what is near, a few tokens with a place for what is far (Chu et al. 2023, arXiv 2309.12424).

    X = LN x;   X_loc = X + W_2 gelu(W_1 LN(DW(X)))                       near: a depthwise convolution, then each tile alone
    D = means of X_loc over g x g bins of the tissue's box;   X_ga = A(D)   far: attention among the bins
    G <- alpha G + (1 - alpha) X_ga;   G <- G + MLP(LN G)                 G, a token for each bin, goes from block to block
    X_glo = A(query X_loc, keys and values G)
    h = x + X_loc + X_glo;   out = h + BiDim(FFN(LN h))

BiDim (LightViT, Huang et al. 2022) multiplies by a gate for each channel, which the mean over the tiles decides, and one for
each tile. No code is public: this is rebuilt from the paper's description, and alpha, where norms stand, and a mean over a
bin's tiles for the paper's resizing in steps are choices made here. A bin without a tile keeps its G, and is no key among
the bins; all tokens are keys for the tiles. The tokens start from a learned table; ``depth`` blocks pass them on. Bins are
relative to the slide's box; without coordinates they are stretches of the list, and the convolution is left out.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.multihead import MultiHead
from comel.nn.sublayer import FeedForward

__all__ = ["BiDim", "DualToken", "DualTokenBlock", "DualTokenOptions"]


class DualTokenOptions(MixerOptions):
    """Settings of the mixer."""

    bins: int = Field(7, ge=1, le=32, description="bins along a side of the box, g; there are g^2 tokens")
    kernel: int = Field(5, ge=1, le=15, description="side of the convolution, in tiles; odd")
    alpha: float = Field(0.5, ge=0, le=1, description="what a token keeps of itself when its bin is read")
    depth: int = Field(1, ge=1, le=64, description="blocks that pass the tokens on")


class BiDim(nn.Module):
    """A gate for each channel and one for each tile, see the module."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        reduced = max(1, dim // 4)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.global_reduce, self.local_reduce = nn.Linear(dim, reduced), nn.Linear(dim, reduced)
        self.channel_select, self.tile_select = nn.Linear(reduced, dim), nn.Linear(2 * reduced, 1)

    def forward(self, f: Tensor, bags: Segments) -> Tensor:
        """(N, dim) -> (N, dim)."""
        z = self.norm(f)
        over = F.gelu(self.global_reduce(bags.mean(z)))  # (bags, reduced)
        own = F.gelu(self.local_reduce(z))  # (N, reduced)
        channel = torch.sigmoid(self.channel_select(over))[bags.of]
        tile = torch.sigmoid(self.tile_select(torch.cat([own, over[bags.of]], dim=1)))
        return f * channel * tile


class DualTokenBlock(nn.Module):
    """One block on tiles and tokens, see the module."""

    def __init__(self, width: Width, options: DualTokenOptions) -> None:
        super().__init__()
        dim, hidden = width.dim, width.hidden
        self.alpha = options.alpha
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.around = SparseDepthwise(dim, options.kernel)
        self.local_norm, self.local = nn.LayerNorm(dim, eps=1e-6), FeedForward(dim, hidden, width.dropout)
        self.aggregate, self.broadcast = MultiHead(dim, width.heads), MultiHead(dim, width.heads)
        self.token_norm, self.token_mlp = nn.LayerNorm(dim, eps=1e-6), FeedForward(dim, hidden, width.dropout)
        self.dropout = nn.Dropout(width.dropout)
        self.ffn, self.gates = FeedForward(dim, hidden, width.dropout), BiDim(dim)

    def forward(self, x: Tensor, tokens: Tensor, layout: Layout, bins: Segments, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles (N, dim) and tokens (bags g^2, dim) -> both; ``slots`` are the tokens of the bins that there are."""
        seen = self.norm1(x)
        local = self.near(seen, layout)
        tokens = self.far(local, tokens, bins, slots)
        number = len(tokens) // layout.bags
        bag = torch.arange(len(tokens), device=x.device) // number
        over = self.broadcast.to_bags(local, tokens, layout.within, Segments(bag, bag))
        h = x + local + self.dropout(over)
        return h + self.gates(self.ffn(self.norm2(h)), layout.within), tokens

    def near(self, x: Tensor, layout: Layout) -> Tensor:
        """X_loc, (N, dim) -> (N, dim)."""
        around = self.around(x, layout) if layout.placed else x
        out: Tensor = x + self.local(self.local_norm(around))
        return out

    def far(self, local: Tensor, tokens: Tensor, bins: Segments, slots: Tensor) -> Tensor:
        """The tokens after they have read their bins, (bags g^2, dim)."""
        read = self.aggregate.within(bins.mean(local), Segments(bins.bag, bins.bag))
        mixed = self.alpha * tokens[slots] + (1 - self.alpha) * read
        tokens = tokens.index_copy(0, slots, mixed.to(tokens.dtype))
        out: Tensor = tokens + self.token_mlp(self.token_norm(tokens))
        return out


class DualToken(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "dualtoken"
    Options = DualTokenOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="a convolution near by, and a token for each bin of the slide",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no bin; nothing in the convolution; a bin without a tile keeps its token",
        paper="Chu et al., 2023, arXiv 2309.12424",
        licence="no code is public",
        numbers="equations",
    )

    def __init__(self, width: Width, options: DualTokenOptions | None = None) -> None:
        super().__init__(width, options)
        if self.options.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.options.kernel}; give an odd number")
        self.tokens = nn.Parameter(torch.randn(self.options.bins**2, width.dim) * 0.02)
        self.blocks = nn.ModuleList(DualTokenBlock(width, self.options) for _ in range(self.options.depth))

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        side = self.options.bins
        bins = layout.bins(side, side)
        tokens = self.tokens.repeat(layout.bags, 1)
        for block in self.blocks:
            x, tokens = block(x, tokens, layout, bins, bins.keys)
        return x
