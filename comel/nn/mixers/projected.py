"""What attentions with queries, keys, values and one projection have in common; their weights fit each other.

out = attend(x W_q + b_q, x W_k + b_k, x W_v + b_v) W_o + b_o
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor, nn

from comel.nn.layout.attention import join, split
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Mixer, MixerOptions, Width

__all__ = ["ProjectedMixer", "ProjectedOptions"]


class ProjectedOptions(MixerOptions):
    """Settings of such a mixer."""

    qkv_bias: bool = Field(True, description="biases in q, k and v")


class ProjectedMixer(Mixer):
    """See the module; a mixer says how queries, keys and values meet."""

    Options = ProjectedOptions

    def __init__(self, width: Width, options: ProjectedOptions | None = None) -> None:
        super().__init__(width, options)
        dim, bias = width.dim, self.options.qkv_bias
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=bias)
        self.v = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim)."""
        q, k, v = (split(linear(x), self.width.heads) for linear in (self.q, self.k, self.v))  # (N, heads, d)
        mixed: Tensor = self.dropout(self.proj(join(self.attend(q, k, v, layout))))
        return mixed

    @abstractmethod
    def attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        """q, k (N, heads, d), v (N, heads, e) -> (N, heads, e)."""
