"""Runs side by side, new versions without a failed request, rollback, and versions that are refused. With real runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

import comel
from comel.app.commands.inference import serve as serve_command
from comel.bags.bag import write_bag
from comel.bags.contract import FeatureContract
from comel.base.files import sha256_of_file
from comel.errors import ConfigError, RunError
from comel.prediction.predictor import Predictor
from service import app as application
from service.app import create_app
from service.errors import NotFoundError, NotReadyError
from service.served.registry import SPARE_VERSIONS, ModelRegistry
from service.settings import ServiceSettings
from tests.places import ROOT
from tests.service.runs import CONTRACT, DIMENSION, a_bag, a_cohort, a_run


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: ``colon``, ``kidney`` of other features, and ``both``, which is colon after an add-task: two versions."""
    folder = tmp_path_factory.mktemp("runs")
    other = FeatureContract("other", "cd" * 32, DIMENSION, 0.5, 64)
    a_run(folder, "colon", "colon")
    a_run(folder, "kidney", "kidney", other)
    shutil.copytree(folder / "colon", folder / "both")
    manifest = a_cohort(folder / "more", "kidney")
    comel.add_task(folder / "both", manifest, manifest.parent / "bags", quiet=True)
    return folder


@pytest.fixture
def runs(made: Path, tmp_path: Path) -> Path:
    """Copies of the runs, to change."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


@pytest.fixture
def settings(runs: Path, tmp_path: Path) -> ServiceSettings:
    named = {"colon": runs / "colon", "kidney": runs / "kidney"}
    return ServiceSettings(runs=named, state_dir=tmp_path / "state", device="cpu")


@pytest.fixture
def registry(settings: ServiceSettings) -> ModelRegistry:
    opened = ModelRegistry(settings)
    opened.open()
    return opened


@pytest.fixture
def served(registry: ModelRegistry, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(application, "WATCH_SECONDS", 0.05)
    with TestClient(create_app(settings, models=registry)) as client:
        yield client


def publish(made: Path, run: Path) -> None:
    """What ``comel add-task`` does last: a version by a rename, then ``current``."""
    shutil.copytree(made / "both" / "versions" / "002", run / "versions" / ".partial-002")
    (run / "versions" / ".partial-002").rename(run / "versions" / "002")
    shutil.copy(made / "both" / "metrics.json", run / "metrics.json")
    (run / "next").write_text("2\n")
    (run / "next").rename(run / "current")


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until something holds that another thread is to bring about."""
    done = threading.Event()
    for _ in range(1200):
        if holds():
            return
        done.wait(0.05)
    raise AssertionError("it did not come about in a minute")


def bag_file(folder: Path, organ: str = "colon", contract: FeatureContract = CONTRACT) -> bytes:
    write_bag(folder / "asked.h5", a_bag(organ, "tumour", "asked", contract))
    return (folder / "asked.h5").read_bytes()


def test_each_model_answers_with_its_own_run(registry: ModelRegistry, runs: Path) -> None:
    assert registry.names == ["colon", "kidney"]
    assert registry.get() is registry.get("colon")
    assert list(registry.get("kidney").class_names) == ["kidney/normal", "kidney/tumour"]
    expected = Predictor.open(runs / "colon", device="cpu").predict(a_bag("colon", "tumour", "x"))
    found = registry.get("colon").predict(a_bag("colon", "tumour", "x"))
    np.testing.assert_array_equal(found.probabilities, expected.probabilities)
    with pytest.raises(NotFoundError, match="no model"):
        registry.get("lung")
    with pytest.raises(RunError, match="no version 7"):
        registry.get("colon", 7)


