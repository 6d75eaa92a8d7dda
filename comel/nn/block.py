"""A block of a network: a mixer, then a feed-forward part, each on normalised instances and added to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.layout.layout import Layout
from comel.nn.mixers.base import Mixer

__all__ = ["Block", "make_block"]

_ROWS_AT_ONCE = 16_384


class Block(nn.Module):
    """Pre-norm transformer block: x += mixer(LN(x)); x += MLP(LN(x)).

    Outside training the MLP runs over slices of the rows, so that a bag of 100,000 instances needs no hidden layer of
    its whole length in memory.

    Args:
        mixer: how the instances look at each other; its width says the block's.
    """

    def __init__(self, mixer: Mixer) -> None:
        super().__init__()
        dim, hidden = mixer.width.dim, mixer.width.hidden
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(mixer.width.dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Instances x (B, M, dim) and their layout -> (B, M, dim)."""
        x = x + self.attention(self.norm1(x), layout)  # (B, M, dim)
        if torch.is_grad_enabled():
            return x + self._mlp(x)
        x = x.contiguous()
        for rows in x.view(-1, x.shape[-1]).split(_ROWS_AT_ONCE):  # (up to _ROWS_AT_ONCE, dim)
            rows += self._mlp(rows)
        return x

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))  # (..., dim * mlp_ratio)
        change: Tensor = self.dropout(self.fc2(hidden))  # (..., dim)
        return change


def make_block(mixer: Mixer) -> nn.Module:
    """The block around a mixer; a mixer that is a whole block stands for itself."""
    return mixer if mixer.whole else Block(mixer)
