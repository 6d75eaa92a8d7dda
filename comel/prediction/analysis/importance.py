"""What becomes of a bag's answer if a part of the network is silent: a head, or a branch beside a residual connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["Importance", "importance_of_branches", "importance_of_heads"]

Answer = Callable[[], tuple[Tensor, Tensor]]
"""Runs the network: the bag feature (d,) and the class probabilities (C,)."""


@dataclass(frozen=True)
class Importance:
    """How an answer changes.

    Attributes:
        drop: probability of the class before less that after; negative if the part speaks against the class.
        divergence: Jensen-Shannon divergence of the class probabilities, in nats, 0.69 at most.
        turn: 1 - the cosine of the two bag features.
        change: length of the bag feature's change over its length.
    """

    drop: float
    divergence: float
    turn: float
    change: float

    @classmethod
    def between(cls, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], column: int) -> Importance:
        """From the answers with and without a part, for the class in ``column``."""
        (z, p), (z2, p2) = ((part.double() for part in answer) for answer in (before, after))
        middle = (p + p2) / 2
        divergence = sum(_relative_entropy(q, middle) for q in (p, p2)) / 2
        cosine = torch.nn.functional.cosine_similarity(z, z2, dim=0)
        change = (z2 - z).norm() / z.norm().clamp_min(torch.finfo(z.dtype).tiny)
        return cls(float(p[column] - p2[column]), float(divergence), float(1 - cosine), float(change))


def _relative_entropy(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum()


def importance_of_heads(
    answer: Answer, projections: Sequence[nn.Module], heads: Sequence[int], column: int, *, alone: bool = False
) -> list[list[Importance]]:
    """Each head of each layer silenced.

    Args:
        answer: runs the network.
        projections: of each layer, the linear layer behind its heads; head h has the h-th of equal parts of its input.
        heads: how many each layer has.
        column: the class that counts.
        alone: silence the other heads of the layer instead.

    Returns:
        by layer and head.
    """
    before = answer()
    found = []
    for projection, number in zip(projections, heads, strict=True):
        own = []
        for head in range(number):
            with _silenced(projection, number, head, alone):
                own.append(Importance.between(before, answer(), column))
        found.append(own)
    return found


def importance_of_branches(answer: Answer, branches: Sequence[tuple[nn.Module, bool]], column: int) -> list[Importance]:
    """Each branch silenced: a module that is beside a residual connection gives zeros, one that has its own gives its input.

    Args:
        answer: runs the network.
        branches: modules, and whether each has residual connections inside.
        column: the class that counts.
    """
    before = answer()
    found = []
    for module, whole in branches:
        with _without(module, whole):
            found.append(Importance.between(before, answer(), column))
    return found


@contextmanager
def _silenced(projection: nn.Module, heads: int, head: int, alone: bool) -> Iterator[None]:
    def silence(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        parts = inputs[0].unflatten(-1, (heads, -1))
        kept = torch.full((heads, 1), 0.0 if alone else 1.0, dtype=parts.dtype, device=parts.device)
        kept[head] = 1.0 if alone else 0.0
        return ((parts * kept).flatten(-2), *inputs[1:])

    with ExitStack() as stack:
        stack.callback(projection.register_forward_pre_hook(silence).remove)
        yield


@contextmanager
def _without(module: nn.Module, whole: bool) -> Iterator[None]:
    def replace(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return inputs[0] if whole else torch.zeros_like(output)

    with ExitStack() as stack:
        stack.callback(module.register_forward_hook(replace).remove)
        yield
