"""Stainings in settings: the shifts, the methods of normalisation, and the measurements of each method."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["STAINS", "MacenkoStaining", "Method", "ReinhardStaining", "Stain", "StainReference"]

Stain = Literal["as-scanned", "ruifrok", "macenko", "standard", "high_contrast", "h_heavy", "e_heavy", "dark", "light"]
STAINS: tuple[str, ...] = get_args(Stain)

Method = Literal["macenko", "reinhard"]
Triple = tuple[float, float, float]


class MacenkoStaining(BaseModel):
    """The directions of the two stains in optical density, and their strengths (Macenko et al., ISBI 2009).

    Attributes:
        hematoxylin, eosin: optical density of red, green and blue for one unit of the stain.
        strengths: 99th percentile of each stain's concentration.
        image: SHA-256 of the reference image's file; None for the built-in reference and for slides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["macenko"] = "macenko"
    hematoxylin: Triple
    eosin: Triple
    strengths: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    image: str | None = None


class ReinhardStaining(BaseModel):
    """Mean and standard deviation of the stained pixels' colours (Reinhard et al., IEEE CG&A 21(5):34, 2001).

    Attributes:
        means, spreads: of L (0 to 100), a and b.
        image: as in :class:`MacenkoStaining`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Literal["reinhard"] = "reinhard"
    means: Triple
    spreads: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    image: str | None = None


StainReference = Annotated[MacenkoStaining | ReinhardStaining, Field(discriminator="method")]
