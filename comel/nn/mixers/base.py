"""The contract of a mixer: how the instances of a bag look at each other. One file a mixer.

A mixer gets the instances of a batch of bags and their layout, and gives back as many instances. Bags never see each other,
and padding is seen by none: a mixer works on the packed rows of :class:`~comel.nn.layout.layout.Layout`, which has none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from comel.nn.layout.layout import Layout

__all__ = ["Card", "Mixer", "MixerOptions", "Width"]


class MixerOptions(BaseModel):
    """Settings of a mixer; the defaults are the authors', as far as they fit a bag."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


@dataclass(frozen=True)
class Width:
    """What a network's blocks have in common.

    Attributes:
        dim: width of the instances; a multiple of ``heads``.
        heads: attention heads.
        mlp_ratio: hidden width of a feed-forward part over ``dim``.
        dropout: after projections and feed-forward layers.
    """

    dim: int
    heads: int = 8
    mlp_ratio: float = 4.0
    dropout: float = 0.0

    @property
    def hidden(self) -> int:
        """Hidden width of a feed-forward part."""
        return int(self.dim * self.mlp_ratio)


@dataclass(frozen=True)
class Card:
    """What one should know of a mixer before taking it.

    Attributes:
        title: what it does, in half a line.
        sees: what it works on: single instances, the bag as a ``set``, the ``list`` in its order, or the ``grid`` of tiles.
        reach: how far an instance sees in one layer.
        exponent: p, where the time for M instances grows as M^p with the default options.
        coords: whether coordinates are ``needed``, ``used`` where there are any, or ``ignored``.
        holes: what becomes of places without a tile.
        paper: where it was published.
        licence: of the published code.
        numbers: what its numbers were compared with: the authors' code, or equations.
        ordered: whether the order of the list matters although there are coordinates.
        ordered_without: whether it matters if there are none.
    """

    title: str
    sees: Literal["instance", "set", "list", "grid"]
    reach: Literal["none", "local", "global"]
    exponent: float
    coords: Literal["needed", "used", "ignored"]
    holes: str
    paper: str
    licence: str
    numbers: Literal["authors' code", "equations"]
    ordered: bool = False
    ordered_without: bool = True


class Mixer(nn.Module, ABC):
    """A mixer under the contract.

    Attributes:
        name: what a user calls it.
        Options: its pydantic settings.
        card: see :class:`Card`.
        whole: whether it is a block of its own, with norms, residuals and feed-forward parts. If not, a block adds what it
            gives for normalised instances to the instances, and a feed-forward part follows.

    Args:
        width: see :class:`Width`.
        options: default ``Options()``.

    Raises:
        ValueError: width and options do not fit each other, in words that name both.
    """

    name: ClassVar[str]
    Options: ClassVar[type[MixerOptions]] = MixerOptions
    card: ClassVar[Card]
    whole: ClassVar[bool] = False
    options: Any

    def __init__(self, width: Width, options: MixerOptions | None = None) -> None:
        super().__init__()
        if width.dim % width.heads:
            raise ValueError(f"dim {width.dim} is not a multiple of {width.heads} heads")
        self.width = width
        self.options = self.Options() if options is None else options

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Mix within each bag: x (B, M, dim) -> (B, M, dim), 0 where there is no instance.

        Raises:
            BagError: the mixer needs coordinates, and the bags have none; or a bag is too large for it.
        """
        if self.card.coords == "needed":
            layout.require_coords(f"mixer '{self.name}'", "take one that needs none, such as gdat, agent or nystrom")
        rows = layout.pack(x)
        return layout.unpack(self.mix(rows, layout) if len(rows) else rows)

    def rows(self, x: Tensor, layout: Layout, queries: Tensor) -> Tensor | None:
        """How much each head of some instances looks at every instance of the one bag there is.

        Args:
            x: (N, dim), as :meth:`mix` got them.
            layout: of one bag.
            queries: (n,) rows.

        Returns:
            (heads, n, N), or None where instances have no such weights.
        """
        return None

    @property
    def uses_places(self) -> bool:
        """Whether what comes out depends on coordinates, where there are some."""
        return self.card.coords != "ignored"

    @abstractmethod
    def mix(self, x: Tensor, layout: Layout) -> Tensor:
        """The same on packed rows: (N, dim) -> (N, dim), N at least 1."""
