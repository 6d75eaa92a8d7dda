"""One slide to one bag: tissue, tiles, features, instance labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from comel.bag import Bag, FeatureContract
from comel.errors import SlideError
from pipelines.annotations import instance_labels
from pipelines.decode import decoded_batches
from pipelines.encoders.base import PatchEncoder
from pipelines.overlay import draw_overlay
from pipelines.settings import ExtractSettings, content_settings
from pipelines.slide import MppSource, Slide, open_slide
from pipelines.tiles import TilePlan, plan_tiles
from pipelines.tissue import find_tissue

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ExtractedSlide", "Progress", "extract_slide"]

Progress = Callable[[str, int, int], None]
"""Told (stage, tiles done, tiles in all); stages are open, tissue, tiles, annotation and encode."""


@dataclass(frozen=True)
class ExtractedSlide:
    """What one slide gave.

    Attributes:
        bag: its tiles' features; without rows where the slide has no tissue.
        overlay: the picture to check it by.
        tissue_area_mm2: area of the tissue in square millimetres.
        mpp_source: where the slide's resolution comes from.
        notes: what a user should know about it, one line each.
    """

    bag: Bag
    overlay: Image
    tissue_area_mm2: float
    mpp_source: MppSource
    notes: list[str] = field(default_factory=list)


def extract_slide(
    path: Path,
    *,
    slide_id: str,
    encoder: PatchEncoder,
    settings: ExtractSettings,
    mpp: float | None = None,
    annotation: Path | None = None,
    progress: Progress | None = None,
) -> ExtractedSlide:
    """Extract one slide. Nothing is written.

    Tiles are decoded in the background, a few batches ahead of the encoder, so memory does not grow with the slide.

    Args:
        path: the slide.
        slide_id: its name in the manifest.
        encoder: see :func:`pipelines.encoders.load_encoder`.
        settings: see :class:`ExtractSettings`.
        mpp: micrometres per pixel of level 0 in place of what the slide says.
        annotation: see :func:`pipelines.annotations.instance_labels`.
        progress: told the stage and the tiles done.

    Raises:
        SlideError: the slide or its annotation cannot be used; ``stage`` says where it failed.
    """
    report = progress or (lambda stage, done, total: None)
    path = Path(path)
    report("open", 0, 0)
    with open_slide(path, mpp=mpp, assume_mpp=settings.assume_mpp) as slide:
        report("tissue", 0, 0)
        tissue = find_tissue(slide, settings.tissue)
        report("tiles", 0, 0)
        plan = plan_tiles(
            slide,
            tissue,
            tile_size=settings.tile_size,
            target_mpp=settings.target_mpp,
            overlap=settings.overlap,
            min_tissue=settings.min_tissue,
        )
        labels = None
        if annotation is not None:
            report("annotation", 0, len(plan.coords))
            labels = instance_labels(annotation, plan.coords, plan.geometry, positive_overlap=settings.annotation_overlap)
        report("encode", 0, len(plan.coords))
        features = _encode(slide, plan, encoder, settings, slide_id, report)
        overlay = draw_overlay(slide, tissue, plan, labels)
        source = slide.mpp_source
    bag = Bag(
        slide_id=slide_id,
        features=features,
        coords=plan.coords,
        geometry=plan.geometry,
        contract=FeatureContract(
            encoder.name, encoder.weights_hash, encoder.dimension, settings.target_mpp, settings.tile_size
        ),
        labels=labels,
        quality={"tissue": plan.tissue},
        settings=content_settings(settings, encoder, slide=path, mpp=mpp, annotation=annotation),
    )
    notes = []
    if not len(bag):
        notes.append("no tissue found" if not tissue.mask.any() else "no tile with enough tissue")
    if plan.geometry.interpolated:
        notes.append(f"slide coarser than {settings.target_mpp:g} um/px: its tiles were enlarged")
    return ExtractedSlide(bag, overlay, tissue.area_mm2, source, notes)


def _encode(
    slide: Slide, plan: TilePlan, encoder: PatchEncoder, settings: ExtractSettings, slide_id: str, report: Progress
) -> np.ndarray:
    features = np.empty((len(plan.coords), encoder.dimension), dtype=settings.dtype)
    done = 0
    with closing(decoded_batches(slide, plan, settings.batch_size)) as batches:
        for tiles in batches:
            with np.errstate(over="ignore"):
                features[done : done + len(tiles)] = encoder.encode(tiles)
            done += len(tiles)
            report("encode", done, len(plan.coords))
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise SlideError(
            f"{slide_id}: {encoder.name} gave {bad} of {len(features)} tiles features beyond {settings.dtype}",
            "extract with --dtype float32" if settings.dtype == "float16" else "use another encoder",
            stage="encode",
        )
    return features
