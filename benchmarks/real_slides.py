"""Real slides through extract, train and predict, as a user runs it.

    python benchmarks/real_slides.py ../shared/data/wsi ../shared/data/wsi_manifest.csv --out work/real

Every slide is extracted at 1.05 um/px; organs that have neoplastic and other slides are the tasks of a continual run, one organ
after another; then every slide is predicted with its map. There are one or two cases a class, so the run has seen the slides it
is asked about: this shows that the parts work on real tissue, and says nothing about accuracy.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import comel
from comel.base.files import read_json
from comel.errors import ComelError

TARGET_MPP, ASSUME_MPP = 1.05, 1.052


def write_manifests(slides: Path, table: Path, out: Path) -> tuple[Path, Path]:
    """The manifest of all slides, and of those that train: organs with both kinds.

    ``slides.csv`` beside them is the second without splits, as ``comel bench continual --suite composite`` wants it.
    """
    with open(table, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    kinds: dict[str, set[str]] = {}
    for row in rows:
        if row["neoplastic"]:
            kinds.setdefault(row["organ"], set()).add(row["neoplastic"])
    columns = ["slide_id", "path", "label", "task", "case_id", "split"]
    both = [r for r in rows if len(kinds.get(r["organ"], ())) == 2 and r["neoplastic"]]
    paths = []
    for name, wanted, split in (("all", rows, "train"), ("train", both, "train"), ("slides", both, "")):
        paths.append(out / f"{name}.csv")
        with open(paths[-1], "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            for row in wanted:
                slide = Path(row["file"]).stem
                label = "neoplastic" if row["neoplastic"] == "1" else "normal"
                writer.writerow(
                    {
                        "slide_id": slide,
                        "path": row["file"],
                        "label": label,
                        "task": row["organ"],
                        "case_id": slide,
                        "split": split,
                    }
                )
    return paths[0], paths[1]


def main() -> None:
    """Extract, train, predict, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slides", type=Path)
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("work/real"))
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args()
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    every, training = write_manifests(arguments.slides, arguments.table, out)
    report = comel.extract(every, out / "bags", root=arguments.slides, target_mpp=TARGET_MPP, assume_mpp=ASSUME_MPP)
    run = out / "run"
    if not (run / "metrics.json").exists() or not read_json(run / "metrics.json")["finished"]:
        data = {"manifest": training, "bags": out / "bags", "root": arguments.slides}
        comel.train({"data": data, "trainer": {"epochs": arguments.epochs, "lr": 2e-4}}, run)
    results = comel.predict(run, [every], out / "predictions", bags=out / "bags", root=arguments.slides, assume_mpp=ASSUME_MPP)
    print(
        f"{report.done} extracted, {report.skipped} kept, {report.failed} failed; {report.tiles} tiles {report.seconds:.0f} s"
    )
    for result in results:
        if isinstance(result, ComelError):
            print(json.dumps({"error": str(result)}))
        else:
            tiles = f"{result.positive_instances}/{len(result.instance_scores)}"
            print(f"{result.slide_id:45} {result.predicted_class or '-':25} {result.confidence or 0:.2f}  {tiles} tiles")


if __name__ == "__main__":
    main()
