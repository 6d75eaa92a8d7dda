"""FIT: far-reaching interleaved transformers (Chen and Li 2023, arXiv 2305.12689).

Tiles attend within regions of r x r tiles; each region has a few latents; all latents of a slide attend to each other; tiles
and latents of a region read each other:

    x <- layers(x)  within regions                       (a) local
    L <- L + A(query LN L, keys and values LN' x)        (b) a region's latents read its tiles
    L <- layers(L)  over the slide                       (c) global
    x <- x + A(query LN x, keys and values LN' L)        (d) tiles read the latents of their region
    ... again (a) to (d), and (a) at the end;  out = LN x

A layer is x <- x + A(LN x); x <- x + MLP(LN x). ``local_layers`` = (1, 1) and ``global_layers`` = (1,) is (1)1(1) in the
paper's writing. A tile has a learned code of its place in the region. The paper's latents are a table for each region;
slides differ, so that all regions start from one table, to which sines and cosines of the region's column and row are added.
Without coordinates regions are stretches of r^2 tiles of the list, and latents have no place.

The cost is linear in the tiles but for the latents of the slide, (latents M / r^2)^2, which a million tiles begin to feel.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.multihead import MultiHead
from comel.nn.positions.waves import waves
from comel.nn.sublayer import FeedForward

__all__ = ["FIT", "FITOptions"]

_EPS = 1e-6


class FITOptions(MixerOptions):
    """Settings of the mixer."""

    side: int = Field(16, ge=1, le=64, description="side of a region, in tiles")
    latents: int = Field(2, ge=1, le=64, description="latents of a region")
    latent_width: int = Field(0, ge=0, le=65536, description="width of the latents; 0: that of the tiles")
    latent_heads: int = Field(0, ge=0, le=4096, description="attention heads of the latents; 0: those of the tiles")
    local_layers: tuple[int, ...] = Field((1, 1), min_length=2, max_length=33, description="layers on the tiles of each block")
    global_layers: tuple[int, ...] = Field((1,), min_length=1, max_length=32, description="layers on the latents of each block")
    cell_code: bool = Field(True, description="give latents the place of their region")


class _Layer(nn.Module):
    """``x <- x + A(LN x);  x <- x + MLP(LN x)``."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(dim, eps=_EPS)
        self.attention, self.dropout = MultiHead(dim, heads), nn.Dropout(dropout)
        self.mlp = FeedForward(dim, hidden, dropout)

    def forward(self, x: Tensor, segments: Segments) -> Tensor:
        x = x + self.dropout(self.attention.within(self.norm1(x), segments))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class _Read(nn.Module):
    """``x <- x + A(query LN x, keys and values LN' y)``."""

    def __init__(self, dim: int, keys_dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.norm, self.norm_keys = nn.LayerNorm(dim, eps=_EPS), nn.LayerNorm(keys_dim, eps=_EPS)
        self.attention = MultiHead(dim, heads, keys_dim=keys_dim, inner=inner)

    def forward(self, x: Tensor, y: Tensor, segments: Segments, among: Segments) -> Tensor:
        return x + self.attention.between(self.norm(x), self.norm_keys(y), segments, among)


class FIT(Mixer):
    """See the module. A block of its own.

    Raises:
        ValueError: there is not one more number of local layers than of global ones.
    """

    name: ClassVar[str] = "fit"
    Options = FITOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="within regions, and over the slide by a few latents of each",
        sees="grid",
        reach="global",
        exponent=2.0,
        coords="used",
        holes="in no region; regions without a tile have no latents",
        paper="Chen and Li, 2023, arXiv 2305.12689",
        licence="Apache-2.0",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: FITOptions | None = None) -> None:
        super().__init__(width, options)
        options = self.options
        if len(options.local_layers) != len(options.global_layers) + 1:
            raise ValueError(
                f"local_layers {options.local_layers} and global_layers {options.global_layers}; give one more of the first"
            )
        dim, latent = width.dim, options.latent_width or width.dim
        latent_heads = options.latent_heads or width.heads
        heads = min(width.heads, latent_heads)
        inner = min(dim, latent) // heads * heads
        ratio = width.mlp_ratio
        self.places = nn.Parameter(torch.randn(options.side**2, dim) * 0.02)
        self.latents = nn.Parameter(torch.randn(options.latents, latent) * 0.02)
        self.local = nn.ModuleList(
            nn.ModuleList(_Layer(dim, width.heads, width.hidden, width.dropout) for _ in range(number))
            for number in options.local_layers
        )
        self.over = nn.ModuleList(
            nn.ModuleList(_Layer(latent, latent_heads, int(latent * ratio), width.dropout) for _ in range(number))
            for number in options.global_layers
        )
        self.gather = nn.ModuleList(_Read(latent, dim, heads, inner) for _ in options.global_layers)
        self.spread = nn.ModuleList(_Read(dim, latent, heads, inner) for _ in options.global_layers)
        self.norm = nn.LayerNorm(dim, eps=_EPS)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        side = self.options.side
        regions = layout.regions(side)
        place = layout.place_in_square(side) if layout.placed else layout.place_in_list % side**2
        latents = self.latents.repeat(regions.number, 1)  # (regions m, latent)
        if self.options.cell_code and layout.placed:
            code = _waves(layout.square_cells(side), latents.shape[1], latents)
            latents = latents + code.repeat_interleave(self.options.latents, dim=0)
        return self.run(x + self.places[place], latents, regions)[0]

    def run(self, x: Tensor, latents: Tensor, regions: Segments) -> tuple[Tensor, Tensor]:
        """The blocks on tiles (N, dim) and latents (regions m, latent), regions one after another; both as they come out."""
        number = torch.arange(regions.number, device=x.device).repeat_interleave(self.options.latents)
        own = Segments(number, regions.bag[number])
        bags = Segments(regions.bag[number], regions.bag[number])
        for block, layers in enumerate(self.local):
            for layer in layers:  # type: ignore[attr-defined]
                x = layer(x, regions)
            if block < len(self.over):
                latents = self.gather[block](latents, x, own, regions)
                for layer in self.over[block]:  # type: ignore[attr-defined]
                    latents = layer(latents, bags)
                x = self.spread[block](x, latents, regions, own)
        return self.norm(x), latents


def _waves(cells: Tensor, width: int, like: Tensor) -> Tensor:
    """Sines and cosines of column and row at wavelengths from 2 pi to 2 pi 1000, (n, 2) -> (n, width)."""
    number = -(-width // 4)
    return waves(cells, 1e3 ** -(torch.arange(number) / max(1, number - 1)), like.dtype)[:, :width]
