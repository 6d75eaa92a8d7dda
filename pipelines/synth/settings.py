"""The settings of a synthetic cohort."""

from __future__ import annotations

import difflib
from typing import Annotated, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from comel.base.kinds import Written
from comel.base.settings import comma_separated
from comel.errors import ConfigError

__all__ = ["ORGANS", "SynthSettings"]

ORGANS = ("colon", "kidney", "liver", "lymph_node")


class SynthSettings(BaseModel):
    """Settings of :func:`pipelines.synth.generate_cohort`.

    Raises:
        ConfigError: an organ that cannot be drawn or is named twice, or a range whose ends are swapped.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, ge=0, le=2**63 - 1, description="the same seed gives the same pixels, slide by slide")
    organs: Annotated[tuple[str, ...], BeforeValidator(comma_separated), Written(str)] = Field(
        ("colon", "kidney", "liver"),
        min_length=1,
        description="comma-separated organs, in the order of the tasks: colon, kidney, liver, lymph_node",
    )
    slides_per_organ: int = Field(20, ge=2, le=1000, description="slides of each organ, every second one with a tumour")
    size: int = Field(2048, ge=256, le=8192, multiple_of=16, description="level-0 width and height in pixels")
    mpp: float = Field(0.5, ge=0.2, le=1.0, description="micrometres per pixel of level 0")
    tumour_fraction: tuple[float, float] = Field(
        (0.05, 0.35), description="smallest and largest share of the tissue area that is tumour on a tumour slide"
    )
    difficulty: float = Field(0.5, ge=0.0, le=1.0, description="0: all tumours are high grade; 1: many look nearly benign")

    @model_validator(mode="after")
    def _check(self) -> Self:
        for organ in self.organs:
            if organ not in ORGANS:
                nearest = difflib.get_close_matches(organ, ORGANS, n=1, cutoff=0.0)[0]
                raise ConfigError(
                    f"organs: '{organ}' cannot be drawn", f"did you mean '{nearest}'? There are {', '.join(ORGANS)}"
                )
        if len(set(self.organs)) != len(self.organs):
            raise ConfigError(f"organs: {', '.join(self.organs)} names one twice", "name each organ once")
        low, high = self.tumour_fraction
        if not 0.01 <= low <= high <= 0.9:
            raise ConfigError(
                f"tumour_fraction: {low:g} to {high:g} is not a range within 0.01 to 0.9", "give the smaller share first"
            )
        return self
