"""Spectral gating (Patro, Namboodiri, Agneeswaran, "SpectFormer: Frequency and Attention is what you need in a Vision
Transformer", arXiv 2304.06446): one learned filter a channel in the Fourier domain of the slide.

    F(x)     = irfft2( K * rfft2(x) ),   K complex for each frequency and channel
    parallel:  x += F(LN_1 x);  x += MLP(LN_2 x)       the blocks of the published hierarchical model
    series:    x += MLP(LN_2 F(LN_1 x))                the blocks of the published plain model

The published K belongs to one size of image. Here K lies on a reference grid of ``rows`` x ``columns`` frequencies, and its
kernel kappa = irfft2(K), by lags from -n/2 to n/2 - 1 tiles, convolves every slide: a filter means the same frequency per tile
on all of them, whatever their size. The convolution is linear; the published one is circular and joins the left edge of the
image to the right one. Holes are zeros after LN_1, and the work grows with the tissue, not with the box around it.

SpectFormer's first blocks are these, its later ones attention. A ``series`` block is no identity at the start: LN_2 brings
the small output of a new filter to unit variance. Some entries of K are redundant, since x is real: those of column 0 act in
pairs, and the imaginary part of a frequency that is its own mirror does nothing.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.layout.slices import in_slices
from comel.nn.layout.windows import convolve
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["SpectFormer", "SpectFormerOptions", "SpectralGating"]


class SpectFormerOptions(MixerOptions):
    """Settings of the mixer."""

    rows: int = Field(32, ge=1, le=256, description="rows of the filter's grid; it reaches half of them up and down, in tiles")
    columns: int = Field(32, ge=1, le=256, description="columns of the filter's grid; it reaches half of them to each side")
    residuals: Literal["parallel", "series"] = Field(
        "parallel", description="a residual around the filter and another around the MLP, or one around both in a row"
    )


class SpectralGating(nn.Module):
    """F of the module's docstring.

    Args:
        channels: C.
        rows: of the reference grid.
        columns: of the reference grid.
    """

    def __init__(self, channels: int, rows: int, columns: int) -> None:
        super().__init__()
        self.columns = columns
        self.complex_weight = nn.Parameter(torch.randn(rows, columns // 2 + 1, channels, 2) * 0.02)

    def kernel(self) -> Tensor:
        """kappa by signed lag, (C, rows, columns), lag 0 at (rows // 2, columns // 2)."""
        weight = self.complex_weight if self.complex_weight.dtype == torch.float64 else self.complex_weight.float()
        spectrum = torch.view_as_complex(weight.contiguous()).permute(2, 0, 1)  # (C, rows, columns // 2 + 1)
        kappa = torch.fft.irfft2(spectrum, s=(spectrum.shape[1], self.columns))
        shifted: Tensor = torch.fft.fftshift(kappa, dim=(1, 2))
        return shifted

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """(N, C) -> (N, C)."""
        return convolve(x, layout, self.kernel(), (self.complex_weight.shape[0] // 2, self.columns // 2))


class SpectFormer(Mixer):
    """See the module."""

    name: ClassVar[str] = "spectformer"
    Options = SpectFormerOptions
    whole: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        title="one learned filter a channel over 32 x 32 tiles, by Fourier transform",
        sees="grid",
        reach="local",
        exponent=1.0,
        coords="needed",
        holes="zeros, after the norm",
        paper="Patro et al., WACV 2025, arXiv 2304.06446",
        licence="none stated",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: SpectFormerOptions | None = None) -> None:
        super().__init__(width, options)
        dim = width.dim
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.filter = SpectralGating(dim, self.options.rows, self.options.columns)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, width.hidden)
        self.fc2 = nn.Linear(width.hidden, dim)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        filtered = self.dropout(self.filter(self.norm1(x), layout))
        if self.options.residuals == "series":
            return x + in_slices(self._mlp, filtered)
        x = x + filtered
        return x + in_slices(self._mlp, x)

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))  # (n, dim * mlp_ratio)
        change: Tensor = self.dropout(self.fc2(hidden))
        return change
