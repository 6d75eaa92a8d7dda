"""A slide's properties, and the tissue and tiles that an extraction would use, without encoding any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.extraction.overlay import draw_overlay
from pipelines.extraction.regions import tiles_to_extract
from pipelines.extraction.settings import ExtractSettings
from pipelines.slides.slide import open_slide
from pipelines.tiles.plan import too_small
from pipelines.tissue import find_tissue, own_tissue
from pipelines.tissue.ink import INK_COLOURS

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Inspection", "inspect_slide"]


@dataclass(frozen=True)
class Inspection:
    """The result.

    Attributes:
        facts: plain values by name, in the order to show them.
        overlay: the picture of tissue and tiles, see :func:`pipelines.extraction.overlay.draw_overlay`.
    """

    facts: dict[str, Any]
    overlay: Image


def inspect_slide(path: Path, settings: ExtractSettings, *, mpp: float | None = None) -> Inspection:
    """Inspect a slide as an extraction would.

    Args:
        path: the slide; its name without suffix is its slide_id if ``settings`` name a folder of the user's own tissue.
        settings: the extraction's settings; the encoder is not used.
        mpp: micrometres per pixel of level 0, overriding the slide's own.

    Raises:
        SlideError: the slide or the tissue's file cannot be used.
    """
    path = Path(path)
    with open_slide(path, mpp=mpp, assume_mpp=settings.assume_mpp) as slide:
        file = own_tissue(settings.tissue_folder, path.stem, settings.tissue)
        tissue = find_tissue(slide, settings.tissue, file=file, ink_colours=settings.ink)
        plan = tiles_to_extract(slide, tissue, settings)
        ink, fold = tissue.ink, tissue.fold
        said = slide.facts()
        facts = {
            "slide": str(path),
            "format": said["format"],
            "objective_power": said["objective_power"],
            "width": slide.dimensions[0],
            "height": slide.dimensions[1],
            "mpp_x": slide.mpp_x,
            "mpp_y": slide.mpp_y,
            "mpp_source": slide.mpp_source,
            "bounds": None if slide.bounds is None else list(slide.bounds),
            "levels": said["levels"],
            "tissue": settings.tissue if file is None else str(file),
            "tissue_area_mm2": tissue.area_mm2,
            "ink_share": 0.0 if ink is None else float((ink > 0).mean()),
            "ink_colours": [] if ink is None else [name for i, name in enumerate(INK_COLOURS, 1) if (ink == i).any()],
            "fold_share_of_tissue": 0.0 if fold is None else float(fold.sum() / max(1, tissue.mask.sum())),
            "tiles": len(plan.coords),
            "too_small": too_small(plan.geometry),
            "read_level": plan.level,
            "interpolated": plan.geometry.interpolated,
        }
        return Inspection(facts, draw_overlay(slide, tissue, plan))
