"""DSMIL: a max-pooling stream and an attention stream around its critical instance (Li, Li and Eliceiri, CVPR 2021).

    h_m = dropout(relu(W x_m + b)),  q_m = W_q h_m,  v_m = W_v h_m
    first stream     l_m = W_0 h_m + b_0;  critical instance of a class  m_c = argmax_m l_mc;  max_c = l_{m_c, c}
    second stream    a_cm = softmax_m(q_m . q_{m_c} / sqrt d);  z_c = sum_m a_cm v_m;  bag = W_b [z_1 .. z_C] + b_b
    logits = (max + bag) / 2;  loss = CE(bag) / 2 + CE(max) / 2

W, W_q and W_v are shared; W_0 and W_b, which mixes the classes, belong to a task, and so no task's logits depend on another's.
The scaling by sqrt d is the published code's. The published code trains by binary cross-entropies; here labels exclude each
other within a task, and both streams use the cross-entropy that every model uses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from comel.models.base import MAX_WIDTH, BagBatch, BagOutput, Over, as_batch
from comel.models.heads import UNSCORED, Embedding, EmbeddingOptions, HeadedModel
from comel.nn.masked import masked_softmax

__all__ = ["DSMIL", "DSMILOptions", "StreamsOutput"]


class DSMILOptions(EmbeddingOptions):
    """Settings of the model."""

    attention_hidden: int = Field(128, ge=1, le=MAX_WIDTH, description="width d of the queries")


@dataclass(frozen=True)
class StreamsOutput(BagOutput):
    """With the logits of either stream, ``max_logits`` and ``bag_logits`` (B, C)."""

    max_logits: Tensor = UNSCORED
    bag_logits: Tensor = UNSCORED


class StreamsTrunk(nn.Module):
    """Features (B, M, D) -> instances (B, M, dim), queries (B, M, d), values (B, M, dim)."""

    def __init__(self, dimension: int, options: DSMILOptions) -> None:
        super().__init__()
        self.embedding = Embedding(dimension, options.dim, options.dropout)
        self.q = nn.Linear(options.dim, options.attention_hidden)
        self.v = nn.Linear(options.dim, options.dim)

    def forward(
        self, features: Tensor, coords: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        h = self.embedding(features)
        return h, self.q(h), self.v(h)


class DSMILHead(nn.Module):
    """A task's instance classifier, and its bag classifier over the features of all its classes."""

    def __init__(self, dim: int, labels: int) -> None:
        super().__init__()
        self.instance = nn.Linear(dim, labels)
        self.bag = nn.Linear(labels * dim, labels)


class DSMIL(HeadedModel):
    """See the module. Instance scores are p(class | bag) x the softmax of the first stream within the head."""

    Options = DSMILOptions
    adapter_targets = ("embed", "q", "v")
    options: DSMILOptions

    def make_trunk(self) -> nn.Module:
        """See :class:`StreamsTrunk`."""
        return StreamsTrunk(self.dimension, self.options)

    def make_head(self, labels: int) -> nn.Module:
        """See :class:`DSMILHead`."""
        return DSMILHead(self.options.dim, labels)

    def forward(self, bags: BagBatch | Tensor) -> StreamsOutput:
        """See :class:`comel.models.base.BagOutput`; ``attention`` and ``bag_features`` are the predicted class's."""
        bags = as_batch(bags)
        h, q, v = self.trunk(bags.features, bags.coords, bags.mask)
        instance_logits = torch.cat([head.instance(h) for head in self.heads], dim=-1)  # type: ignore[operator]
        real = instance_logits if bags.mask is None else instance_logits.masked_fill(~bags.mask.unsqueeze(-1), -torch.inf)
        max_logits, critical = real.max(dim=1)  # (B, C)
        queries = q.gather(1, critical.unsqueeze(-1).expand(-1, -1, q.shape[-1]))  # (B, C, d)
        branches = masked_softmax(torch.einsum("bmd,bcd->bmc", q, queries) / math.sqrt(q.shape[-1]), bags.mask)
        z = torch.einsum("bmc,bmd->bcd", branches, v)
        bag_logits = torch.cat(
            [head.bag(z[:, self.classes.columns(i)].flatten(1)) for i, head in enumerate(self.heads)],  # type: ignore[operator]
            dim=-1,
        )
        logits = (max_logits + bag_logits) / 2
        predicted, each = logits.argmax(dim=-1), torch.arange(len(h), device=h.device)
        output = StreamsOutput(
            logits=logits,
            attention=branches[each, :, predicted],
            instance_scores=UNSCORED,
            bag_features=z[each, predicted],
            instance_features=h,
            head_logits=logits,
            instance_logits=instance_logits,
            mask=bags.mask,
            max_logits=max_logits,
            bag_logits=bag_logits,
        )
        return self.scored(output)

    def loss(self, output: BagOutput, labels: Tensor, *, over: Over | None = None) -> dict[str, Tensor]:
        """``ce`` of the second stream and ``max`` of the first, half each, each a mean over the bags."""
        assert isinstance(output, StreamsOutput)
        return {
            "ce": self.bag_loss(output.bag_logits, labels, over) / 2,
            "max": self.bag_loss(output.max_logits, labels, over) / 2,
        }
