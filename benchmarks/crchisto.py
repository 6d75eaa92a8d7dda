"""Real cells of 60 patients as bags: trained and evaluated by patient.

    python benchmarks/crchisto.py ../shared/data/patches/crchisto_main60.npz --out work/crchisto

A patient is a bag, a 27 px cell patch (CRCHistoPhenotypes, Sirinukunwattana et al. 2016) an instance, encoded by
efficientnet-lite0 at 96 px. Each fold trains a run of its own; the test patients of all folds are pooled. Cells have no place
on a slide, so they are laid on a grid in the order of the file.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np

import comel
from comel.bag import Bag, FeatureContract, TileGeometry, write_bag
from comel.files import read_json, write_json
from comel.metrics import bootstrap_interval, instance_metrics
from comel.predictor import Predictor
from comel.progress import progress_bar

SIDE = 96
PATCH_MPP = 0.55
FOLDS = 5


def make_bags(archive: Path, out: Path) -> Path:
    """Encode the cells, write a bag a patient and the manifest with folds; keeps what is there."""
    from PIL import Image
    from sklearn.model_selection import StratifiedKFold

    from pipelines.encoders import load_encoder

    with np.load(archive, allow_pickle=False) as content:
        images, patients, positive = content["images"], content["patient_id"], content["is_cancerous"].astype(np.int8)
    names = np.unique(patients)
    labels = np.array([positive[patients == name].max() for name in names])
    folds = np.zeros(len(names), int)
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for number, (_, test) in enumerate(splitter.split(names, labels)):
        folds[test] = number
    encoder = load_encoder("efficientnet-lite0")
    encoder.input_size = SIDE
    bags = out / "bags"
    bags.mkdir(parents=True, exist_ok=True)
    mpp = PATCH_MPP * images.shape[1] / SIDE
    with progress_bar(len(names), "encode") as advance:
        for name in names:
            path = bags / f"patient-{name}.h5"
            if not path.exists():
                mine = np.flatnonzero(patients == name)
                tiles = np.stack(
                    [np.asarray(Image.fromarray(images[i]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for i in mine]
                )
                features = np.concatenate([encoder.encode(tiles[i : i + 256]) for i in range(0, len(tiles), 256)])
                columns = int(np.ceil(np.sqrt(len(mine))))
                index = np.arange(len(mine))
                coords = np.stack([index % columns, index // columns], axis=1) * SIDE
                geometry = TileGeometry(SIDE, mpp, mpp, mpp, mpp, columns * SIDE, columns * SIDE, name=path.stem)
                contract = FeatureContract(encoder.name, encoder.weights_hash, encoder.dimension, mpp, SIDE)
                write_bag(path, Bag(path.stem, features, coords, geometry, contract, labels=positive[mine]))
            advance()
    manifest = out / "manifest.csv"
    with open(manifest, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide_id", "path", "label", "task", "patient_id", "fold"])
        for name, label, fold in zip(names, labels, folds, strict=True):
            writer.writerow([f"patient-{name}", f"patient-{name}.none", "tumour" if label else "normal", "colon", name, fold])
    return manifest


def main() -> None:
    """Train a run a fold, pool the test patients, print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--out", type=Path, default=Path("work/crchisto"))
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    manifest = make_bags(arguments.archive, arguments.out)
    cases, instances = [], []
    for fold in range(FOLDS):
        run = arguments.out / f"fold-{fold}"
        if not (run / "metrics.json").exists() or not read_json(run / "metrics.json")["finished"]:
            data = {"manifest": manifest, "bags": arguments.out / "bags", "fold": fold}
            comel.train(
                {"data": data, "strategy": {"name": "finetune"}, "trainer": {"epochs": arguments.epochs, "lr": 2e-4}}, run
            )
        predictor = Predictor.open(run)
        from comel.bag import read_bag
        from comel.manifest import read_manifest

        for row in read_manifest(manifest).rows:
            if row.fold == fold:
                bag = read_bag(arguments.out / "bags" / f"{row.slide_id}.h5")
                prediction = predictor.predict(bag)
                assert prediction.probabilities is not None
                cases.append((row.patient, float(prediction.probabilities[1]), int(row.label == "tumour")))
                instances.append((prediction.instance_scores, bag.labels, prediction.threshold))
    from sklearn.metrics import roc_auc_score

    truth, score = np.array([c[2] for c in cases]), np.array([c[1] for c in cases])
    cells = instance_metrics(
        [i[0] for i in instances], [i[1] for i in instances], threshold=float(np.mean([i[2] for i in instances]))
    )
    by_patient = {patient: [(p, y)] for patient, p, y in cases}

    def area(values: list[tuple[float, int]]) -> float | None:
        both = np.array(values)
        return float(roc_auc_score(both[:, 1], both[:, 0])) if len(set(both[:, 1])) == 2 else None

    result = {
        "patients": len(cases),
        "patient_accuracy": float(((score >= 0.5) == truth).mean()),
        "patient_auc": float(roc_auc_score(truth, score)),
        "patient_auc_95": bootstrap_interval(by_patient, area),
        "cell_auc": cells["auc"],
        "cell_dice_in_positive_patients": cells["dice"],
    }
    write_json(arguments.out / "result.json", result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
