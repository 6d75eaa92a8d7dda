"""One slide to one bag: tissue, tiles, annotation, features of every scale, instance labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from comel.bags.bag import Bag
from comel.bags.contract import FeatureContract, extraction_of
from comel.errors import SlideError
from pipelines.annotations import Annotation, instance_labels, is_one_of, read_annotation
from pipelines.extraction.appearance import tile_appearance
from pipelines.extraction.overlay import draw_overlay
from pipelines.extraction.regions import absent_class, named_classes, tiles_to_extract, within_regions
from pipelines.extraction.settings import ExtractSettings, content_settings
from pipelines.patch_encoders.base import PatchEncoder
from pipelines.slides.slide import MppSource, Slide, open_slide
from pipelines.tiles.encoding import encoded_batches
from pipelines.tiles.levels import plan_scales
from pipelines.tiles.plan import TilePlan, too_small
from pipelines.tiles.quality import MEASURED, tile_quality
from pipelines.tissue import TissueMask, find_tissue, own_tissue

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["ExtractedSlide", "Progress", "extract_slide"]

Progress = Callable[[str, int, int], None]
"""Called with (stage, tiles done, total tiles); stages are open, tissue, tiles, annotation, stain and encode."""


@dataclass(frozen=True)
class ExtractedSlide:
    """The result of one slide.

    Attributes:
        bag: its tiles' features; without rows if the slide has no tissue.
        overlay: the picture for checking it.
        tissue_area_mm2: area of the tissue in square millimetres.
        mpp_source: where the slide's resolution comes from.
        notes: remarks for the user, one line each.
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

    Tiles are decoded in the background, a few batches ahead, so memory does not grow with the slide.

    Args:
        path: the slide.
        slide_id: its name in the manifest.
        encoder: see :func:`pipelines.patch_encoders.load_encoder`.
        settings: see :class:`ExtractSettings`.
        mpp: micrometres per pixel of level 0, overriding the slide's own.
        annotation: see :func:`pipelines.annotations.read_annotation`.
        progress: called with the stage and the tiles done.

    Raises:
        SlideError: the slide or its annotation cannot be used; ``stage`` is the step that failed.
    """
    report = progress or (lambda stage, done, total: None)
    path = Path(path)
    report("open", 0, 0)
    with open_slide(path, mpp=mpp, assume_mpp=settings.assume_mpp) as slide:
        report("tissue", 0, 0)
        tissue_file = own_tissue(settings.tissue_folder, slide_id, settings.tissue)
        tissue = find_tissue(slide, settings.tissue, file=tissue_file, ink_colours=settings.ink)
        report("tiles", 0, 0)
        plan = tiles_to_extract(slide, tissue, settings)
        marked = None
        if annotation is not None:
            report("annotation", 0, len(plan.coords))
            marked = read_annotation(annotation, plan.geometry)
        scales = plan_scales(slide, tissue, within_regions(plan, marked, settings, path), settings.also_mpp)
        report("stain", 0, len(scales[0].plan.coords))
        appearance = tile_appearance(slide, scales[0].plan, settings, slide_id)
        encoded, total = 0, sum(len(scale.plan.coords) for scale in scales)
        report("encode", encoded, total)

        def advance(tiles: int) -> None:
            nonlocal encoded
            encoded += tiles
            report("encode", encoded, total)

        told = content_settings(
            settings,
            encoder,
            slide=path,
            mpp=mpp,
            annotation=annotation,
            tissue=tissue_file,
            assumed_mpp=settings.assume_mpp if slide.mpp_source == "assumed" else None,
        )
        bags = []
        for scale in scales:
            features, measured = _encode(slide, scale.plan, encoder, settings, slide_id, appearance, advance)
            seen = tissue.tile_shares(scale.plan.coords, scale.plan.geometry)
            labels = None if marked is None else _labels(marked, scale.plan, settings)
            bags.append(
                Bag(
                    slide_id=slide_id,
                    features=features,
                    coords=scale.plan.coords,
                    geometry=scale.plan.geometry,
                    contract=_contract(encoder, scale.plan, told),
                    labels=labels,
                    quality={"tissue": scale.plan.tissue, **seen, **measured},
                    settings=told,
                    parent=scale.parent,
                )
            )
        notes = _notes(bags[0], tissue, marked, settings)
        bag = replace(bags[0], scales=tuple(bags[1:]), notes=tuple(notes))
        overlay = draw_overlay(slide, tissue, scales[0].plan, bag.labels, bag.quality["blur"])
        return ExtractedSlide(bag, overlay, tissue.area_mm2, slide.mpp_source, notes)


def _labels(marked: Annotation, plan: TilePlan, settings: ExtractSettings) -> np.ndarray:
    least, classes = settings.annotation_overlap, settings.positive_classes
    return instance_labels(marked, plan.coords, plan.geometry, positive_overlap=least, classes=classes)


def _contract(encoder: PatchEncoder, plan: TilePlan, told: Mapping[str, Any]) -> FeatureContract:
    tiles, reading = plan.geometry, extraction_of(told)
    return FeatureContract(
        encoder.name,
        encoder.weights_hash,
        encoder.dimension,
        tiles.mpp_x,
        tiles.patch_size,
        reading,
        code_sha256=encoder.code_sha256,
    )


def _encode(
    slide: Slide,
    plan: TilePlan,
    encoder: PatchEncoder,
    settings: ExtractSettings,
    slide_id: str,
    appearance: Callable[[np.ndarray], np.ndarray],
    advance: Callable[[int], None],
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The features of one scale's tiles as ``appearance`` shows them, and the measurements of their pixels.

    ``advance`` receives the number of newly encoded tiles.
    """
    features = np.empty((len(plan.coords), encoder.dimension), dtype=settings.dtype)
    quality = {name: np.zeros(len(plan.coords), np.float32) for name in MEASURED}
    done = 0

    def prepare(tiles: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return appearance(tiles), tile_quality(tiles)

    with closing(encoded_batches(slide, plan, encoder, settings.batch_size, prepare)) as batches:
        for encoded, measured in batches:
            rows = slice(done, done + len(encoded))
            with np.errstate(over="ignore"):
                features[rows] = encoded
            for name, values in measured.items():
                quality[name][rows] = values
            done += len(encoded)
            advance(len(encoded))
    bad = int((~np.isfinite(features).all(axis=1)).sum())
    if bad:
        raise SlideError(
            f"{slide_id}: {encoder.name} gave {bad} of {len(features)} tiles features beyond {settings.dtype}",
            "extract with --dtype float32" if settings.dtype == "float16" else "use another encoder",
            stage="encode",
        )
    return features, quality


def _notes(bag: Bag, tissue: TissueMask, marked: Annotation | None, settings: ExtractSettings) -> list[str]:
    """Remarks on a slide's bag for the user, one line each."""
    notes = []
    marks, absent = "", []
    if marked is not None:
        marks = f" (the annotation marks {', '.join(marked.classes) or 'no class'})"
        absent = [name for name in named_classes(settings) if not any(is_one_of(own, [name]) for own in marked.classes)]
    small = None if bag.geometry is None else too_small(bag.geometry)
    if small is not None:
        notes.append(small)
    elif not tissue.mask.any():
        notes.append("no tissue found")
    elif not len(bag):
        notes.append("no tile with enough tissue")
        if marked is not None and (settings.regions_only or settings.regions or settings.exclude_regions):
            notes[-1] += f" in its regions{'' if absent else marks}"
    notes += [absent_class(name) + marks for name in absent]
    if marked is not None and bag.labels is not None and len(bag):
        notes += _label_notes(marked, bag.labels, settings)
    if bag.geometry is not None and bag.geometry.interpolated:
        notes.append(f"slide coarser than {settings.target_mpp:g} um/px: its tiles were enlarged")
    if len(bag) > 1 and (bag.features == bag.features[0]).all():
        notes.append(f"{bag.contract.encoder} gave all {len(bag)} tiles the same features")
    return notes


def _label_notes(marked: Annotation, labels: np.ndarray, settings: ExtractSettings) -> list[str]:
    """What is said of tiles of which none is positive though something is marked, or all because everything is."""
    if marked.without_area:
        return ["the annotation encloses no area, so no tile is positive"]
    extent = marked.extent(settings.positive_classes)
    if extent == "everything":
        return ["the mask marks all of the slide, so every tile is positive; what is not marked is 0 in a mask"]
    if extent == "a part" and not labels.any():
        share = f"{settings.annotation_overlap:.0%}"
        return [f"the annotation marks {share} of no tile, so none is positive; its coordinates are pixels of level 0"]
    return []
