"""What an annotation file marks on a slide: mask images, XML of ASAP and of ImageScope, and QuPath GeoJSON."""

from __future__ import annotations

from pipelines.annotations.annotation import Annotation, instance_labels, read_annotation
from pipelines.annotations.mask import read_mask
from pipelines.annotations.vector import is_one_of

__all__ = ["Annotation", "instance_labels", "is_one_of", "read_annotation", "read_mask"]
