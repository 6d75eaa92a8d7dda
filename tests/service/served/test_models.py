"""Runs side by side, new versions without a failed request, rollback, and versions that are refused. With real runs."""

from __future__ import annotations

import errno
import json
import os
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
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import comel
from comel.app.cli import app as cli
from comel.bags.bag import write_bag
from comel.bags.contract import FeatureContract
from comel.base.files import sha256_of_file
from comel.errors import ConfigError, RunError
from comel.prediction.predictor import Predictor
from service import app as application
from service.app import create_app
from service.errors import NotFoundError, NotReadyError
from service.served import choice
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
    for _ in range(12_000):
        if holds():
            return
        done.wait(0.05)
    raise AssertionError("it did not come about in ten minutes")


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
        capture_output=True, text=True, timeout=600, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.stdout == "2 []\n", done.stderr


def test_models_are_named_on_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[ServiceSettings] = []
    monkeypatch.setattr(application, "serve", told.append)

    def serve(*models: str) -> None:
        words = [word for model in models for word in ("--model", model)]
        CliRunner().invoke(cli, ["serve", *words], catch_exceptions=False)

    serve(str(tmp_path / "a"), f"lung={tmp_path / 'b'}")
    assert told[0].runs == {"a": tmp_path / "a", "lung": tmp_path / "b"}
    with pytest.raises(ConfigError, match="two models are called 'a'"):
        serve(str(tmp_path / "a"), str(tmp_path / "other" / "a"))
    with pytest.raises(ConfigError, match="runs"):
        serve(f"../x={tmp_path}")


