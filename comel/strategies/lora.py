"""LoRA: the first task trains the network; each later one trains a fresh low-rank adapter and its head.

The baseline of the orthogonal adapters: the same layers and rank, without protecting what earlier tasks use
(:mod:`comel.strategies.adapter`).
"""

from comel.strategies.adapter import MergedAdapter

__all__ = ["Lora"]


class Lora(MergedAdapter):
    """A and B train, from PEFT's own start: A random, B = 0."""

    name = "lora"