def test_a_new_version_answers_without_a_failed_request(served: TestClient, made: Path, runs: Path, tmp_path: Path) -> None:
    """Several clients hammer the service all the while; each answer is whole, and of one version."""
    content, stop = bag_file(tmp_path), threading.Event()
    seen: list[tuple[int, Any]] = []

    def hammer() -> None:
        while not stop.is_set():
            answer = served.post("/v1/predictions", files={"bag": ("asked.h5", content)})
            seen.append((answer.status_code, answer.json().get("prediction")))

    clients = [threading.Thread(target=hammer) for _ in range(3)]
    for client in clients:
        client.start()
    try:
        eventually(lambda: len(seen) > 5)
        publish(made, runs / "colon")
        eventually(lambda: bool(seen[-1][1]) and seen[-1][1]["model"]["version"] == 2)
        after = len(seen)
        eventually(lambda: len(seen) > after + 5)
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert {status for status, _ in seen} == {201}
    assert {(said["model"]["version"], len(said["probabilities"])) for _, said in seen} == {(1, 2), (2, 4)}
    model = served.get("/v1/models/colon").json()
    assert (model["version"], model["pinned"], model["classes"][-1]) == (2, False, "kidney/tumour")
    newest, oldest = model["versions"]
    assert (newest["version"], newest["tasks"], newest["answers"], newest["loaded"]) == (2, ["colon", "kidney"], True, True)
    assert (oldest["tasks"], oldest["adapters"], oldest["answers"]) == (["colon"], [], False)
    assert newest["adapters"] == ["002-kidney"]  # the first task trains the whole network
    assert set(newest["metrics"]["bag"]["class_incremental"]["accuracy"]) == {"colon", "kidney"}
    assert 'comel_model_info{model="colon"' in (text := served.get("/metrics").text)
    assert 'version="1"' not in "".join(line for line in text.splitlines() if 'model="colon"' in line)


def test_an_answer_under_way_ends_on_its_version(registry: ModelRegistry, made: Path, runs: Path) -> None:
    held = registry.get("colon")
    publish(made, runs / "colon")
    assert [state.version for state in registry.refresh()] == [2]
    assert registry.get("colon").version == 2
    assert held.predict(a_bag("colon", "tumour", "x")).model["version"] == 1


def test_rolling_back_lasts_over_a_restart_and_ends(
    served: TestClient, made: Path, runs: Path, settings: ServiceSettings
) -> None:
    publish(made, runs / "colon")
    eventually(lambda: served.get("/v1/models/colon").json()["version"] == 2)
    back = served.post("/v1/models/colon/version", json={"version": 1})
    assert (back.status_code, back.json()["version"], back.json()["pinned"]) == (200, 1, True)
    again = ModelRegistry(settings)
    again.open()
    assert (again.state("colon").version, again.state("colon").pinned, again.refresh()) == (1, True, [])
    follows = served.post("/v1/models/colon/version", json={"version": None}).json()
    assert (follows["version"], follows["pinned"]) == (2, False)
    line = json.loads((settings.state_dir / "audit.jsonl").read_text().splitlines()[-1])
    assert (line["action"], line["model"], line["outcome"]) == ("model", "colon", "done")


def damage(folder: Path) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def test_a_damaged_version_is_refused_said_and_taken_once_repaired(
    served: TestClient, made: Path, runs: Path, tmp_path: Path
) -> None:
    publish(made, runs / "colon")
    folder = runs / "colon" / "versions" / "002"
    eventually(lambda: served.get("/v1/models/colon").json()["version"] == 2)
    assert served.post("/v1/models/colon/version", json={"version": 1}).status_code == 200
    shutil.copytree(folder, runs / "colon" / "versions" / "003")
    third = runs / "colon" / "versions" / "003"
    description = json.loads((third / "model.json").read_text()) | {"version": 3}
    (third / "model.json").write_text(json.dumps(description))
    (runs / "colon" / "current").write_text("3\n")
    for version in (3, 9):
        refused = served.post("/v1/models/colon/version", json={"version": version})
        assert refused.status_code == 422
        assert str(runs) not in refused.text
    assert served.post("/v1/models/colon/version", json={"version": None}).status_code == 422
    assert served.get("/v1/models/colon").json()["pinned"]  # nothing has changed
    assert served.post("/v1/models/colon/version", json={"version": 2}).status_code == 200
    (served.app.state.settings.state_dir / "models.json").unlink()  # type: ignore[attr-defined]
    eventually(lambda: served.get("/v1/models/colon").json()["refused"] is not None)
    model = served.get("/v1/models/colon").json()
    assert (model["version"], model["refused"]["version"]) == (2, 3)
    assert "missing or changed" in model["refused"]["reason"]
    assert str(runs) not in json.dumps(model)
    ready = served.get("/readyz")
    assert ready.status_code == 200
    (warning,) = ready.json()["warnings"]
    assert warning.startswith("model colon: version 3 cannot be used, version 2 answers: versions/003/")
    assert "missing or changed" in warning
    assert str(runs) not in warning
    assert 'comel_model_refused{model="colon"} 1.0' in served.get("/metrics").text
    assert served.post("/v1/predictions", files={"bag": ("a.h5", bag_file(tmp_path))}).status_code == 201
    checksums = json.loads((third / "checksums.json").read_text())
    checksums["model.json"] = sha256_of_file(third / "model.json")
    (third / "checksums.json").write_text(json.dumps(checksums))
    eventually(lambda: served.get("/v1/models/colon").json()["version"] == 3)
    assert served.get("/v1/models/colon").json()["refused"] is None
    assert served.get("/readyz").json()["warnings"] == []