def rewritten(name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change a JSON file of a version, with a checksum that is right for it."""

    def damage(folder: Path) -> None:
        path = folder / name
        changed = change(json.loads(path.read_text()))
        path.write_bytes(changed if isinstance(changed, bytes) else json.dumps(changed).encode())
        sign(folder)

    return damage


def sign(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "checksums.json")
    checksums = {str(path.relative_to(folder)): sha256_of_file(path) for path in files}
    (folder / "checksums.json").write_text(json.dumps(checksums))


def overwritten(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)
        if name != "checksums.json":
            sign(folder)

    return damage


def in_place_of_a_file(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def spoil(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    spoilt = {name: np.full_like(array, value) if array.dtype.kind == "f" else array for name, array in weights.items()}
    save_file(spoilt, folder / "model.safetensors")
    sign(folder)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "no description": lambda folder: (folder / "model.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no checksums": lambda folder: (folder / "checksums.json").unlink(),
    "description: no JSON": overwritten("model.json", b"{"),
    "description: nested without end": overwritten("model.json", b"[" * 99_999),
    "description: no text": overwritten("model.json", b"\xff\xfe"),
    "description: a list": overwritten("model.json", b"[]"),
    "description: nothing": overwritten("model.json", b""),
    "description: no mapping inside": rewritten("model.json", lambda value: value | {"model": []}),
    "description: a model without heads": rewritten("model.json", lambda value: value | {"model": {"name": "abmil"}}),
    "description: another version": rewritten("model.json", lambda value: value | {"version": 9}),
    "description: not a feature contract": rewritten("model.json", lambda value: value | {"contract": {"a": 1}}),
    "description: a contract of other kinds": rewritten(
        "model.json", lambda value: value | {"contract": value["contract"] | {"dimension": "eight"}}
    ),
    "description: tasks of no head": rewritten(
        "model.json", lambda value: value | {"tasks": [value["tasks"][0] | {"head": 10**9}]}
    ),
    "weights: no numbers": lambda folder: spoil(folder, float("nan")),
    "weights: without end": lambda folder: spoil(folder, float("inf")),
    "weights: none": overwritten("model.safetensors", b""),
    "weights: a header without end": overwritten("model.safetensors", b"\xff" * 8),
    "weights: no tensors": overwritten("model.safetensors", (2).to_bytes(8, "little") + b"{}"),
    "weights: a folder": in_place_of_a_file("model.safetensors"),
    "checksums: a list": overwritten("checksums.json", b"[]"),
    "checksums: a number": overwritten("checksums.json", b"7"),
    "checksums: no JSON": overwritten("checksums.json", b"{"),
    "checksums: nested without end": overwritten("checksums.json", b"[" * 99_999),
    "checksums: numbers inside": overwritten("checksums.json", b'{"model.json": 7}'),
    "checksums: of what is elsewhere": overwritten("checksums.json", b'{"../../../../etc/passwd": "x"}'),
    "checksums: a folder": in_place_of_a_file("checksums.json"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_whatever_is_wrong_with_a_version_is_its_refusal_alone(
    name: str, made: Path, runs: Path, settings: ServiceSettings
) -> None:
    """The old version serves, the other model takes its new one, and a restart comes up."""
    registry = ModelRegistry(settings)
    registry.open()
    publish(made, runs / "colon")
    DAMAGE[name](runs / "colon" / "versions" / "002")
    second = runs / "kidney" / "versions" / "002"
    shutil.copytree(runs / "kidney" / "versions" / "001", second)
    rewritten("model.json", lambda value: value | {"version": 2})(second)
    (runs / "kidney" / "current").write_text("2\n")
    for again in (registry, ModelRegistry(settings)):
        again.refresh() if again is registry else again.open()
        colon, kidney = again.state("colon"), again.state("kidney")
        assert (colon.version, kidney.version, kidney.refusal) == (1, 2, None)
        assert colon.refusal is not None
        assert (colon.refusal.version, bool(colon.refusal.what)) == (2, True)
        assert again.get("colon").predict(a_bag("colon", "tumour", "x")).model["version"] == 1
        assert again.refresh() == []  # it is not tried again and again


@pytest.mark.parametrize("content", [b"", b"x", b"\xff", b"-1", b"9", b"9" * 5000, b"1e3", b"0", None])
def test_a_run_that_does_not_say_its_version_goes_on_with_the_one_that_answers(
    content: bytes | None, runs: Path, settings: ServiceSettings
) -> None:
    registry = ModelRegistry(settings)
    registry.open()
    (runs / "colon" / "current").unlink()
    if content is None:
        (runs / "colon" / "current").mkdir()
    else:
        (runs / "colon" / "current").write_bytes(content)
    assert [state.name for state in registry.refresh()] == ["colon"]
    again = ModelRegistry(settings)
    again.open()
    for one in (registry, again):
        state = one.state("colon")
        assert (state.version, state.refusal is None) == (1, False)
        assert one.get("colon").version == 1
    if content is None:
        (runs / "colon" / "current").rmdir()
    (runs / "colon" / "current").write_text("1\n")
    assert [state.refusal for state in registry.refresh()] == [None]


def test_a_model_without_a_version_that_can_be_used_is_said_and_the_others_answer(
    runs: Path, settings: ServiceSettings, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(application, "WATCH_SECONDS", 0.05)
    damage(runs / "colon" / "versions" / "001")
    named = settings.model_copy(update={"runs": {"kidney": runs / "kidney", "colon": runs / "colon"}})
    registry = ModelRegistry(named)
    registry.open()
    with TestClient(create_app(named, models=registry)) as client:
        listed = client.get("/v1/models").json()
        assert [model["name"] for model in listed["items"]] == ["kidney"]
        (unusable,) = listed["unusable"]
        assert (unusable["name"], unusable["refused"]["version"]) == ("colon", 1)
        assert "missing or changed" in unusable["refused"]["reason"]
        assert str(runs) not in json.dumps(listed)
        asked = client.get("/v1/models/colon")
        assert (asked.status_code, "missing or changed" in asked.json()["detail"]) == (503, True)
        files = {"bag": ("a.h5", bag_file(tmp_path))}
        assert client.post("/v1/predictions", files=files, data={"model": "colon"}).status_code == 503
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "model colon: version 1 cannot be used, none answers: " in ready.json()["warnings"][0]
        text = client.get("/metrics").text
        assert 'comel_model_refused{model="colon"} 1.0' in text
        (reason,) = (line for line in text.splitlines() if line.startswith("comel_model_refused_info{"))
        assert "missing or changed" in reason
        assert str(runs) not in text
        assert 'comel_model_info{model="colon"' not in text
        # Repaired, it answers without a restart; another version may be chosen before.
        publish(made, runs / "colon")
        eventually(lambda: client.get("/v1/models/colon").status_code == 200)
        assert client.get("/v1/models/colon").json()["version"] == 2
        eventually(lambda: "comel_model_refused_info{" not in client.get("/metrics").text)
        assert client.get("/readyz").json()["warnings"] == []


def test_a_service_none_of_whose_models_can_be_used_starts_where_it_has_served_before(
    runs: Path, settings: ServiceSettings
) -> None:
    ModelRegistry(settings).open()
    for name in ("colon", "kidney"):
        damage(runs / name / "versions" / "001")
    registry = ModelRegistry(settings)
    registry.open()
    with TestClient(create_app(settings, models=registry)) as client:
        ready = client.get("/readyz")
        assert (ready.status_code, "colon" in ready.json()["detail"]) == (503, True)
        assert client.get("/v1/predictions").status_code == 200
    (settings.state_dir / "models.json").unlink()
    with pytest.raises(RunError, match="missing or changed"):  # a first start: most likely a wrong path
        ModelRegistry(settings).open()


def test_a_version_whose_files_are_gone_cannot_be_chosen(made: Path, runs: Path, settings: ServiceSettings) -> None:
    """Though it is in memory still: the next start would not find it."""
    registry = ModelRegistry(settings)
    registry.open()
    publish(made, runs / "colon")
    registry.refresh()
    assert registry.is_loaded("colon", 1)
    shutil.rmtree(runs / "colon" / "versions" / "001")
    with pytest.raises(RunError, match="no version 1"):
        registry.choose("colon", 1)
    assert (registry.state("colon").version, registry.state("colon").pinned) == (2, False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_choice_that_cannot_be_written_down_changes_nothing(
    code: int, served: TestClient, made: Path, runs: Path, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(made, runs / "colon")
    eventually(lambda: served.get("/v1/models/colon").json()["version"] == 2)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(choice, "write_json", refuse)
        answer = served.post("/v1/models/colon/version", json={"version": 1})
        assert answer.status_code == (507 if code == errno.ENOSPC else 503)
        model = served.get("/v1/models/colon").json()
        assert (model["version"], model["pinned"]) == (2, False)
    assert served.post("/v1/models/colon/version", json={"version": 1}).json()["version"] == 1


def test_a_switch_that_the_audit_log_cannot_have_is_not_made(
    served: TestClient, made: Path, runs: Path, settings: ServiceSettings
) -> None:
    publish(made, runs / "colon")
    eventually(lambda: served.get("/v1/models/colon").json()["version"] == 2)
    (settings.state_dir / "audit.jsonl").unlink(missing_ok=True)
    (settings.state_dir / "audit.jsonl").mkdir()
    assert served.post("/v1/models/colon/version", json={"version": 1}).status_code == 503
    assert ModelRegistry(settings).state("colon").pinned is False
    assert served.app.state.models.state("colon").version == 2  # type: ignore[attr-defined]


def test_a_service_on_a_full_disk_starts_and_takes_new_versions(
    made: Path, runs: Path, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    registry = ModelRegistry(settings)
    with monkeypatch.context() as patch:
        patch.setattr(choice, "write_json", refuse)
        registry.open()
        publish(made, runs / "colon")
        assert [state.version for state in registry.refresh()] == [2]
    assert registry.refresh() == []
    assert choice.ModelChoices(settings.state_dir).read("colon").serving == 2  # written down when there was room
