"""What is done again, and what is kept, where the slides of a cohort change between two runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from small_cohort import bags, draw_slide, extract
from small_slides import GLASS, write_manifest, write_slide


def notes(out: Path) -> dict[str, list[str]]:
    """What ``extract.json`` says of each slide."""
    return {name: slide["notes"] for name, slide in json.loads((out / "extract.json").read_text())["slides"].items()}


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


def test_notes_stay_when_a_bag_is_looked_at_again(tmp_path: Path) -> None:
    """A slide of glass and one coarser than the tiles; both with nothing but their bags left, verified, and touched."""
    out, glass = tmp_path / "bags", np.full((640, 640, 3), GLASS, np.uint8)
    slides = {"glass": write_slide(tmp_path / "glass.tif", glass), "coarse": draw_slide(tmp_path / "coarse.tif")}
    manifest = write_manifest(tmp_path / "cohort.csv", slides, mpp={"coarse": "1.05"})
    assert counts(manifest, out) == (2, 0, 0)
    said = {"glass": ["no tissue found"], "coarse": ["slide coarser than 1 um/px: its tiles were enlarged"]}
    assert notes(out) == said
    shutil.rmtree(out / ".extract")
    (out / "extract.json").unlink()
    assert counts(manifest, out) == (0, 2, 0)
    assert notes(out) == said
    assert extract(manifest, out, verify=True).skipped == 2
    assert notes(out) == said
    for path in slides.values():
        path.touch()
    assert counts(manifest, out) == (0, 2, 0)
    assert notes(out) == said
