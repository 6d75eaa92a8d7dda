"""What is done again, and what is kept, where the slides of a cohort change between two runs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from small_cohort import bags, draw_slide, extract
from small_slides import write_manifest


def counts(manifest: Path, out: Path) -> tuple[int, int, int]:
    report = extract(manifest, out)
    return report.done, report.skipped, report.failed


def test_slides_that_the_manifest_had_swapped_are_done_again_and_moved_ones_are_not(tmp_path: Path) -> None:
    out, slides = tmp_path / "bags", {"a": tmp_path / "a.tif", "b": tmp_path / "b.tif"}
    for number, path in enumerate(slides.values()):
        draw_slide(path, number)
    size = max(path.stat().st_size for path in slides.values())
    for path in slides.values():
        with open(path, "ab") as stream:
            stream.write(b"\0" * (size - path.stat().st_size))
        os.utime(path, ns=(10**18, 10**18))
    manifest = write_manifest(tmp_path / "cohort.csv", {"a": slides["b"], "b": slides["a"]})
    assert counts(manifest, out) == (2, 0, 0)
    before = bags(out)
    write_manifest(manifest, slides)
    assert counts(manifest, out) == (2, 0, 0)
    after = bags(out)
    assert np.array_equal(after["a"].features, before["b"].features)
    assert np.array_equal(after["b"].features, before["a"].features)
    assert counts(manifest, out) == (0, 2, 0)
    (tmp_path / "archive").mkdir()
    moved = {name: path.rename(tmp_path / "archive" / path.name) for name, path in slides.items()}
    written = {path: path.stat().st_mtime_ns for path in out.glob("*.h5")}
    assert counts(write_manifest(manifest, moved), out) == (0, 2, 0)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.h5")} == written
