"""The whole synthetic cohort: slides, masks, manifest, and the notice that none of it is tissue."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from comel.base.files import write_text
from comel.errors import ComelError
from pipelines.synth.settings import SynthSettings
from pipelines.synth.storage import NOTICE, is_complete, write_mask, write_pyramid

__all__ = ["COLUMNS", "generate_cohort"]

COLUMNS = ("slide_id", "path", "label", "task", "patient_id", "split", "annotation")

# Incremented whenever the drawing changes, so that a cohort never mixes two generators.
_GENERATOR = 1

_SHARES = {"train": 0.60, "val": 0.15, "test": 0.25}

_README = f"""{NOTICE}

The images in slides/ are drawn by a program: random outlines, random glands, random nuclei, coloured as an H&E stain would
be. The tumours are drawn as well; masks/ (255 = tumour, an eighth of the slide's size) and the labels in manifest.csv are
true by construction. Use them to try and to test the software. A number measured on them is no evidence about real tissue,
about any disease, or about how a model would do in a laboratory. Not for diagnosis, and not for training a model that is.

Each slide's image description repeats this and holds the settings it was made from; the same settings give the same slides.
"""


def generate_cohort(out: Path, *, settings: SynthSettings, progress: Callable[[int, int, str], None] | None = None) -> Path:
    """Draw a cohort of H&E-like slides with tumours into a folder.

    Writes ``slides/<slide_id>.tif``, ``masks/<slide_id>.png`` (255 = tumour, an eighth of level 0; blank for normal slides),
    ``SYNTHETIC.txt`` and ``manifest.csv`` with paths relative to the folder. Each patient gives two slides of one organ, one
    without and one with a tumour; patients are divided 60/15/25 into train, val and test. Existing slides that are
    complete and made from the same settings are kept.

    Args:
        out: the folder; created if missing.
        settings: the settings of the drawing.
        progress: called as (slides done, total slides, slide id) after each slide.

    Returns:
        The path of ``manifest.csv``.

    Raises:
        ComelError: the folder cannot be written, or the disk is full.
    """
    out = Path(out)
    rows = [row for organ in settings.organs for row in _rows(organ, settings.slides_per_organ)]
    try:
        write_text(out / "SYNTHETIC.txt", _README)
        for done, row in enumerate(rows, start=1):
            _make_slide(out, row, settings)
            if progress is not None:
                progress(done, len(rows), row["slide_id"])
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(out / "manifest.csv", table.getvalue())
    except OSError as error:
        raise ComelError(f"{out}: {error.strerror or error}", "choose a writable folder with enough disk space") from error
    return out / "manifest.csv"


def _make_slide(out: Path, row: dict[str, Any], settings: SynthSettings) -> None:
    from pipelines.synth.render import render_slide

    recipe = settings.model_dump(mode="json", exclude={"organs", "slides_per_organ"})
    recipe |= {"organ": row["task"], "index": row["index"], "generator": _GENERATOR}
    slide, mask = out / row["path"], out / row["annotation"]
    if is_complete(slide, mask, recipe):
        return
    rendered = render_slide(settings, row["task"], row["index"])
    # The slide is written last: if it is complete, its mask is too.
    write_mask(mask, rendered.tumour)
    write_pyramid(slide, rendered.image, mpp=settings.mpp, recipe=recipe)


def _rows(organ: str, slides: int) -> list[dict[str, Any]]:
    """The manifest's rows for one organ, with the slide's index beside them."""
    splits = _splits((slides + 1) // 2)
    rows = []
    for index in range(slides):
        slide_id, patient = f"{organ}-{index:04d}", index // 2
        rows.append(
            {
                "slide_id": slide_id,
                "path": f"slides/{slide_id}.tif",
                "label": "tumour" if index % 2 else "normal",
                "task": organ,
                "patient_id": f"{organ}-p{patient:04d}",
                "split": splits[patient],
                "annotation": f"masks/{slide_id}.png",
                "index": index,
            }
        )
    return rows


def _splits(patients: int) -> list[str]:
    """A split for each patient: shares rounded by largest remainder, no split empty if there are three patients."""
    counts = {name: int(share * patients) for name, share in _SHARES.items()}
    # Ties go to the test set, whose size determines the weight of a result.
    order = sorted(_SHARES, key=lambda name: (-round(_SHARES[name] * patients - counts[name], 9), name != "test"))
    for name in order[: patients - sum(counts.values())]:
        counts[name] += 1
    for name in ("test", "val"):
        if counts[name] == 0 and counts["train"] > 1:
            counts[name] += 1
            counts["train"] -= 1
    return [name for name, count in counts.items() for _ in range(count)]
