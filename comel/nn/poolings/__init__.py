"""The poolings by name: how a bag becomes one vector. Each is one file.

A pooling is called as ``pool(h, mask)`` with instances h (B, M, dim) and mask (B, M), True where there is an instance, or
None; it gives the bag features (B, dim) and the weight of each instance in them (B, M), whose rows sum to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from comel.base.registry import resolve_name

__all__ = ["POOLINGS", "make_pooling"]

POOLINGS = {
    "attention": "comel.nn.poolings.attention:AttentionPooling",
    "gated": "comel.nn.poolings.gated:GatedAttention",
    "sigmoid": "comel.nn.poolings.sigmoid:SigmoidPooling",
    "ggem": "comel.nn.poolings.ggem:GroupGeneralizedMean",
    "query": "comel.nn.poolings.query:QueryPooling",
    "latent": "comel.nn.poolings.latent:LatentPooling",
}
_WITH_HEADS = ("ggem", "query", "latent")


def make_pooling(name: str, dim: int, *, heads: int, hidden: int, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A pooling by name.

    Args:
        name: of :data:`POOLINGS`, or an entry point in ``comel.poolings``.
        dim: width of the instances.
        heads: of poolings that have heads or groups.
        hidden: width of the hidden layer of those that have one.
        options: keyword arguments of the pooling's class beside these.

    Raises:
        ConfigError: there is no such pooling.
        ValueError: an option that it does not have, or one that does not fit.
    """
    kind = resolve_name(name, POOLINGS, "comel.poolings", files=False)
    try:
        made: nn.Module = kind(dim, heads if name in _WITH_HEADS else hidden, **(options or {}))
    except TypeError as error:
        raise ValueError(f"pooling '{name}': {str(error).partition(' ')[2]}") from None
    return made
