"""What comel 0.1.0 wrote still opens, predicts, reports, learns more, goes on and migrates.

The files are ``tests/data/format-1``; ``tests/data/make_format_1.py`` says what they are. Numbers are compared with room for
the rounding of another processor.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.numpy import load_file

import comel
from comel.app.cli import main
from comel.errors import ComelError, RunError
from service.app import create_app
from service.settings import ServiceSettings
from tests.comel.reporting.pages import Page

Cli = Callable[..., str]
OLD = Path(__file__).parent / "data" / "format-1"
GOLDEN: dict[str, Any] = json.loads((OLD / "golden.json").read_text(encoding="utf-8"))
RUNS = pytest.mark.parametrize("name", ["run", "finetune-run"])
TOLERANCE = 1e-5
"""Of the largest value of an array."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of everything that 0.1.0 wrote, with the permissions that Git does not keep."""
    folder = Path(shutil.copytree(OLD, tmp_path / "format-1"))
    for path in (folder / "state", *(folder / "state").rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """``cli("report", run)`` runs the command in this process and gives its standard output."""

    def run(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["comel", *map(str, arguments)])
        capsys.readouterr()
        code: object = None
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        assert not code, said.err
        return said.out

    return run


def close(values: Any, wanted: Any) -> bool:
    """Whether numbers are the wanted ones but for rounding."""
    got, want = np.asarray(values, np.float64), np.asarray(wanted, np.float64)
    return got.shape == want.shape and bool(np.allclose(got, want, rtol=0, atol=TOLERANCE * np.abs(want).max(initial=1e-30)))


def rows_of(old: Path, **wanted: str) -> list[dict[str, str]]:
    """The manifest's rows with these values."""
    with open(old / "manifest.csv", newline="") as stream:
        return [row for row in csv.DictReader(stream) if all(row[key] == value for key, value in wanted.items())]


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> Path:
    rows = list(rows)
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def events_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(np.int64)


def check_prediction(made: Any, golden: dict[str, Any]) -> None:
    """A prediction is what 0.1.0 said."""
    for name in ("slide_id", "mode", "task", "label", "predicted_class", "positive"):
        assert getattr(made, name) == golden[name], name
    assert close(made.threshold, golden["threshold"])
    assert close(made.instance_scores, golden["instance_scores"]["values"])
    novelty = made.out_of_distribution
    assert (novelty is None) == (golden["distance"] is None)
    assert (made.probabilities is None) == (golden["probabilities"] is None)
    if novelty is not None:
        assert close([novelty.score], golden["distance"]["values"])
    if made.probabilities is not None:
        assert close(made.probabilities, golden["probabilities"]["values"])
    if np.abs(made.instance_scores - made.threshold).min(initial=1) > TOLERANCE:
        assert made.positive_instances == golden["positive_instances"]


def test_bags_read_and_check(cli: Cli) -> None:
    entries = {Path(entry["file"]).stem: entry for entry in json.loads(cli("bags", "check", OLD / "bags", "--json"))}
    assert entries.keys() == GOLDEN["bags"].keys()
    for slide, entry in entries.items():
        assert "error" not in entry
        with h5py.File(OLD / "bags" / f"{slide}.h5") as file:
            assert file.attrs["checksum"] == GOLDEN["bags"][slide]
            assert (entry["instances"], entry["dimension"]) == file["features"].shape
    assert entries["kidney-6"]["scales"] == {"1": 4}
    assert entries["colon-6"]["instances"] == 0


@RUNS
def test_a_run_predicts_as_it_did(old: Path, tmp_path: Path, name: str) -> None:
    answers = GOLDEN["runs"][name]["predict"]
    tests = {task: rows_of(old, task=task, split="test") for task in ("colon", "kidney")}
    for task, rows in [(None, [*tests["colon"], *tests["kidney"]]), *tests.items()]:
        manifest = write_rows(tmp_path / f"{task}.csv", rows)
        out = tmp_path / f"predictions-{task}"
        made = comel.predict(old / name, manifest, out, bags=old / "bags", task=task, width=256, device="cpu", quiet=True)
        golden = {one["slide_id"]: one for answer in answers.values() for one in answer.get(str(task), [])}
        assert len(made) == len(rows) == len(golden)
        for prediction in made:
            assert not isinstance(prediction, ComelError)
            check_prediction(prediction, golden[prediction.slide_id])
    (elsewhere,) = comel.predict(
        old / name, old / "bags/colon-4.h5", tmp_path / "elsewhere", task="kidney", width=256, device="cpu", quiet=True
    )
    check_prediction(elsewhere, GOLDEN["runs"][name]["elsewhere"])


@RUNS
def test_a_run_is_evaluated_as_it_was(old: Path, tmp_path: Path, name: str) -> None:
    golden, table = GOLDEN["runs"][name], tmp_path / "cases.csv"
    scores = comel.evaluate(
        old / name, old / "manifest.csv", old / "bags", tasks=["colon", "kidney"], table=table, device="cpu", quiet=True
    )
    for mode, kinds in golden["evaluate"].items():
        for kind, values in kinds.items():
            for score, value in values.items():
                assert scores["mean"][mode][kind][score] == pytest.approx(value, abs=1e-4), (mode, kind, score)
    with open(table, newline="") as stream:
        rows = {row["case_id"]: row for row in csv.DictReader(stream)}
    assert rows.keys() == golden["evaluate_cases"].keys()
    for case, answer in golden["evaluate_cases"].items():
        assert rows[case]["predicted"] == answer["predicted"]
        assert close([float(rows[case]["distance"])], answer["distance"]["values"])
        for prefix, values in (("p:", answer["probabilities"]), ("given:", answer["within"])):
            assert close([float(value) for key, value in rows[case].items() if key.startswith(prefix)], values["values"])


def test_a_changed_run_is_refused(old: Path, tmp_path: Path) -> None:
    path = old / "run/versions/002/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match="changed since it was written"):
        comel.predict(old / "run", old / "bags/colon-4.h5", tmp_path / "out", device="cpu", quiet=True)
    comel.predict(old / "run", old / "bags/colon-4.h5", tmp_path / "out", version=1, device="cpu", quiet=True)


def test_predict_writes_the_same_files(old: Path, tmp_path: Path, cli: Cli) -> None:
    folders = old / "predictions", tmp_path / "out"
    options = ("--width", 256, "--device", "cpu", "--quiet")
    cli("predict", old / "run", old / "bags/colon-4.h5", "--out", folders[1], *options)
    assert contents(folders[0]).keys() == contents(folders[1]).keys()
    before, after = (json.loads((folder / "colon-4.json").read_text()) for folder in folders)
    assert close(after["instances"].pop("scores"), before["instances"].pop("scores"))
    assert close(after.pop("probabilities"), before.pop("probabilities"))
    for mapping in (before, after):
        del mapping["request"], mapping["confidence"], mapping["instances"]["class_scores"]
        del mapping["out_of_distribution"]["score"]
    assert after == before
    shapes = [json.loads((folder / "colon-4.geojson").read_text())["features"] for folder in folders]
    assert [shape["geometry"] for shape in shapes[0]] == [shape["geometry"] for shape in shapes[1]]
    assert [shape["properties"].keys() for shape in shapes[0]] == [shape["properties"].keys() for shape in shapes[1]]
    maps = [pixels((folder / "colon-4.png").read_bytes()) for folder in folders]
    assert np.abs(maps[0] - maps[1]).mean() < 1
    tables = [(folder / "predictions.csv").read_text().splitlines() for folder in folders]
    assert tables[0][0] == tables[1][0]


REWORDED = {
    "on a task that is not learned yet": "on a task not yet learned",
    "unlike all that was learned": "unlike anything learned",
    "A larger share says that they differ": "A larger share indicates that they differ",
    "training cases, such as in scanner or stain": "training cases, for example in scanner or stain",
    "What the model reports of itself": "Measures that the model reports",
    "8 a tile": "8 per tile",
}
"""What the report of 0.1.0 says, and how it is said today."""


def test_the_report_is_the_same(old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old / "run")
    written = comel.report(Path("../run"), tmp_path / "report.html", quiet=True)
    pages: list[Any] = []
    pictures: list[Any] = []
    for text in (written.read_text(encoding="utf-8"), (old / "report.html").read_text(encoding="utf-8")):
        pictures.append([pixels(base64.b64decode(found)) for found in re.findall(r"data:image/png;base64,([^\"]+)", text)])
        text = re.sub(r"data:image/png;base64,[^\"]+", "", text).replace(str(old / "run"), "taken out")
        for before, today in REWORDED.items():
            text = text.replace(before, today)
        page = tmp_path / f"{len(pages)}.html"
        page.write_text(re.sub(r"(, of this report</th><td>)[^<]*", r"\1", text), encoding="utf-8")
        pages.append(Page(page).parts)
    assert len(pages[0]) > 3000
    assert pages[0] == pages[1]
    assert len(pictures[0]) == len(pictures[1]) == 4
    assert all(np.abs(one - other).mean() < 1 for one, other in zip(*pictures, strict=True))


@RUNS
def test_a_run_learns_another_task(old: Path, tmp_path: Path, name: str) -> None:
    before = contents(old / name / "versions")
    comel.add_task(old / name, old / "manifest.csv", old / "bags", tasks=["liver"], overrides=["trainer.epochs=1"], quiet=True)
    after = contents(old / name / "versions")
    assert {path: after[path] for path in before} == before
    assert (old / name / "current").read_text() == "3\n"
    metrics = json.loads((old / name / "metrics.json").read_text())
    assert metrics["tasks"] == ["colon", "kidney", "liver"]
    assert [stage["version"] for stage in metrics["stages"]] == [1, 2, 3]
    for version, tasks in ((2, {"colon", "kidney"}), (3, {"colon", "kidney", "liver"})):
        bag, out = old / "bags/kidney-6.h5", tmp_path / str(version)
        (made,) = comel.predict(old / name, bag, out, version=version, device="cpu", quiet=True)
        assert not isinstance(made, ComelError)
        if name == "run":
            assert {entry.partition("/")[0] for entry in made.classes} == tasks
        if version == 2:
            check_prediction(made, GOLDEN["runs"][name]["predict"]["kidney-6"]["None"][0])


def plan_of_0_1_0(run: Path) -> str:
    """What 0.1.0 calls the plan of a run whose settings name the data relative to the run; never changes."""
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    for key in ("device", "threads", "checkpoint_seconds"):
        del values["trainer"][key]
    del values["data"]["cache_gib"]
    for key in ("manifest", "bags"):
        values["data"][key] = str((run / values["data"][key]).resolve())
    content = hashlib.sha256(Path(values["data"]["manifest"]).read_bytes()).hexdigest()
    return sha256_of_json([values, content])


def sha256_of_json(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def at_its_new_place(run: Path) -> Path:
    """An unfinished run as 0.1.0 would have written it here: a plan holds absolute paths."""
    plan = plan_of_0_1_0(run)
    events = [event | ({"plan": plan} if "plan" in event else {}) for event in events_of(run)]
    (run / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    progress = json.loads((run / "checkpoint/progress.json").read_text(encoding="utf-8"))
    (run / "checkpoint/progress.json").write_text(json.dumps(progress | {"plan": sha256_of_json([plan, 0])}), encoding="utf-8")
    return run


def test_a_killed_run_goes_on(old: Path, cli: Cli) -> None:
    run, golden = at_its_new_place(old / "interrupted"), GOLDEN["interrupted"]
    before, first = len(events_of(run)), contents(run / "versions/001")
    cli("train", "--out", run, "--resume", "--quiet")
    assert contents(run / "versions/001") == first
    start, *others = events_of(run)[before:]
    assert (start["event"], start["done"], start["checkpoint"]) == ("start", 1, [1, golden["killed_after"]])
    epochs = [event for event in others if event["event"] == "epoch"]
    wanted = [epoch for epoch in golden["epochs"] if epoch["epoch"] >= golden["killed_after"]]
    assert [epoch["epoch"] for epoch in epochs] == [epoch["epoch"] for epoch in wanted]
    for epoch, want in zip(epochs, wanted, strict=True):
        assert epoch["validation_ce"] == pytest.approx(want["validation_ce"], rel=1e-2)
        assert epoch["losses"] == pytest.approx(want["losses"], rel=1e-2, abs=1e-3)
    got, end = (load_file(path) for path in (run / "versions/002/model.safetensors", old / "interrupted-end.safetensors"))
    assert got.keys() == end.keys()
    for tensor, values in end.items():
        assert close(got[tensor], values), tensor
    assert not [path.name for path in run.iterdir() if path.name.startswith(("checkpoint", "early-stopping"))]


def test_the_database_migrates_and_the_service_goes_on(old: Path, tmp_path: Path, cli: Cli) -> None:
    state, golden = old / "state", GOLDEN["service"]
    cli("db", "upgrade", "--state", state)
    cli("db", "backup", tmp_path / "rows.jsonl.gz", "--state", state)
    with gzip.open(tmp_path / "rows.jsonl.gz", "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    tables = [row["table"] for row in rows if "table" in row]
    counts = {"jobs": 3, "predictions": 1, "uploads": 1, "idempotency_keys": 1, "deliveries": 1}
    assert {table: tables.count(table) for table in counts} == counts

    settings = ServiceSettings(runs={"toy": old / "run"}, state_dir=state, device="cpu", workers=0, sync_max_instances=0)
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {golden['key']}"}) as client:
        assert client.get("/v1/jobs", headers={"Authorization": "Bearer another"}).status_code == 401
        for kind in ("jobs", "predictions"):
            items = client.get(f"/v1/{kind}").json()["items"]
            assert [{key: item[key] for key in want} for item, want in zip(items, golden[kind], strict=True)] == golden[kind]
        upload = {key: value for key, value in golden["upload"].items() if key != "expires"}  # it lay too far ahead to be true
        assert client.get(f"/v1/uploads/{upload['id']}").json().items() >= upload.items()
        this = f"/v1/predictions/{golden['done']}"
        answer = client.get(this).json()
        assert {key: answer[key] for key in ("id", "prediction", "instances")} == {
            key: golden["answer"][key] for key in ("id", "prediction", "instances")
        }
        assert client.get(f"{this}/bag.h5").content == (old / "bags/liver-1.h5").read_bytes()
        assert pixels(client.get(f"{this}/map.png").content).size
        (model,) = client.get("/v1/models").json()["items"]
        assert (model["version"], model["pinned"]) == (2, True)
