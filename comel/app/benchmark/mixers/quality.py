"""What a mixer gives: the same network trained on the same suites with the same budget, the mixer alone exchanged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from comel.app.benchmark.rows import Row
from comel.models.comel import CoMELOptions
from comel.nn.block import make_block
from comel.nn.mixers import make_mixer
from comel.nn.mixers.base import Width

__all__ = ["Fit", "fit_parameters", "mixer_rows"]

REFERENCE = "gdat"
_WITHIN = 0.10
_RATIOS = (0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)


@dataclass(frozen=True)
class Fit:
    """How a block was brought to the reference's size.

    Attributes:
        mlp_ratio: hidden width of its feed-forward parts over the width.
        parameters: of one block.
        share: of the reference block's.
    """

    mlp_ratio: float
    parameters: int
    share: float

    @property
    def fair(self) -> bool:
        """Whether it is within 10 % of the reference."""
        return abs(self.share - 1) <= _WITHIN


def fit_parameters(name: str, dim: int, heads: int, options: dict[str, Any] | None = None) -> Fit:
    """The feed-forward width that brings a block nearest to the parameters of a GDAT block of ratio 4."""
    wanted = _parameters(REFERENCE, dim, heads, 4.0)
    sizes = {ratio: _parameters(name, dim, heads, ratio, options) for ratio in _RATIOS}
    ratio = min(sizes, key=lambda r: (abs(sizes[r] - wanted), abs(r - 4)))
    return Fit(ratio, sizes[ratio], sizes[ratio] / wanted)


def mixer_rows(names: Sequence[str], dim: int, heads: int, options: dict[str, dict[str, Any]]) -> list[Row]:
    """A benchmark's row for each mixer: all tasks jointly, the pooled head alone speaks for a bag, attention for its tiles.

    Nothing but what comes through the blocks decides: no instance classifier on the frozen features, and no context beside
    the network.
    """
    return [
        Row(
            name,
            "mixers",
            {"name": "joint"},
            {
                "name": "comel",
                "mixer": [name],
                "mixer_options": {name: options[name]} if options.get(name) else {},
                "mlp_ratio": fit_parameters(name, dim, heads, options.get(name)).mlp_ratio,
                **({} if name == REFERENCE else {"region_size": CoMELOptions.model_fields["region_size"].default}),
                "context": "none",
                "instance": "attention",
                "bag_evidence": False,
            },
        )
        for name in names
    ]


def _parameters(name: str, dim: int, heads: int, ratio: float, options: dict[str, Any] | None = None) -> int:
    with torch.device("meta"):
        block = make_block(make_mixer(name, Width(dim, heads, ratio), options))
    return sum(parameter.numel() for parameter in block.parameters())
