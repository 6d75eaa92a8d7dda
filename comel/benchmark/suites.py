"""The suites by name: from a seed to the ``data`` settings of a stream, made once and kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comel.benchmark.composite import CompositeSettings, make_composite
from comel.benchmark.features import FeatureSettings, make_features
from comel.config import parse_section
from comel.errors import ConfigError

__all__ = ["SUITES", "make_stream"]

SUITES = ("features", "composite", "crchisto")


def make_stream(suite: str, out: Path, seed: int, settings: dict[str, Any], slides: Path | None, bags: Path | None) -> dict[str, Any]:
    """Make a suite's stream for a seed under ``out/seed-N/stream``, unless it is there, and say where it is.

    Args:
        suite: one of :data:`SUITES`.
        out: the benchmark's folder.
        seed: of the stream.
        settings: the suite's own settings.
        slides: composite: the manifest of the real slides.
        bags: composite: their feature files.

    Raises:
        ConfigError: settings do not fit, or slides or bags are missing.
    """
    folder = out / f"seed-{seed}" / "stream"
    manifest = folder / "manifest.csv"
    if not manifest.exists():
        if suite == "features":
            make_features(folder, parse_section(FeatureSettings, {**settings, "seed": seed}, suite))
        elif suite == "composite":
            if slides is None or bags is None:
                raise ConfigError("composite: no slides are named", "give --slides manifest.csv and --bags FOLDER")
            make_composite(folder, slides, bags, parse_section(CompositeSettings, {**settings, "seed": seed}, suite))
    return {"manifest": str(manifest.resolve()), "bags": str((folder / "bags").resolve())}
