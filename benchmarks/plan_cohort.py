"""How long it takes to find out what is left to do of a large cohort: `python benchmarks/plan_cohort.py [SLIDES]`.

Writes a manifest of that many slides (10,000 by default), all but one in a hundred recorded as done, and times reading the
manifest, planning a run and asking for the status. Slides and bags are empty files: none is read.
"""

from __future__ import annotations

import csv
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from comel.base.files import write_json
from comel.cohort.manifest import ManifestRow, read_manifest
from pipelines.batch.plan import plan_slides
from pipelines.batch.slide_records import Ledger, SlideRecord, bag_path, files_stamp, inputs_stamp, overlay_path
from pipelines.batch.status import folder_status


def timed(what: str, function: Callable[[], object]) -> None:
    started = time.perf_counter()
    function()
    print(f"{what:28} {time.perf_counter() - started:6.2f} s")


def write_cohort(folder: Path, count: int) -> Path:
    slides = folder / "slides"
    slides.mkdir()
    with open(folder / "cohort.csv", "w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        table.writerow(["slide_id", "path", "label", "task"])
        for number in range(count):
            (slides / f"{number:06}.svs").touch()
            table.writerow([f"slide-{number:06}", slides / f"{number:06}.svs", number % 2, "organ"])
    return folder / "cohort.csv"


def record(rows: list[ManifestRow], out: Path) -> None:
    ledger = Ledger(out / ".extract" / "outcomes")
    (out / "overlays").mkdir(parents=True)
    for row in rows:
        if row.row % 100 == 0:
            continue
        bag_path(out, row.slide_id).touch()
        overlay_path(out, row.slide_id).touch()
        files = files_stamp(out, row.slide_id)
        ledger.write(SlideRecord(row.slide_id, "done", "key", inputs_stamp(row), files, tiles=1000))
    write_json(out / ".extract" / "run.json", {"key": "key"})


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest, out = write_cohort(folder, count), folder / "bags"
        record(read_manifest(manifest).rows, out)
        print(f"{count} slides")
        rows = read_manifest(manifest).rows
        timed("read the manifest", lambda: read_manifest(manifest))
        plan = plan_slides(rows, out, Ledger(out / ".extract" / "outcomes"), "key")
        timed("plan a run", lambda: plan_slides(rows, out, Ledger(out / ".extract" / "outcomes"), "key"))
        timed("ask for the status", lambda: folder_status(rows, out))
        print(f"{len(plan.kept)} kept, {len(plan.tasks)} to do")


if __name__ == "__main__":
    main()
