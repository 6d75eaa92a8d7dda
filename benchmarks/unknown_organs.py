"""Are slides of organs that a model has never learned told apart from those that it has?

    python benchmarks/unknown_organs.py --seeds 5 --out work/unknown

Trains on the first four organs of the suite ``features`` (comel.app.benchmark.features) in turn. After each it measures
the distance of test bags of the organs learned so far and of two organs that never come.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

import comel
from comel.app.benchmark.features import FeatureSettings, make_features
from comel.bags.bag import read_bag
from comel.cohort.manifest import read_manifest
from comel.prediction.predictor import Predictor
from comel.runs.directory import RunDirectory

KNOWN, UNKNOWN = 4, 2


def measure(folder: Path, seed: int, difficulty: float, dimension: int) -> list[tuple[float, float, float, float]]:
    """After each organ: AUROC, and the share flagged of known, of the first organ's, and of unknown test bags."""
    settings = FeatureSettings(seed=seed, difficulty=difficulty, tasks=KNOWN + UNKNOWN, dimension=dimension)
    manifest, run = folder / "stream" / "manifest.csv", folder / "run"
    if not manifest.exists():
        manifest = make_features(folder / "stream", settings)
    organs = [f"organ{number + 1}" for number in range(KNOWN + UNKNOWN)]
    bags = manifest.parent / "bags"
    if not RunDirectory(run).is_finished:
        data = {"manifest": manifest, "bags": bags, "tasks": organs[:KNOWN]}
        # The statistics come from the encoder's features: the network has no part in them, so a small one does.
        model = {"name": "comel", "dim": 16, "blocks": 1, "num_heads": 2, "attention_hidden": 8}
        comel.train(
            {"data": data, "model": model, "strategy": {"name": "finetune"}, "trainer": {"epochs": 1, "device": "cpu"}},
            run,
            quiet=True,
        )
    tests = {organ: [] for organ in organs}
    for row in read_manifest(manifest).rows:
        if row.split == "test":
            tests[row.task].append(read_bag(bags / f"{row.slide_id}.h5"))
    lines = []
    for version in range(1, KNOWN + 1):
        predictor = Predictor.open(run, version=version, device="cpu")
        found = {
            organ: [predictor.predict(bag).out_of_distribution for bag in several]
            for organ, several in tests.items()
            if organ in organs[:version] or organ in organs[KNOWN:]
        }
        known = [one for organ in organs[:version] for one in found[organ]]
        unknown = [one for organ in organs[KNOWN:] for one in found[organ]]
        truth = [0] * len(known) + [1] * len(unknown)
        flagged = [float(np.mean([one.flag for one in several])) for several in (known, found[organs[0]], unknown)]
        lines.append((float(roc_auc_score(truth, [one.score for one in (*known, *unknown)])), *flagged))
    return lines


def main() -> None:
    """Print a table, means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--difficulty", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("work/unknown"))
    given = parser.parse_args()
    print("| difficulty | organs learned | AUROC | known flagged | first organ flagged | unknown flagged |")
    print("|---|---|---|---|---|---|")
    for difficulty in given.difficulty:
        runs = [measure(given.out / f"{difficulty:g}-{seed}", seed, difficulty, given.dimension) for seed in range(given.seeds)]
        for organs, row in enumerate(np.mean(runs, axis=0), start=1):
            auroc, known, first, unknown = row
            print(f"| {difficulty:g} | {organs} | {auroc:.3f} | {known:.1%} | {first:.1%} | {unknown:.1%} |")


if __name__ == "__main__":
    main()
