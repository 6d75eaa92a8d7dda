"""Full softmax attention, exact: every instance of a bag looks at every other (Vaswani et al. 2017, arXiv 1706.03762).

    out = concat_h( softmax(q_h k_h^T / sqrt d) v_h ) W_o + b_o

Time grows with the square of the instances; memory does not, since no matrix of logits is stored.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn

from comel.errors import BagError
from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width

__all__ = ["FullAttention", "FullAttentionOptions"]


class FullAttentionOptions(MixerOptions):
    """Settings of the mixer."""

    qkv_bias: bool = Field(True, description="biases in q, k and v")
    max_instances: int = Field(200_000, ge=1, description="largest bag that is taken; the time grows with the square")


class FullAttention(Mixer):
    """See the module."""

    name: ClassVar[str] = "attention"
    Options = FullAttentionOptions
    card: ClassVar[Card] = Card(
        title="every instance looks at every other, exactly",
        sees="set",
        reach="global",
        exponent=2.0,
        coords="ignored",
        holes="never looked at",
        paper="Vaswani et al., NeurIPS 2017, arXiv 1706.03762",
        licence="Apache-2.0",
        numbers="equations",
        ordered_without=False,
    )

    def __init__(self, width: Width, options: FullAttentionOptions | None = None) -> None:
        super().__init__(width, options)
        dim, bias = width.dim, self.options.qkv_bias
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=bias)
        self.v = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(width.dropout)

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim).

        Raises:
            BagError: a bag has more instances than ``max_instances``.
        """
        largest = int(layout.counts.max())
        if largest > self.options.max_instances:
            raise BagError(
                f"mixer 'attention' takes {self.options.max_instances:,} instances, and a bag has {largest:,}",
                "take a linear mixer (comel mixers lists them), or raise max_instances and wait",
            )
        q, k, v = (split(linear(x), self.width.heads) for linear in (self.q, self.k, self.v))  # (N, heads, d)
        mixed: Tensor = self.dropout(self.proj(join(attend_segments(q, k, v, layout.within))))
        return mixed
