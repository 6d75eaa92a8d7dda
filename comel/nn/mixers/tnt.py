"""TNT: transformers on the tiles of each region inside a transformer on the regions (Han et al., NeurIPS 2021, arXiv
2103.00112).

Tiles are words Y, narrow, and attend within their region; regions of r x r tiles are sentences Z and attend over the slide.
Between the two, a region's words are laid side by side and added to its sentence:

    Y <- Y + A_in(LN Y);   Y <- Y + MLP_in(LN Y)
    Z_i <- Z_i + LN_2(W LN_1(vec Y_i))
    Z <- Z + A_out(LN Z);  Z <- Z + MLP_out(LN Z)

vec has a place for each of the r^2 cells. Where there is no tile it is 0, and LN_1 takes mean and variance over the places
that have one. Sentences start as LN(W_0 LN(vec Y) + b_0), with sines and cosines of the region's column and row through a
linear layer in the place of the published table; words have a learned code of their place.

The published network answers from its sentences, and they never flow back to words. A mixer answers for tiles, so that this
one gives x_m + U y_m + z of its region, which is ours. Without coordinates a sentence is a stretch of r^2 tiles of the list.
The outer attention costs (M / r^2)^2.
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

__all__ = ["TNT", "Fold", "TNTBlock", "TNTOptions"]

_NUMBERS_AT_ONCE = 1 << 22
_WAVES = 8


class TNTOptions(MixerOptions):
    """Settings of the mixer."""

    side: int = Field(8, ge=1, le=32, description="side of a region, in tiles")
    word_width: int = Field(0, ge=0, le=65536, description="width of a word; 0: an eighth of dim, made a multiple of its heads")
    word_heads: int = Field(4, ge=1, le=1024, description="attention heads of the words")
    depth: int = Field(1, ge=1, le=64, description="blocks of words and sentences")


class Fold(nn.Module):
    """``W LN_1(vec Y_i)`` for every region, see the module.

    Args:
        places: r^2.
        words: width of a word.
        dim: width of a sentence.
        bias: whether W has one.
    """

    def __init__(self, places: int, words: int, dim: int, bias: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(places, words)), nn.Parameter(torch.zeros(places, words))
        self.proj = nn.Linear(places * words, dim, bias=bias)

    def forward(self, y: Tensor, place: Tensor, regions: Segments) -> Tensor:
        """Words (N, words), their places (N,) -> (regions, dim)."""
        count = (regions.sizes * y.shape[1]).to(y.dtype).unsqueeze(1)
        mean = regions.sum(y.sum(dim=1, keepdim=True)) / count  # (regions, 1)
        centred = y - mean[regions.of]
        spread = regions.sum(centred.square().sum(dim=1, keepdim=True)) / count
        normed = centred / (spread + 1e-5).sqrt()[regions.of] * self.weight[place] + self.bias[place]
        places, at_once = self.weight.shape[0], max(1, _NUMBERS_AT_ONCE // self.weight.numel())
        outs = []
        for first in range(0, regions.number, at_once):
            number = min(at_once, regions.number - first)
            start = int(regions.starts[first])
            rows = regions.order[start : start + int(regions.sizes[first : first + number].sum())]
            wide = normed.new_zeros(number * places, y.shape[1])
            wide = wide.index_add(0, (regions.of[rows] - first) * places + place[rows], normed[rows])
            outs.append(self.proj(wide.view(number, -1)))
        return torch.cat(outs)


class TNTBlock(nn.Module):
    """One block on words and sentences, see the module."""

    def __init__(self, width: Width, places: int, words: int, word_heads: int) -> None:
        super().__init__()
        dim = width.dim
        self.inner_norm1, self.inner_norm2 = nn.LayerNorm(words), nn.LayerNorm(words)
        self.inner = MultiHead(words, word_heads)
        self.inner_mlp = FeedForward(words, int(words * width.mlp_ratio), width.dropout)
        self.fold, self.fold_norm = Fold(places, words, dim), nn.LayerNorm(dim)
        self.outer_norm1, self.outer_norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.outer = MultiHead(dim, width.heads)
        self.outer_mlp = FeedForward(dim, width.hidden, width.dropout)
        self.dropout = nn.Dropout(width.dropout)

    def forward(self, y: Tensor, z: Tensor, place: Tensor, regions: Segments, bags: Segments) -> tuple[Tensor, Tensor]:
        """Words (N, words) and sentences (S, dim) -> both.

        Args:
            y: the words.
            z: a sentence for each region, and others that have no words after them.
            place: (N,) of each word in its region.
            regions: of the words.
            bags: of the sentences.
        """
        y = y + self.dropout(self.inner.within(self.inner_norm1(y), regions))
        y = y + self.inner_mlp(self.inner_norm2(y))
        added = self.fold_norm(self.fold(y, place, regions))
        z = z + torch.cat([added, added.new_zeros(len(z) - len(added), added.shape[1])])
        z = z + self.dropout(self.outer.within(self.outer_norm1(z), bags))
        return y, z + self.outer_mlp(self.outer_norm2(z))


class TNT(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "tnt"
    Options = TNTOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="tiles within regions, laid side by side for regions over the slide",
        sees="grid",
        reach="global",
        exponent=2.0,
        coords="used",
        holes="0 in a region's vector, and in no mean; regions without a tile do not exist",
        paper="Han et al., NeurIPS 2021, arXiv 2103.00112",
        licence="Apache-2.0",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: TNTOptions | None = None) -> None:
        super().__init__(width, options)
        options, dim = self.options, width.dim
        words = options.word_width or max(1, dim // 8 // options.word_heads) * options.word_heads
        places = options.side**2
        self.into, self.back = nn.Linear(dim, words), nn.Linear(words, dim)
        self.word_places = nn.Parameter(torch.randn(places, words) * 0.02)
        self.norm = nn.LayerNorm(dim)
        self.start, self.start_norm = Fold(places, words, dim, bias=True), nn.LayerNorm(dim)
        self.cells = nn.Linear(4 * _WAVES, dim)
        self.blocks = nn.ModuleList(TNTBlock(width, places, words, options.word_heads) for _ in range(options.depth))

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        side = self.options.side
        regions = layout.regions(side)
        place = layout.place_in_square(side) if layout.placed else layout.place_in_list % side**2
        y = self.into(self.norm(x)) + self.word_places[place]
        z = self.start_norm(self.start(y, place, regions))
        if layout.placed:
            frequencies = torch.pi * 0.5 ** torch.arange(_WAVES)
            z = z + self.cells(waves(layout.square_cells(side), frequencies, z.dtype))
        bags = Segments(regions.bag, regions.bag)
        for block in self.blocks:
            y, z = block(y, z, place, regions, bags)
        out: Tensor = x + self.back(y) + z[regions.of]
        return out
