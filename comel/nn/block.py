"""A block of a network: a mixer, then a feed-forward part, each on normalised instances and added to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from comel.nn.feedforward.gdfn import GatedConvolution
from comel.nn.feedforward.glu import GatedLinearUnit
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
        mlp: the feed-forward part: ``gelu``, W_2 gelu(W_1 x + b_1) + b_2; ``glu`` and ``gdfn`` of
            :mod:`comel.nn.feedforward`, whose hidden width is 2/3 of the other's, so that they have about as many parameters.
    """

    def __init__(self, mixer: Mixer, mlp: str = "gelu") -> None:
        super().__init__()
        dim, hidden = mixer.width.dim, mixer.width.hidden
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = mixer
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        dropout = mixer.width.dropout
        self.feedforward: nn.Module | None = None
        if mlp == "gelu":
            self.fc1 = nn.Linear(dim, hidden)
            self.fc2 = nn.Linear(hidden, dim)
        elif mlp == "glu":
            self.feedforward = GatedLinearUnit(dim, max(1, 2 * hidden // 3), dropout)
        elif mlp == "gdfn":
            self.feedforward = GatedConvolution(dim, max(1, 2 * hidden // 3), dropout)
        else:
            raise ValueError(f"mlp is '{mlp}'; choose gelu, glu or gdfn")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Instances x (B, M, dim) and their layout -> (B, M, dim)."""
        x = x + self.attention(self.norm1(x), layout)  # (B, M, dim)
        if self.feedforward is not None:
            return x + layout.unpack(self.feedforward(layout.pack(self.norm2(x)), layout))
        if torch.is_grad_enabled():
            return x + self._mlp(x)
        x = x.contiguous()
        for rows in x.view(-1, x.shape[-1]).split(_ROWS_AT_ONCE):  # (up to _ROWS_AT_ONCE, dim)
            rows += self._mlp(rows)
        return x

    def branches(self, x: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """What the block adds to instances x (B, M, dim), by its mixer and by its feed-forward part, (B, M, dim) each."""
        mixed = self.attention(self.norm1(x), layout)
        middle = x + mixed
        if self.feedforward is not None:
            return mixed, layout.unpack(self.feedforward(layout.pack(self.norm2(middle)), layout))
        return mixed, self._mlp(middle)

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(x))))  # (..., dim * mlp_ratio)
        change: Tensor = self.dropout(self.fc2(hidden))  # (..., dim)
        return change


def make_block(mixer: Mixer, mlp: str = "gelu") -> nn.Module:
    """The block around a mixer; a mixer that is a whole block stands for itself.

    Raises:
        ValueError: another feed-forward part for a mixer that has its own.
    """
    if not mixer.whole:
        return Block(mixer, mlp)
    if mlp != "gelu":
        raise ValueError(f"mlp '{mlp}' has no meaning for mixer '{mixer.name}', which has feed-forward parts of its own")
    return mixer
