"""Long-range grouping attention (Yang et al., ICCV 2023, arXiv 2308.08724), after attention in squares.

    x <- x + A(LN x);  x <- x + MLP(LN x);    x <- x + LGA(LN x);  x <- x + MLP(LN x)

A is softmax attention within squares of w x w tiles. LGA is softmax attention among the tiles whose columns and rows leave
the same rest when divided by s, a sample of the whole slide s tiles apart, to which a depthwise convolution of the values
over the 3 x 3 tiles around each is added before the projection; without it a tile would not know where it lies.

The paper's groups run over several views of an object; a bag is one view. s is fixed, or such that a group has about
``group_size`` tiles if tissue were one square (``stride`` = 0, the default), which makes the cost linear. Without
coordinates squares are stretches of the list, groups have the same place modulo s^2, and the convolution is left out.
"""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.convolution import SparseDepthwise
from comel.nn.layout.layout import Layout, PerBag
from comel.nn.layout.segments import Segments
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.sublayer import Sublayer

__all__ = ["LRGT", "LRGTOptions", "LongRangeAttention", "SquareAttention"]


class LRGTOptions(MixerOptions):
    """Settings of the mixer."""

    window: int = Field(16, ge=1, le=64, description="side of a square of the first attention, in tiles")
    stride: int = Field(0, ge=0, le=4096, description="distance in a long-range group, in tiles; 0: by group_size")
    group_size: int = Field(256, ge=1, le=65536, description="tiles of a long-range group, about, with stride=0")
    qkv_bias: bool = Field(True, description="biases in q, k and v")


class SquareAttention(nn.Module):
    """A, see the module."""

    def __init__(self, width: Width, options: LRGTOptions) -> None:
        super().__init__()
        self.heads, self.options = width.heads, options
        dim, bias = width.dim, options.qkv_bias
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=bias) for _ in range(3))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, dim) -> (N, dim)."""
        v = self.v(x)
        q, k = split(self.q(x), self.heads), split(self.k(x), self.heads)
        out = join(attend_segments(q, k, split(v, self.heads), self._groups(layout)))
        projected: Tensor = self.proj(self._beside(out, v, layout))
        return projected

    def _groups(self, layout: Layout) -> Segments:
        return layout.regions(self.options.window)

    def _beside(self, out: Tensor, v: Tensor, layout: Layout) -> Tensor:
        return out


class LongRangeAttention(SquareAttention):
    """LGA, see the module."""

    def __init__(self, width: Width, options: LRGTOptions) -> None:
        super().__init__(width, options)
        self.around = SparseDepthwise(width.dim, 3)

    def _groups(self, layout: Layout) -> Segments:
        steps = [self.options.stride or self._step(count) for count in layout.counts.tolist()]
        step: PerBag = steps[0] if len(set(steps)) == 1 else tuple(steps)
        if layout.placed:
            return layout.strided(step)
        return layout.strided_runs(step**2 if isinstance(step, int) else tuple(s * s for s in step))

    def _step(self, count: int) -> int:
        """The least s for which s^2 groups of ``group_size`` hold a bag."""
        groups = max(1, -(-count // self.options.group_size))
        return math.isqrt(groups - 1) + 1

    def _beside(self, out: Tensor, v: Tensor, layout: Layout) -> Tensor:
        return out + self.around(v, layout) if layout.placed else out


class LRGT(Mixer):
    """See the module. A block of its own."""

    name: ClassVar[str] = "lrgt"
    Options = LRGTOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="squares of tiles, then every s-th tile of the slide",
        sees="grid",
        reach="global",
        exponent=1.0,
        coords="used",
        holes="in no group; nothing in the convolution",
        paper="Yang et al., ICCV 2023, arXiv 2308.08724",
        licence="MIT",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: LRGTOptions | None = None) -> None:
        super().__init__(width, options)
        self.near = Sublayer(width, SquareAttention(width, self.options), eps=1e-6)
        self.far = Sublayer(width, LongRangeAttention(width, self.options), eps=1e-6)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        out: Tensor = self.far(self.near(x, layout), layout)
        return out