def test_a_version_for_other_features_is_refused(registry: ModelRegistry, runs: Path) -> None:
    shutil.rmtree(runs / "colon" / "versions" / "001")
    shutil.copytree(runs / "kidney" / "versions" / "001", runs / "colon" / "versions" / "001")
    shutil.copytree(runs / "kidney" / "versions" / "001", runs / "colon" / "versions" / "002")
    folder = runs / "colon" / "versions" / "002"
    (folder / "model.json").write_text(json.dumps(json.loads((folder / "model.json").read_text()) | {"version": 2}))
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums["model.json"] = sha256_of_file(folder / "model.json")
    (folder / "checksums.json").write_text(json.dumps(checksums))
    (runs / "colon" / "current").write_text("2\n")
    (state,) = registry.refresh()
    assert state.version == 1
    assert state.refusal is not None
    assert "encoder other instead of toy" in state.refusal.what
    assert registry.refresh() == []


def test_a_service_starts_with_the_version_that_answered_last(made: Path, runs: Path, settings: ServiceSettings) -> None:
    ModelRegistry(settings).open()
    publish(made, runs / "colon")
    damage(runs / "colon" / "versions" / "002")
    again = ModelRegistry(settings)
    again.open()
    state = again.state("colon")
    assert (state.version, state.refusal and state.refusal.version) == (1, 2)
    (settings.state_dir / "models.json").unlink()
    forgetful = ModelRegistry(settings)
    forgetful.open()
    assert (forgetful.state("colon").version, forgetful.state("kidney").version) == (None, 1)
    with pytest.raises(NotReadyError, match="missing or changed"):
        forgetful.get("colon")
    (settings.state_dir / "models.json").write_text("[1]")
    with pytest.raises(ConfigError, match="cannot be read"):
        ModelRegistry(settings).open()


def test_few_versions_stay_in_memory(registry: ModelRegistry, runs: Path) -> None:
    versions = runs / "colon" / "versions"
    for number in range(2, 8):
        shutil.copytree(versions / "001", versions / f"{number:03d}")
        description = json.loads((versions / "001" / "model.json").read_text()) | {"version": number}
        (versions / f"{number:03d}" / "model.json").write_text(json.dumps(description))
        checksums = json.loads((versions / "001" / "checksums.json").read_text())
        checksums["model.json"] = sha256_of_file(versions / f"{number:03d}" / "model.json")
        (versions / f"{number:03d}" / "checksums.json").write_text(json.dumps(checksums))
        assert registry.get("colon", number).version == number
    loaded = [number for number in range(1, 8) if registry.is_loaded("colon", number)]
    assert loaded == [1, *range(8 - SPARE_VERSIONS, 8)]
    assert registry.is_loaded("kidney", 1)


def test_predicting_imports_no_adapter_library(runs: Path, tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from service.served.registry import ModelRegistry
from service.settings import ServiceSettings
models = ModelRegistry(ServiceSettings(runs={"both": Path(sys.argv[1])}, state_dir=Path(sys.argv[2]), device="cpu"))
models.open()
print(models.get().version, [name for name in ("peft", "transformers", "accelerate") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(runs / "both"), str(tmp_path / "s")],
        capture_output=True, text=True, timeout=240, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "2 []\n", done.stderr


def test_models_are_named_on_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[ServiceSettings] = []
    monkeypatch.setattr(application, "serve", told.append)
    serve_command(model=[str(tmp_path / "a"), f"lung={tmp_path / 'b'}"])
    assert told[0].runs == {"a": tmp_path / "a", "lung": tmp_path / "b"}
    with pytest.raises(ConfigError, match="two models are called 'a'"):
        serve_command(model=[str(tmp_path / "a"), str(tmp_path / "other" / "a")])
    with pytest.raises(ConfigError, match="runs"):
        serve_command(model=[f"../x={tmp_path}"])
