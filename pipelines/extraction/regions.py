"""Restrict tiles by an annotation: inside its regions, and outside those that are excluded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comel.errors import SlideError
from pipelines.annotations import Annotation
from pipelines.extraction.settings import ExtractSettings
from pipelines.tiles.plan import TilePlan, plan_tiles
from pipelines.tissue import TissueMask

if TYPE_CHECKING:
    from pipelines.extraction.settings import ExtractSettings
    from pipelines.slides.slide import Slide

__all__ = ["absent_class", "named_classes", "within_regions"]


def named_classes(settings: ExtractSettings) -> tuple[str, ...]:
    """The classes of annotations that the settings name, each once."""
    return tuple(dict.fromkeys((*settings.positive_classes, *settings.regions, *settings.exclude_regions)))


def absent_class(name: str) -> str:
    """The note for a slide whose annotation has no area of a requested class, which may be misspelt."""
    return f"no area of class {name}"


def within_regions(plan: TilePlan, annotation: Annotation | None, settings: ExtractSettings, slide: Path) -> TilePlan:
    """Keep the tiles that the settings' regions allow.

    A tile counts as inside, and likewise as excluded, if at least ``annotation_overlap`` of its area lies there. One that
    is both is excluded.

    Args:
        plan: the tiles on tissue.
        annotation: the slide's annotation, if it has one.
        settings: ``regions_only``, ``regions``, ``exclude_regions`` and ``annotation_overlap``.
        slide: the slide's file, for messages.

    Raises:
        SlideError: tiles are requested inside regions but the slide has no annotation, or classes are requested of a mask image
            (stage "annotation").
    """
    inside = settings.regions_only or bool(settings.regions)
    if annotation is None:
        if inside:
            raise SlideError(
                f"{slide}: no annotation marks its regions",
                "give one in the manifest column 'annotation', leave the slide out, or extract without --regions",
                stage="annotation",
            )
        return plan
    # A share computed by differences may fall short of an exact threshold by rounding.
    least = settings.annotation_overlap - 1e-6
    allowed = np.ones(len(plan.coords), bool)
    if inside:
        allowed &= annotation.share(plan.coords, plan.geometry, settings.regions) >= least
    if settings.exclude_regions:
        allowed &= annotation.share(plan.coords, plan.geometry, settings.exclude_regions) < least
    return plan.only(allowed)


def tiles_to_extract(slide: Slide, tissue: TissueMask, settings: ExtractSettings) -> TilePlan:
    """:func:`plan_tiles` as an extraction with these settings does it, before its regions are applied.

    Raises:
        SlideError: the slide is too coarse for ``target_mpp``.
    """
    return plan_tiles(
        slide,
        tissue,
        tile_size=settings.tile_size,
        target_mpp=settings.target_mpp,
        overlap=settings.overlap,
        min_tissue=settings.min_tissue,
        max_pen=settings.max_pen,
        max_fold=settings.max_fold,
    )
