"""A model of your own: a smooth maximum over the tiles of a slide.

    comel train --manifest practice/manifest.csv --bags practice/bags --set model.name=own_model.py:SmoothMax --out runs/smooth

The mean of a slide's tiles drowns a small tumour, and the maximum listens to one tile. Log-sum-exp pooling lies in between
(Pinheiro and Collobert, "From image-level to pixel-level labeling with convolutional networks", CVPR 2015):

    z_d = (1 / r) log((1 / M) sum_m exp(r h_md)),    the mean for r -> 0, the maximum for r -> infinity.

``comel.models.heads`` brings the rest: embedding, a linear head for each task, loss, and instance scores from attention.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.models.heads import Embedding, EmbeddingOptions, HeadedModel, PooledTrunk


class SmoothMaxOptions(EmbeddingOptions):
    """What a user may set under ``model.``, with limits and defaults."""

    sharpness: float = Field(1.0, gt=0, description="r: towards 0 the mean of the tiles, far above 1 their maximum")


class LogSumExpPooling(nn.Module):
    """Instances (B, M, dim) -> bag feature (B, dim) and attention (B, M)."""

    def __init__(self, sharpness: float) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, h: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``mask`` (B, M) is true for a tile, false for padding; without one all M are tiles."""
        mask = torch.ones(h.shape[:2], dtype=torch.bool, device=h.device) if mask is None else mask
        scaled = (self.sharpness * h).masked_fill(~mask.unsqueeze(-1), -math.inf)  # (B, M, dim)
        tiles = mask.sum(dim=1, keepdim=True)  # (B, 1)
        z = (torch.logsumexp(scaled, dim=1) - tiles.log()) / self.sharpness  # (B, dim)
        # How much a tile moves z: dz_d / dh_md is a softmax over the tiles. Its mean over d sums to 1, as attention does.
        attention = torch.softmax(scaled, dim=1).mean(dim=-1)  # (B, M)
        return z, attention


class SmoothMax(HeadedModel):
    """See the module."""

    Options = SmoothMaxOptions
    adapter_targets = ("embed",)  # the linear layers of the trunk that strategies with adapters may wrap
    options: SmoothMaxOptions

    def make_trunk(self) -> nn.Module:
        """The part that all tasks share."""
        options = self.options
        return PooledTrunk(Embedding(self.dimension, options.dim, options.dropout), LogSumExpPooling(options.sharpness))
