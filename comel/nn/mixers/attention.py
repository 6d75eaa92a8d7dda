"""Softmax attention, exact (Vaswani et al. 2017, arXiv 1706.03762), and the ways in which its heads, weights and places may
differ.

    out = concat_h( softmax(q_h k_h^T / sqrt d) v_h ) W_o + b_o

over the whole bag, whose time grows with the square of the instances, or with ``window`` within squares of tiles. No matrix
of logits is stored.

``sharing``: ``all`` query heads have keys of their own; ``grouped`` shares ``key_heads`` evenly (GQA); ``key-driven`` gives
each key head query heads by how large its keys are in the bag, ``dynamic`` by an average over the training bags
(:mod:`comel.nn.heads.allocation`). ``query_heads`` below the model's heads leaves heads out, and time with them (SQA:
Filipek 2025, arXiv 2510.01817). ``routed_heads``: how many of the heads beyond the first ``shared_heads`` an instance uses
(:mod:`comel.nn.heads.router`).

``normaliser``: ``sigmoid`` weighs each key by itself, sigmoid(logit - ln n) for n keys (Ramapuram et al., ICLR 2025).

``position``: ``complex`` turns queries and keys (:mod:`comel.nn.positions.phases`); ``urpe`` has tables over the offset
before and after the softmax (:mod:`comel.nn.positions.tables`); ``dynamic-bias`` makes a bias of the offset
(:mod:`comel.nn.positions.dynamic_bias`); ``kernelized-rpe`` replaces the softmax by a linear attention with relative
positions (:mod:`comel.nn.positions.kernelized`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.errors import BagError
from comel.nn.heads.allocation import allocate, by_norm, key_of_query
from comel.nn.heads.router import HeadRouter
from comel.nn.layout.attention import attend_segments, join, split
from comel.nn.layout.explicit import Normaliser, attend_explicitly
from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Card, Mixer, MixerOptions, Width
from comel.nn.positions.dynamic_bias import DynamicBias
from comel.nn.positions.kernelized import KernelizedAttention
from comel.nn.positions.phases import ComplexPhases
from comel.nn.positions.tables import OffsetTables

__all__ = ["FullAttention", "FullAttentionOptions"]

_KEPT = 0.99
"""Of the average of key norms, at each training bag."""


class FullAttentionOptions(MixerOptions):
    """Settings of the mixer."""

    window: int = Field(0, ge=0, le=64, description="side of the squares within which tiles attend, in tiles; 0: the whole bag")
    qkv_bias: bool = Field(True, description="biases in q, k and v")
    sharing: Literal["all", "grouped", "key-driven", "dynamic"] = Field("all", description="how query heads share key heads")
    key_heads: int = Field(0, ge=0, le=4096, description="key heads; 0: as many as query heads, or half where they are shared")
    query_heads: int = Field(0, ge=0, le=4096, description="query heads, of the width that all of them would have; 0: all")
    shared_heads: int = Field(0, ge=0, le=4096, description="heads that all instances use, with routed_heads")
    routed_heads: int = Field(0, ge=0, le=4096, description="of the other heads, how many an instance uses; 0: no routing")
    normaliser: Normaliser = Field("softmax", description="what makes weights of logits")
    position: Literal["none", "complex", "urpe", "dynamic-bias", "kernelized-rpe"] = Field(
        "none", description="how the place of two tiles to each other enters"
    )
    reach: int = Field(3, ge=1, le=16, description="offsets that urpe and kernelized-rpe tell apart, in tiles")
    features: int = Field(64, ge=1, le=4096, description="random features of kernelized-rpe")
    max_instances: int = Field(200_000, ge=1, description="largest bag that is taken whole; the time grows with the square")


class FullAttention(Mixer):
    """See the module.

    Raises:
        ValueError: options that do not fit each other.
    """

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
        options, dim, d = self.options, width.dim, width.dim // width.heads
        self.query_heads = options.query_heads or width.heads
        shared = options.sharing != "all"
        self.key_heads = options.key_heads or (max(1, self.query_heads // 2) if shared else self.query_heads)
        self._check(shared)
        bias = options.qkv_bias
        self.q = nn.Linear(dim, self.query_heads * d, bias=bias)
        self.k = nn.Linear(dim, self.key_heads * d, bias=bias)
        self.v = nn.Linear(dim, self.key_heads * d, bias=bias)
        self.proj = nn.Linear(self.query_heads * d, dim)
        self.dropout = nn.Dropout(width.dropout)
        routed = options.routed_heads
        self.router = HeadRouter(dim, self.query_heads, options.shared_heads, routed) if routed else None
        if options.sharing == "dynamic":
            self.register_buffer("norms", torch.ones(self.key_heads))
        heads, position = self.query_heads, options.position
        self.phases = ComplexPhases(heads, d) if position == "complex" else None
        self.tables = OffsetTables(heads, options.reach) if position == "urpe" else None
        self.bias = DynamicBias(heads, max(8, dim // 4)) if position == "dynamic-bias" else None
        kernelized = position == "kernelized-rpe"
        self.kernelized = KernelizedAttention(heads, d, options.reach, options.features) if kernelized else None

    norms: Tensor

    def _check(self, shared: bool) -> None:
        heads, options = self.width.heads, self.options
        if self.query_heads > heads or heads % self.query_heads:
            raise ValueError(f"query_heads {self.query_heads} do not divide {heads} heads")
        if self.query_heads % self.key_heads:
            raise ValueError(f"key_heads {self.key_heads} do not divide {self.query_heads} query heads")
        if not shared and self.key_heads != self.query_heads and not options.query_heads:
            raise ValueError(f"key_heads {self.key_heads} have no meaning with sharing 'all'; take sharing=grouped")
        if options.shared_heads and not options.routed_heads:
            raise ValueError("shared_heads have no meaning without routed_heads")
        if options.position == "kernelized-rpe" and (options.window or options.normaliser != "softmax"):
            raise ValueError("position 'kernelized-rpe' replaces the softmax over the bag; leave window and normaliser out")

    @property
    def uses_places(self) -> bool:
        """With windows, or with a position."""
        return bool(self.options.window) or self.options.position != "none"

    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """See the module; (N, dim) -> (N, dim).

        Raises:
            BagError: a bag has more instances than ``max_instances``.
        """
        self._refuse(layout)
        q, k, v = split(self.q(x), self.query_heads), split(self.k(x), self.key_heads), split(self.v(x), self.key_heads)
        k, v = self._for_queries(k, v, layout)
        if self.phases is not None:
            q, k = self.phases(q, k, layout)
        out = self._attend(q, k, v, layout)  # (N, query heads, d)
        if self.router is not None:
            out = out * self.router(x).unsqueeze(-1).to(out.dtype)
        mixed: Tensor = self.dropout(self.proj(join(out)))
        return mixed

    def rows(self, x: Tensor, layout: Layout, queries: Tensor) -> Tensor | None:
        """The weights before they meet the values; None with ``kernelized-rpe``."""
        if self.kernelized is not None:
            return None
        q, k = split(self.q(x), self.query_heads), split(self.k(x), self.key_heads)
        k, _ = self._for_queries(k, k, layout)
        if self.phases is not None:
            q, k = self.phases(q, k, layout)
        segments = layout.regions(self.options.window) if self.options.window else layout.within
        own, everyone = queries.unsqueeze(0), torch.arange(len(x), device=x.device).unsqueeze(0)
        logits = torch.einsum("nhd,mhd->hnm", q[queries], k) * q.shape[-1] ** -0.5
        bias, factor = self._by_pair(layout)
        if bias is not None:
            logits = logits + bias(own, everyone)[0]
        seen = segments.of[queries].unsqueeze(1) == segments.of
        if self.options.normaliser == "softmax":
            weights = logits.masked_fill(~seen, -torch.inf).softmax(dim=-1)
        else:
            weights = torch.sigmoid(logits - seen.sum(dim=1).to(logits.dtype).log().view(1, -1, 1)) * seen
        found: Tensor = weights if factor is None else weights * factor(own, everyone)[0]
        return found

    def _refuse(self, layout: Layout) -> None:
        largest = int(layout.counts.max())
        if largest > self.options.max_instances and not self.options.window and self.kernelized is None:
            raise BagError(
                f"mixer 'attention' takes {self.options.max_instances:,} instances, and a bag has {largest:,}",
                "take a linear mixer (comel mixers lists them), window=16, or raise max_instances and wait",
            )

    def _for_queries(self, k: Tensor, v: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Keys and values of each query head, (N, query heads, d)."""
        if self.key_heads == self.query_heads:
            return k, v
        if self.options.sharing not in ("key-driven", "dynamic"):
            times = self.query_heads // self.key_heads
            return k.repeat_interleave(times, dim=1), v.repeat_interleave(times, dim=1)
        squares = layout.within.mean(k.detach().square().sum(dim=-1))  # (bags, key heads)
        norms = squares.sqrt().to("cpu", torch.float64)
        if self.options.sharing == "dynamic":
            if self.training and self.k.weight.requires_grad:
                self.norms.mul_(_KEPT).add_((1 - _KEPT) * norms.mean(dim=0).to(self.norms))
            one = key_of_query(allocate(self.norms.double().cpu(), self.query_heads))
            index = one.expand(len(norms), -1)
        else:
            index = torch.stack([key_of_query(by_norm(own, self.query_heads)) for own in norms])
        of_row = index.to(k.device)[layout.within.of].unsqueeze(-1).expand(-1, -1, k.shape[-1])  # (N, query heads, d)
        return k.gather(1, of_row), v.gather(1, of_row)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, layout: Layout) -> Tensor:
        if self.kernelized is not None:
            found: Tensor = self.kernelized(q, k, v, layout)
            return found
        segments = layout.regions(self.options.window) if self.options.window else layout.within
        bias, factor = self._by_pair(layout)
        if bias is None and factor is None and self.options.normaliser == "softmax":
            return attend_segments(q, k, v, segments)
        return attend_explicitly(q, k, v, segments, normaliser=self.options.normaliser, bias=bias, factor=factor)

    def _by_pair(
        self, layout: Layout
    ) -> tuple[Callable[[Tensor, Tensor], Tensor] | None, Callable[[Tensor, Tensor], Tensor] | None]:
        """Bias and factor by pair; None for what there is not."""
        if not layout.placed:
            return None, None
        if self.tables is not None:
            tables = self.tables
            return (lambda a, b: tables.bias(layout, a, b)), (lambda a, b: tables.factor(layout, a, b))
        if self.bias is not None:
            side = self.options.window or int(layout.box.max())
            table = self.bias.table(side)  # ((2 side - 1)^2, heads)

            def bias(queries: Tensor, keys: Tensor) -> Tensor:
                apart = layout.cells[queries].unsqueeze(2) - layout.cells[keys].unsqueeze(1) + side - 1  # (g, n, m, 2)
                return table[apart[..., 1] * (2 * side - 1) + apart[..., 0]].permute(0, 3, 1, 2)

            return bias, None
        return None, None
