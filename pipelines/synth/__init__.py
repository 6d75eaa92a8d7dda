"""Computer-generated cohorts for trying the software: H&E-like pyramids, slide labels, tumour masks and a manifest.

Nothing here is tissue. A model trained on such images says something about the software, nothing about pathology.
"""

from __future__ import annotations

from pipelines.synth.cohort import generate_cohort
from pipelines.synth.settings import ORGANS, SynthSettings

__all__ = ["ORGANS", "SynthSettings", "generate_cohort"]
