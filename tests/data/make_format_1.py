"""Makes ``tests/data/format-1``: what comel 0.1.0 writes, for ``tests/test_old_files.py``.

It runs only on the version that wrote the files, and nobody needs to run it again: a later version reads what is stored. The
module names below are those of 0.1.0. From the repository's root, with the folder removed:

    OMP_NUM_THREADS=1 python tests/data/make_format_1.py

``bags/``, ``manifest.csv``
    Three organs of a few slides, features of 8 numbers. Among them float16 features (kidney), a slide of two scales, a case of
    two slides, slides without instance labels, and one without tissue.
``run/``, ``finetune-run/``
    Finished runs over colon and kidney: OWLoRA, class-incremental, and fine-tuning, domain-incremental. Their ``config.yaml``
    names the data relative to itself, where ``comel train`` writes absolute paths: it was written before the training, which
    then began with ``--resume``.
``interrupted/``
    A run with early stopping, killed in its second stage, some epochs after the best one and some before the stage would have
    ended. A checkpoint belongs to a plan, a hash over the settings with absolute paths: whoever moves the run writes the new
    place's hash into ``checkpoint/progress.json`` and into the ``start`` events (``plan`` below).
``interrupted-end.safetensors``
    The final weights of the same run never killed.
``predictions/``, ``report.html``
    What ``comel predict`` writes for one bag with ``run/``, and ``comel report ../run`` in ``run/``. In the report these vary:
    the run's place in the first line and the platform in the last, both taken out; the versions in the section Software; and
    the bytes of maps, which are PNG files.
``state/``
    The folder of ``comel serve``: jobs that are done, failed and waiting, the prediction of the first, an upload half sent, a
    webhook call that is due, an idempotency key, two API keys, a pinned version. ``golden.json`` holds one of the keys, which
    opens nothing else. Git keeps no permissions: the folder was 0700, its files 0600. The database has smaller pages than
    0.1.0 makes, for a smaller file.
``golden.json``
    What 0.1.0 says of every test case, with the task unknown and given, and of ``colon-4`` as a slide of the kidney
    (``elsewhere``): numbers rounded to 7 significant digits, with the SHA-256 of the arrays' own bytes, which holds on a
    processor of the same kind only.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import yaml
from fastapi.testclient import TestClient

import comel
from comel.bag import Bag, FeatureContract, TileGeometry, read_bag_header, reading_of, write_bag
from comel.config import RunConfig, load_config, parse_section
from comel.data import BagStore, load_tasks
from comel.early_stopping import EarlyStopping
from comel.evaluation import evaluate_cases
from comel.files import sha256_of_file, sha256_of_json, write_text
from comel.foreign import read_any_bag
from comel.models.base import MILModel
from comel.prediction import Prediction
from comel.predictor import Predictor
from comel.run import RunDirectory, build_model, load_state
from comel.session import plan_of, read_events
from comel.training import resolved
from service.app import create_app
from service.keys import KeyStore
from service.settings import ServiceSettings

WRITTEN_BY = "0.1.0"
OUT = Path(__file__).resolve().parent / "format-1"
DIMENSION, TILE, COLUMNS = 8, 256, 5
COHORT = {
    "colon": [
        *(("train", "normal"), ("train", "tumour"), ("val", "tumour")),
        *(("test", "normal"), ("test", "tumour"), ("test", "tumour"), ("test", "normal")),
    ],
    "kidney": [
        *(("train", "normal"), ("train", "tumour"), ("val", "tumour"), ("val", "normal"), ("val", "tumour")),
        *(("test", "normal"), ("test", "tumour")),
    ],
    "liver": [("train", "normal"), ("train", "tumour"), ("test", "tumour")],
}
"""Split and label of each slide."""
PAIR = {"colon-4": "colon-pair", "colon-5": "colon-pair"}
EMPTY, SCALED, PREDICTED = "colon-6", "kidney-6", "colon-4"
"""The slide without tissue, the one of two scales, and the one of ``predictions/``."""
SETTINGS = {"encoder": "toy", "tissue": "hsv-otsu", "min_tissue": 0.5, "overlap": 0, "dtype": "float32", "target_mpp": 0.5}
CONTRACT = FeatureContract("toy", "ab" * 32, DIMENSION, 0.5, TILE, reading_of(SETTINGS))
MODEL = {"name": "comel", "dim": 8, "attention_hidden": 4, "blocks": 1, "num_heads": 2, "region_size": 4, "mlp_ratio": 1}
OWLORA = {"name": "owlora", "rank": 2, "tasks": 3}
EPOCHS = 10
TRAINER = {"epochs": EPOCHS, "lr": 3e-2, "seed": 1, "threads": 1, "device": "cpu"}
STOPPING = {"seed": 9, "early_stopping": 4, "checkpoint_seconds": 0}
KILLED_AFTER = 6
"""Epochs of the second stage that the last checkpoint of the interrupted run holds."""
ASYNC = {"Prefer": "respond-async"}


def main() -> None:
    """Make everything anew."""
    if metadata.version("comel") != WRITTEN_BY:
        sys.exit(f"this is comel {metadata.version('comel')}; the files are of {WRITTEN_BY}")
    if OUT.exists():
        sys.exit(f"{OUT} is there already: remove it first")
    torch.set_num_threads(1)
    cohort()
    data = {"manifest": "../manifest.csv", "bags": "../bags", "tasks": ["colon", "kidney"]}
    train("run", data, OWLORA, TRAINER)
    train("finetune-run", data | {"mode": "domain-incremental"}, {"name": "finetune"}, TRAINER)
    golden = {
        "comel": WRITTEN_BY,
        "interrupted": interrupted(data),
        "runs": {name: answers(OUT / name) for name in ("run", "finetune-run")},
        "bags": {path.stem: read_bag_header(path)["checksum"] for path in sorted((OUT / "bags").iterdir())},
    }
    comel.predict(OUT / "run", OUT / f"bags/{PREDICTED}.h5", OUT / "predictions", width=256, device="cpu", quiet=True)
    report()
    golden["service"] = service()
    text = json.dumps(golden, indent=1, ensure_ascii=False, allow_nan=False)
    for innermost in (r"\[[^][{}]*\]", r"\{[^{}]*\}"):  # on one line
        text = re.sub(innermost, lambda found: re.sub(r"\s+", " ", found[0]), text)
    write_text(OUT / "golden.json", text + "\n")
    refuse_paths()


# The cohort.


def cohort() -> None:
    """Bags and manifest."""
    generator, rows = np.random.default_rng(1), []
    for organ, slides in COHORT.items():
        for number, (split, label) in enumerate(slides):
            slide = f"{organ}-{number}"
            name = PAIR.get(slide, slide)
            about = {"slide_id": slide, "path": f"slides/{slide}.svs", "label": label, "task": organ, "split": split}
            rows.append(about | {"case_id": name, "patient_id": f"p-{name}", "site": f"site-{number % 2}"})
            write_bag(
                OUT / "bags" / f"{slide}.h5",
                bag_of(slide, organ, label, generator, labelled=split != "train" and label == "tumour"),
            )
    with open(OUT / "manifest.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def bag_of(slide: str, organ: str, label: str, generator: np.random.Generator, *, labelled: bool) -> Bag:
    """A slide's bag: an organ is a shift, a tumour a direction."""
    tiles = 0 if slide == EMPTY else int(generator.integers(10, 17))
    own = np.random.default_rng(list(COHORT).index(organ))
    shift, direction = 1.5 * own.normal(size=DIMENSION), 2.5 * own.normal(size=DIMENSION)
    labels = np.zeros(tiles, np.int8)
    if label == "tumour":
        labels[: max(1, tiles // 4)] = 1
    features = generator.normal(size=(tiles, DIMENSION)) + shift + labels[:, None] * direction
    cells = np.stack([np.arange(tiles) % COLUMNS, np.arange(tiles) // COLUMNS], axis=1)
    bag = level(slide, features.astype(np.float16 if organ == "kidney" else np.float32), cells, 0.5)
    bag.labels = labels if labelled else None
    if slide == "liver-2":
        bag.quality, bag.notes = {"tissue": np.linspace(0.5, 1, tiles, dtype=np.float32)}, ("made for a test",)
    return pyramid(bag, cells) if slide == SCALED else bag


def level(slide: str, features: np.ndarray, cells: np.ndarray, mpp: float) -> Bag:
    """A bag at one scale; ``cells`` (N, 2) are columns and rows of the tiles. Level 0 is of 0.25 um/px."""
    side = round(TILE * mpp / 0.25)
    geometry = TileGeometry(TILE, mpp, mpp, 0.25, 0.25, 4096, 8192, 0, 512, 256, True, f"{slide}.svs")
    coords = cells.astype(np.int64) * side + np.array([512, 256])
    return Bag(slide, features, coords, geometry, replace(CONTRACT, mpp=mpp), settings=dict(SETTINGS))


def pyramid(bag: Bag, cells: np.ndarray) -> Bag:
    """The bag with a coarser scale, whose features are the means of the tiles they hold."""
    coarser, parent = np.unique(cells[:, ::-1] // 2, axis=0, return_inverse=True)
    parent = parent.reshape(-1).astype(np.int64)
    means = [bag.features[parent == index].mean(axis=0) for index in range(len(coarser))]
    scale = level(bag.slide_id, np.array(means, bag.features.dtype), coarser[:, ::-1], 1.0)
    return replace(bag, parent=parent, scales=(scale,))


# The runs.


def train(name: str, data: dict[str, Any], strategy: dict[str, Any], trainer: dict[str, Any]) -> Path:
    """A run whose settings name the data relative to the run."""
    run = OUT / name
    sections = {"data": data, "model": MODEL, "strategy": strategy, "trainer": trainer}
    values = resolved(parse_section(RunConfig, sections, "settings")).model_dump(mode="json")
    write_text(run / "config.yaml", yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
    comel.train({}, run, resume=True, quiet=True)
    return run


def interrupted(data: dict[str, Any]) -> dict[str, Any]:
    """The killed run, and what the one never killed came to."""
    whole = train("whole", data, OWLORA, TRAINER | STOPPING)
    epochs = [event for event in read_events(RunDirectory(whole)) if event["event"] == "epoch" and event["stage"] == 1]
    losses = [event["validation_ce"] for event in epochs]
    best = int(np.argmin(losses))
    if not best < KILLED_AFTER < len(losses) < EPOCHS:
        sys.exit(f"choose other settings: best epoch {best}, {len(losses)} epochs, killed after {KILLED_AFTER}")
    child = os.fork()
    if not child:
        observe = EarlyStopping.observe

        def observe_or_die(stopping: EarlyStopping, model: MILModel, epoch: int) -> float:
            if (RunDirectory(OUT / "interrupted").versions(), epoch) == ([1], KILLED_AFTER):
                os.kill(os.getpid(), signal.SIGKILL)
            return observe(stopping, model, epoch)

        with patch.object(EarlyStopping, "observe", observe_or_die):
            train("interrupted", data, OWLORA, TRAINER | STOPPING)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        sys.exit("the run was not killed")
    if plan(OUT / "interrupted") != plan_of(resolved(load_config(OUT / "interrupted" / "config.yaml"))):
        sys.exit("plan() is not what the program hashes")
    shutil.copy(whole / "versions/002/model.safetensors", OUT / "interrupted-end.safetensors")
    found = {
        "weights": {f"{number}": sha256_of_file(whole / f"versions/00{number}/model.safetensors") for number in (1, 2)},
        "epochs": [{key: event[key] for key in ("epoch", "losses", "validation_ce")} for event in epochs],
        "best_epoch": best,
        "killed_after": KILLED_AFTER,
    }
    shutil.rmtree(whole)
    return found


def plan(run: Path) -> str:
    """The hash that 0.1.0 calls a run's plan, from its ``config.yaml`` alone."""
    values = yaml.safe_load((run / "config.yaml").read_text())
    for section, key in (
        ("trainer", "device"),
        ("trainer", "threads"),
        ("trainer", "checkpoint_seconds"),
        ("data", "cache_gib"),
    ):
        del values[section][key]
    for key in ("manifest", "bags"):
        values["data"][key] = str((run / values["data"][key]).resolve())
    return sha256_of_json([values, sha256_of_file(Path(values["data"]["manifest"]))])


# What is said of the test cases.


def answers(run: Path) -> dict[str, Any]:
    """By ``evaluate_cases``, by the predictor with the task unknown and given, and the scores."""
    directory = RunDirectory(run)
    info, predictor = directory.info(), Predictor.open(run, device="cpu")
    config = load_config(directory.config)
    model = build_model(info.model)
    load_state(directory.version_folder(), model)
    store = BagStore(OUT / "bags", info.feature_contract)
    evaluated: dict[str, Any] = {}
    predicted: dict[str, Any] = {}
    for task, known in zip(load_tasks(config.data), info.tasks, strict=True):
        for result in evaluate_cases(model, task, known.head, task.test, store, torch.device("cpu")):
            arrays = ("probabilities", "within", "raw_probabilities", "head_logits", "scores", "scores_given")
            evaluated[result.case.name] = {
                "task": task.name,
                "column": result.column,
                "place": result.place,
                "predicted": model.classes.names[int(result.probabilities.argmax())],
                "distance": numbers([result.distance]),
                **{name: numbers(getattr(result, name)) for name in arrays},
            }
        for case in task.test:
            bags = [read_any_bag(OUT / "bags" / f"{slide}.h5") for slide in case.slides]
            predicted[case.name] = {
                str(given): [prediction(made) for made in predictor.predict_case(case.name, bags, task=given)]
                for given in (None, task.name)
            }
    elsewhere = predictor.predict(read_any_bag(OUT / "bags" / f"{PREDICTED}.h5"), task="kidney")
    scores = comel.evaluate(run, OUT / "manifest.csv", OUT / "bags", tasks=["colon", "kidney"], device="cpu", quiet=True)
    return {
        "version": info.version,
        "classes": predictor.class_names,
        "evaluate_cases": evaluated,
        "predict": predicted,
        "elsewhere": prediction(elsewhere),
        "distance_threshold": info.distance_threshold,
        "evaluate": scores["mean"],
        "files": {
            str(path.relative_to(run)): sha256_of_file(path) for path in sorted((run / "versions").rglob("*.safetensors"))
        },
    }


def prediction(made: Prediction) -> dict[str, Any]:
    """A prediction's answer."""
    novelty = made.out_of_distribution
    return {
        "slide_id": made.slide_id,
        "mode": made.mode,
        "task": made.task,
        "label": made.label,
        "predicted_class": made.predicted_class,
        "positive": made.positive,
        "positive_instances": made.positive_instances,
        "threshold": made.threshold,
        "distance": None if novelty is None else numbers([novelty.score]),
        "probabilities": None if made.probabilities is None else numbers(made.probabilities),
        "instance_scores": numbers(made.instance_scores),
        "class_scores": None if made.class_scores is None else hashlib.sha256(made.class_scores.tobytes()).hexdigest(),
        "notes": list(made.notes),
    }


def numbers(values: Any) -> dict[str, Any]:
    """An array for people and for machines."""
    array = np.ascontiguousarray(values)
    rounded = [float(f"{value:.7g}") for value in array.reshape(-1).tolist()]
    return {"dtype": array.dtype.name, "values": rounded, "sha256": hashlib.sha256(array.tobytes()).hexdigest()}


# The report and the service.


def report() -> None:
    """The page; the place of the run and the name of the machine's system are taken out."""
    os.chdir(OUT / "run")  # 0.1.0 looks for the data of a relative setting from the working directory on
    page = comel.report(Path("../run"), OUT / "report.html", quiet=True)
    text = page.read_text(encoding="utf-8")
    for pattern in (re.escape(str(OUT / "run")), r"(?<=platform, of this report</th><td>)[^<]*"):
        text, count = re.subn(pattern, "taken out", text)
        if count != 1:
            sys.exit(f"the report holds {count} of {pattern}")
    page.write_text(text, encoding="utf-8")
    page.with_name("model_card.md").unlink()


def service() -> dict[str, Any]:
    """The state folder, through the service itself; a second one without workers leaves a job that waits."""
    state = OUT / "state"
    settings: dict[str, Any] = {
        "runs": {"toy": OUT / "run"},
        "state_dir": state,
        "device": "cpu",
        "upload_hours": 1e6,
        "webhook_hosts": ["127.0.0.1"],
        "webhook_private": True,
        "webhook_secret": "not a secret",
    }
    key = KeyStore(state).add("lims", "admin")
    KeyStore(state).add("viewer", "read")
    KeyStore(state).revoke("viewer")
    headers = {"Authorization": f"Bearer {key}"}
    made: dict[str, Any] = {"key": key}
    bags = OUT / "bags"
    with TestClient(create_app(ServiceSettings(**settings)), headers=headers) as client:
        told = {"task": "kidney", "webhook": "http://127.0.0.1:9/ended"}
        done = post(client, bags / "liver-1.h5", ASYNC | {"Idempotency-Key": "case-7-1"}, **told)
        wait(lambda: client.get(f"/v1/jobs/{done['id']}").json()["state"] == "done")
        content = (bags / f"{EMPTY}.h5").read_bytes()
        upload = client.post("/v1/uploads", json={"filename": "half.h5", "size": len(content)}).json()
        client.put(f"/v1/uploads/{upload['id']}?offset=0", content=content[:2048]).raise_for_status()
        with TemporaryDirectory() as folder:
            failed = post(client, of_another_encoder(Path(folder) / "colon-1.h5"), ASYNC)
        wait(lambda: client.get(f"/v1/jobs/{failed['id']}").json()["state"] == "failed")
        client.post("/v1/models/toy/version", json={"version": 2}).raise_for_status()
    with TestClient(create_app(ServiceSettings(**settings, workers=0)), headers=headers) as client:
        waits = post(client, bags / f"{EMPTY}.h5", ASYNC)
        made["jobs"], made["predictions"] = (client.get(f"/v1/{name}").json()["items"] for name in ("jobs", "predictions"))
        made["upload"] = client.get(f"/v1/uploads/{upload['id']}").json()
        made["answer"] = client.get(f"/v1/predictions/{done['id']}").json()
    with sqlite3.connect(state / "comel.db") as database:
        database.executescript("PRAGMA journal_mode=DELETE; PRAGMA page_size=512; VACUUM; PRAGMA journal_mode=WAL;")
    database.close()
    return made | {"done": done["id"], "failed": failed["id"], "waits": waits["id"]}


def post(client: TestClient, bag: Path, headers: dict[str, str], **form: str) -> dict[str, Any]:
    """Ask for a prediction of a bag."""
    answer = client.post("/v1/predictions", files={"bag": (bag.name, bag.read_bytes())}, data=form, headers=headers)
    answer.raise_for_status()
    return dict(answer.json())


def of_another_encoder(path: Path) -> Path:
    """A bag that the run cannot use."""
    bag = read_any_bag(OUT / "bags" / path.name)
    write_bag(path, replace(bag, contract=replace(bag.contract, encoder="another")))
    return path


def wait(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    limit = time.monotonic() + 120
    while not condition():
        if time.monotonic() > limit:
            sys.exit("waited too long")
        time.sleep(0.1)


def refuse_paths(places: Iterable[Path] = (OUT.parents[2], Path.home())) -> None:
    """Stop if a file names a place of this machine."""
    for path in OUT.rglob("*"):
        for place in places if path.is_file() else ():
            if str(place).encode() in path.read_bytes():
                sys.exit(f"{path} names {place}")


if __name__ == "__main__":
    main()
