"""Tissue, ink and folds on a slide, found on a thumbnail of about 8 micrometres per pixel."""

from pipelines.slides.coverage import area_fraction
from pipelines.tissue.find import TISSUE_METHODS, find_tissue
from pipelines.tissue.mask import TissueMask
from pipelines.tissue.own import OWN_TISSUE, own_tissue

__all__ = ["OWN_TISSUE", "TISSUE_METHODS", "TissueMask", "area_fraction", "find_tissue", "own_tissue"]
