"""Complex positions: content and place as phases that add (ComplexFormer, arXiv 2505.10222, withdrawn; RoPE is its simplest
case).

A pair (i, i + d/2) of a head's channels is a complex number |q| e^(i phi). With learned delta and b per head and pair, and
the phase p = w . (column, row) of a tile's place,

    q~ = |q| [cos, sin](delta phi_q + b + p_m),   k~ = |k| [cos, sin](delta phi_k + p_n),   s_mn = q~_m . k~_n

so that the logit is a sum of |q||k| cos(delta (phi_q - phi_k) + b + p_m - p_n): it depends on differences of places alone,
and plain attention computes it. delta = 1, b = 0, where it starts, is RoPE in two dimensions: half of the pairs turn with
the column, half with the row. Without coordinates p = 0.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["ComplexPhases"]

_FLOOR = 1e-9


class ComplexPhases(nn.Module):
    """See the module.

    Args:
        heads: attention heads.
        width: of a head, d; even.
        base: the slowest pair turns by 1 / base per tile, about.

    Raises:
        ValueError: d is odd.
    """

    def __init__(self, heads: int, width: int, base: float = 200.0) -> None:
        super().__init__()
        if width % 2:
            raise ValueError(f"position 'complex' needs heads of an even width, and it is {width}")
        pairs = width // 2
        self.delta, self.b = nn.Parameter(torch.ones(heads, pairs)), nn.Parameter(torch.zeros(heads, pairs))
        first = -(-pairs // 2)
        frequencies = torch.zeros(heads, pairs, 2)
        for axis, own in ((0, slice(0, first)), (1, slice(first, pairs))):
            number = own.stop - own.start
            frequencies[:, own, axis] = base ** -(torch.arange(number) / max(1, number))
        self.register_buffer("frequencies", frequencies)  # (heads, pairs, 2): by column, by row

    frequencies: Tensor

    def forward(self, q: Tensor, k: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Queries and keys (N, heads, d) -> both, turned."""
        with torch.autocast(q.device.type, enabled=False):
            wide = q.dtype if q.dtype == torch.float64 else torch.float32
            place: Tensor | float = 0.0
            if layout.placed:
                cells = layout.cells.to(wide)
                middle = layout.box[layout.bag].to(wide) / 2
                place = torch.einsum("nc,hpc->nhp", cells - middle, self.frequencies.to(wide))
            delta, b = self.delta.to(wide), self.b.to(wide)
            return self._turned(q.to(wide), delta, place + b).to(q.dtype), self._turned(k.to(wide), delta, place).to(k.dtype)

    @staticmethod
    def _turned(x: Tensor, delta: Tensor, phase: Tensor | float) -> Tensor:
        real, imaginary = x.chunk(2, dim=-1)
        size = (real.square() + imaginary.square() + _FLOOR).sqrt()
        angle = delta * torch.atan2(imaginary, real) + phase
        return torch.cat([size * angle.cos(), size * angle.sin()], dim=-1)
