"""Hyena in two dimensions: gated convolutions as wide as a filter that a small network writes (Zimerman, Wolf,
"Multi-Dimensional Hyena for Spatial Inductive Bias", AISTATS 2024, arXiv 2309.13600).

    [x_0, ..., x_(n-1), v] = DWConv_3x3(W_in x + b),  n the order
    for o = 0 ... n-2:   v = v * x_(n-1-o);   v = k_o (*) v + d_o * v
    out = W_out (v * x_0) + b

The kernel is k_o[i, j] = MLP(z_i, z_j) exp(-|delta| (t_i + t_j)) / (2 L) for lags 0 ... L-1 along each axis, in tiles, with
t_i = i / (L - 1), z_i = [t_i, cos(f w_i), -sin(f w_i)], w_i = 2 pi i / L, for a few frequencies f, and fixed rates delta, one
a channel. Its MLP has sines of ``freq`` times its layers, one vector for all of them. With ``filter`` = product there is an
MLP for each axis, and their filters are multiplied.

Such a kernel sees what lies above and to the left alone. ``4dir`` runs it from all four corners and weighs the results, which
for order 2 is one convolution with the weighted sum of the four kernels; ``seq`` turns the first convolution around.

The published L is the side of the image. Here it is ``reach``, the same number of tiles on every slide, so that neither the
kernel nor its factor 1 / (2 L) depends on the box around the tissue. z is fixed (the published code trains it at a rate of
1e-5), and has two frequencies by default: of the published default, one of 1e-4, only t is seen. Holes are zeros in each
convolution, and biases do not fill them. Each weight of ``4dir`` starts at 1/4.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from comel.nn.layout.convolution import depthwise
from comel.nn.layout.layout import Layout
from comel.nn.layout.windows import convolve
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["Hyena", "HyenaFilter", "HyenaOptions", "turned"]

Flip = tuple[bool, bool]
"""Whether a kernel is turned around by rows, and by columns."""

_CORNERS: tuple[Flip, ...] = ((False, False), (True, True), (False, True), (True, False))
"""Top left, bottom right, top right, bottom left: the published order of the weights."""


class HyenaOptions(MixerOptions):
    """Settings of the mixer."""

    reach: int = Field(32, ge=2, le=256, description="how far a filter reaches along each axis, in tiles (L)")
    order: int = Field(2, ge=2, le=4, description="how many gates; one long convolution fewer")
    filter: Literal["joint", "product"] = Field("joint", description="one network for both axes, or one for each")
    directions: Literal["4dir", "standard", "seq"] = Field(
        "4dir", description="filters from all corners, from the top left, or the first one from the bottom right"
    )
    features: int = Field(5, ge=3, le=65, description="numbers that tell the network a lag along one axis; odd")
    hidden: int = Field(64, ge=1, le=1024, description="width of the network that writes the filters")

    @field_validator("features")
    @classmethod
    def _odd(cls, features: int) -> int:
        if features % 2 == 0:
            raise ValueError("give an odd number: one for the lag, two for each frequency")
        return features


class _Sines(nn.Module):
    """The MLP that writes filters; ``freq`` is given, since several share it."""

    def __init__(self, width_in: int, hidden: int, channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width_in, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)])
        self.out = nn.Linear(hidden, channels, bias=False)

    def forward(self, z: Tensor, freq: Tensor) -> Tensor:
        for layer in self.layers:
            z = torch.sin(freq * layer(z))
        written: Tensor = self.out(z)
        return written


class HyenaFilter(nn.Module):
    """The kernels of the module's docstring, without their factor 1 / (2 L).

    Args:
        channels: of all kernels together.
        options: of the mixer.
    """

    z: Tensor
    t: Tensor
    deltas: Tensor

    def __init__(self, channels: int, options: HyenaOptions) -> None:
        super().__init__()
        lags, bands = torch.arange(options.reach, dtype=torch.float64), (options.features - 1) // 2
        t = lags / (options.reach - 1)  # (L,)
        angles = 2 * math.pi * lags[:, None] / options.reach * torch.linspace(1e-4, bands - 1, bands)  # (L, bands)
        deltas = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels)
        for name, values in {
            "z": torch.cat([t[:, None], angles.cos(), -angles.sin()], dim=1),
            "t": t,
            "deltas": deltas,
        }.items():
            self.register_buffer(name, values.float(), persistent=False)
        joint = options.filter == "joint"
        widths = [2 * options.features] if joint else [options.features] * 2
        self.networks = nn.ModuleList(_Sines(width, options.hidden, channels) for width in widths)
        self.freq = nn.Parameter(torch.ones(1, options.hidden))

    def forward(self) -> Tensor:
        """(channels, L, L) by lag, rows first."""
        z, length = self.z.to(self.freq.dtype), len(self.z)
        window = torch.exp(-self.t[:, None] * self.deltas.abs()).to(z.dtype)  # (L, channels)
        if len(self.networks) == 1:
            lags = torch.cat([z[:, None].expand(-1, length, -1), z[None].expand(length, -1, -1)], dim=2)  # (L, L, 2 features)
            kernel = self.networks[0](lags, self.freq) * window[:, None] * window[None]
        else:
            rows, columns = (network(z, self.freq) * window for network in self.networks)  # (L, channels)
            kernel = rows[:, None] * columns[None]
        by_channel: Tensor = kernel.permute(2, 0, 1)
        return by_channel


class Hyena(Mixer):
    """See the module."""

    name: ClassVar[str] = "hyena"
    Options = HyenaOptions
    card: ClassVar[Card] = Card(
        title="gates around a convolution of 63 x 63 tiles whose filter a small network writes",
        sees="grid",
        reach="local",
        exponent=1.0,
        coords="needed",
        holes="zeros in each convolution",
        paper="Zimerman, Wolf, AISTATS 2024, arXiv 2309.13600",
        licence="Apache-2.0",
        numbers="authors' code",
    )

    def __init__(self, width: Width, options: HyenaOptions | None = None) -> None:
        super().__init__(width, options)
        dim, order = width.dim, self.options.order
        self.in_proj = nn.Linear(dim, (order + 1) * dim)
        self.short_weight = nn.Parameter(torch.empty((order + 1) * dim, 3, 3).uniform_(-1 / 3, 1 / 3))
        self.short_bias = nn.Parameter(torch.empty((order + 1) * dim).uniform_(-1 / 3, 1 / 3))
        self.filter = HyenaFilter((order - 1) * dim, self.options)
        self.skip = nn.Parameter(torch.randn(order - 1, dim))  # d_o
        self.out_proj = nn.Linear(dim, dim)
        if self.options.directions == "4dir":
            self.linear_mix = nn.Linear(4, 1)
            nn.init.constant_(self.linear_mix.weight, 0.25)
            nn.init.zeros_(self.linear_mix.bias)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        dim, order, directions = self.width.dim, self.options.order, self.options.directions
        parts = self.in_proj(x).split(dim, dim=1)
        *gates, v = (self._short(part, number, layout) for number, part in enumerate(parts))  # (N, dim) each
        kernels = (self.filter() / (2 * self.options.reach)).split(dim)  # each (dim, L, L)
        if directions == "4dir" and order == 2:
            weights = self.linear_mix.weight[0]
            v = self.dropout(v * gates[1])
            kernel, centre = _from_all_corners(kernels[0], weights)
            v = convolve(v, layout, kernel, centre) + weights.sum() * self.skip[0] * v
            mixed = v * gates[0] + self.linear_mix.bias
        elif directions == "4dir":
            ways = torch.stack([self._long(v, gates, kernels, [flip] * (order - 1), layout) for flip in _CORNERS], dim=-1)
            mixed = self.linear_mix(ways).squeeze(-1)
        else:
            first = _CORNERS[1 if directions == "seq" else 0]
            mixed = self._long(v, gates, kernels, [first, *[_CORNERS[0]] * (order - 2)], layout)
        out: Tensor = self.out_proj(mixed)
        return out

    def _short(self, x: Tensor, number: int, layout: Layout) -> Tensor:
        """The 3 x 3 convolution of one of the parts, (N, dim) -> (N, dim)."""
        channels = slice(number * self.width.dim, (number + 1) * self.width.dim)
        return depthwise(x, self.short_weight[channels], layout) + self.short_bias[channels]

    def _long(self, v: Tensor, gates: list[Tensor], kernels: tuple[Tensor, ...], flips: list[Flip], layout: Layout) -> Tensor:
        """All gates and long convolutions, each from its corner, (N, dim) -> (N, dim)."""
        for kernel, skip, gate, flip in zip(kernels, self.skip, reversed(gates[1:]), flips, strict=True):
            v = self.dropout(v * gate)
            v = convolve(v, layout, *turned(kernel, flip)) + skip * v
        return v * gates[0]


def turned(kernel: Tensor, flip: Flip) -> tuple[Tensor, tuple[int, int]]:
    """A kernel (C, L, L) of lags from 0 up, turned around along some axes: the kernel, and where lag 0 now stands."""
    axes = [axis for axis, around in enumerate(flip, start=1) if around]
    last = kernel.shape[1] - 1
    return kernel.flip(axes), (last * flip[0], last * flip[1])


def _from_all_corners(kernel: Tensor, weights: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The weighted sum of a kernel (C, L, L) turned to all four corners, and where lag 0 stands: (C, 2 L - 1, 2 L - 1)."""
    length = kernel.shape[1]
    total = kernel.new_zeros(len(kernel), 2 * length - 1, 2 * length - 1)
    for weight, flip in zip(weights, _CORNERS, strict=True):
        one, (row, column) = turned(kernel, flip)
        part = total[:, length - 1 - row :][:, :length, length - 1 - column :][:, :, :length]
        part += weight * one
    return total, (length - 1, length - 1)
