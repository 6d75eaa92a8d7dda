"""What is written down: the audit log has who, what and which model; neither log nor answer has names of files or patients."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from comel.bags.contract import FeatureContract
from comel.errors import ConfigError
from service.access.audit import AuditLog
from service.access.keys import KeyStore
from service.errors import NotReadyError
from service.logs import make_log, route_library_logs
from service.settings import ServiceSettings
from tests.service.answers import ended
from tests.service.in_process import app_with
from tests.service.slides.test_slides import FakeEncoder

PATIENT = "DOE_JANE_1950"
LABEL_COLOUR = (255, 0, 255)


def audit_lines(settings: ServiceSettings) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (settings.state_dir / "audit.jsonl").read_text().splitlines()]


def pseudonym(settings: ServiceSettings, name: str) -> str:
    key = (settings.state_dir / "pseudonym.key").read_bytes()
    return hashlib.blake2b(name.encode(), key=key, digest_size=16).hexdigest()


def test_the_audit_log_says_who_predicted_what_with_which_model(
    settings: ServiceSettings, predictor: Any, make_bag: Any, send: Any, tmp_path: Path
) -> None:
    send(make_bag([0.1, 0.9], slide_id=PATIENT))
    content = (tmp_path / "sent.h5").read_bytes()
    (settings.state_dir / "audit.jsonl").unlink()
    key = KeyStore(settings.state_dir).add("ward-7", "predict")
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "asked-1"}
    with TestClient(app_with(settings, predictor)) as client:
        made = client.post("/v1/predictions", files={"bag": (f"{PATIENT}.h5", content)}, headers=headers).json()
        client.post("/v1/predictions", files={"bag": (f"{PATIENT}.h5", content[:900])}, headers=headers)
        for link in made["links"].values():
            assert client.get(link, headers=headers).status_code == 200
        client.get(f"/v1/predictions/{PATIENT}", headers=headers)
        client.get("/v1/predictions", headers=headers)
    lines = audit_lines(settings)
    assert all(line["key"] == "ward-7" and line["request"] == "asked-1" for line in lines)
    done, refused, *reads, unknown, listed = lines
    assert (done["action"], done["outcome"], done["prediction"]) == ("predict", "done", made["id"])
    assert (done["run"], done["version"]) == ("run-1", 4)
    assert done["slide"] == refused["slide"] == pseudonym(settings, PATIENT)
    assert (refused["outcome"], refused["reason"], refused["prediction"]) == ("refused", "BagError", None)
    assert [(line["action"], line["part"]) for line in reads] == [
        ("read", part) for part in ("prediction", "instances", "map.png", "map.geojson", "tiles", "bag.h5")
    ]
    assert {line["prediction"] for line in reads} == {made["id"]}
    assert (unknown["outcome"], unknown["prediction"]) == ("refused", None)
    assert (listed["action"], listed["part"], listed["outcome"]) == ("read", "list", "done")
    text = (settings.state_dir / "audit.jsonl").read_text()
    assert PATIENT not in text
    assert key not in text
    assert (settings.state_dir / "audit.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_failure_is_in_the_audit_log_too(settings: ServiceSettings, predictor: Any, make_bag: Any, send: Any) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(PATIENT)

    predictor.predict = fail
    assert send(make_bag([0.5])).status_code == 500
    (line,) = audit_lines(settings)
    assert (line["outcome"], line["reason"], line["prediction"]) == ("failed", "RuntimeError", None)


def test_no_prediction_is_given_out_that_the_audit_log_does_not_have(
    settings: ServiceSettings, make_bag: Any, send: Any
) -> None:
    assert send(make_bag([0.5])).status_code == 201
    (settings.state_dir / "audit.jsonl").unlink()
    (settings.state_dir / "audit.jsonl").mkdir()
    refused = send(make_bag([0.5]))
    assert (refused.status_code, "audit log" in refused.json()["detail"]) == (503, True)
    assert len(list((settings.state_dir / "predictions").iterdir())) == 1  # what was made is gone again


def test_the_audit_log_is_only_appended_to_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").write_text("before\n")
    log = AuditLog(tmp_path)
    log.record("read", key=None, outcome="done")
    first, second = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert (first, json.loads(second)["action"]) == ("before", "read")
    (tmp_path / "audit.jsonl").rename(tmp_path / "old.jsonl")
    (tmp_path / "audit.jsonl").symlink_to(tmp_path / "old.jsonl")
    with pytest.raises(NotReadyError, match="symbolic"):
        log.record("read", key=None, outcome="done")


def test_a_slide_has_one_pseudonym_a_state_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, again, other = AuditLog(tmp_path / "a"), AuditLog(tmp_path / "a"), AuditLog(tmp_path / "b")
    assert first.pseudonym("s") == again.pseudonym("s") != other.pseudonym("s")
    assert first.pseudonym("s") != first.pseudonym("t")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["pseudonym.key"]
    assert (tmp_path / "a" / "pseudonym.key").stat().st_mode & 0o777 == 0o600
    (tmp_path / "b" / "pseudonym.key").write_bytes(b"short")
    with pytest.raises(ConfigError, match="5 bytes"):
        AuditLog(tmp_path / "b")


def test_the_log_names_requests_and_no_files(settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path) -> None:
    from comel.bags.bag import write_bag

    write_bag(tmp_path / f"{PATIENT}.h5", make_bag([0.5], slide_id=PATIENT))
    (settings.slide_roots[0] / f"{PATIENT}.svs").write_text("not a slide")
    content = (tmp_path / f"{PATIENT}.h5").read_bytes()
    key = KeyStore(settings.state_dir).add("ward-7", "admin")
    headers = {"X-API-Key": key}
    stream = io.StringIO()
    with TestClient(app_with(settings, predictor, log=make_log(stream))) as client:
        client.post("/v1/predictions", files={"bag": (f"{PATIENT}.h5", content)}, headers=headers)
        client.post("/v1/predictions", files={"bag": (f"{PATIENT}.h5", content[:500])}, headers=headers)
        client.post("/v1/predictions", json={"slide": f"{PATIENT}.svs"}, headers=headers)
        client.get(f"/{PATIENT}?name={PATIENT}", headers=headers)
        client.get(f"/v1/predictions/{PATIENT}", headers={"X-API-Key": PATIENT, "X-Request-ID": f"{PATIENT}\n{PATIENT}"})

        def fail(*_: Any, **__: Any) -> Any:
            raise RuntimeError(f"cannot read {PATIENT}")

        predictor.predict = fail
        client.post("/v1/predictions", files={"bag": (f"{PATIENT}.h5", content)}, headers={**headers, "X-Request-ID": "r-9"})
    text = stream.getvalue()
    assert PATIENT not in text
    assert key not in text
    lines = [line for line in map(json.loads, text.splitlines()) if line["event"] == "request"]
    assert [line["status"] for line in lines] == [201, 422, 202, 404, 401, 500]
    assert [line["route"] for line in lines][:4] == [*["/v1/predictions"] * 3, "unmatched"]
    assert [line["key"] for line in lines] == ["ward-7", "ward-7", "ward-7", None, None, "ward-7"]
    assert lines[1]["refusal"] == "BagError"
    assert (lines[-1]["request"], lines[-1]["error"], lines[-1]["level"]) == ("r-9", "RuntimeError", "error")
    assert any(place.endswith("fail") for place in lines[-1]["places"])
    assert all({"event", "level", "timestamp", "milliseconds", "request", "method"} <= set(line) for line in lines)


def test_texts_of_libraries_stay_out_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, root = io.StringIO(), logging.getLogger()
    before = root.handlers, root.level
    try:
        route_library_logs(make_log(stream))
        logging.getLogger("shapely.geos").warning("bad tag in %s", PATIENT)
        logging.getLogger("shapely.geos").info("reading %s", PATIENT)
        logging.getLogger("uvicorn.error").info("Application startup complete.")
        try:
            raise OSError(PATIENT)
        except OSError:
            logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
    finally:
        root.handlers, root.level = before
        logging.captureWarnings(False)
    assert PATIENT not in stream.getvalue()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["logger"], line["level"]) for line in lines] == [
        ("shapely.geos", "warning"),
        ("uvicorn.error", "info"),
        ("uvicorn.error", "error"),
    ]
    assert lines[2]["error"] == "OSError"


def test_a_person_gets_text_and_a_machine_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    make_log(terminal).info("hello", request="r")
    assert "hello" in terminal.getvalue()
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(terminal.getvalue())


def write_aperio(path: Path) -> None:
    """A small slide with a label picture, and the patient in its description."""
    random = np.random.default_rng(0)
    tissue = np.full((1024, 1024, 3), 245, np.uint8)
    tissue[200:800, 200:800] = np.array((190, 90, 160)) + random.integers(-30, 30, (600, 600, 3))
    about = f"Aperio Image Library v12.0\r\n1024x1024 [0,0 1024x1024] (256x256)|AppMag = 20|MPP = 0.5|Patient = {PATIENT}"
    label = np.full((64, 96, 3), LABEL_COLOUR, np.uint8)
    with tifffile.TiffWriter(path) as file:
        file.write(tissue, tile=(256, 256), photometric="rgb", description=about, metadata=None)
        file.write(tissue[::8, ::8], photometric="rgb", description="Aperio Image Library v12.0\r\nthumbnail", metadata=None)
        for index, name in enumerate(("label", "macro")):
            text = f"Aperio Image Library v12.0\r\n{name} 96x64"
            file.write(label, photometric="rgb", description=text, metadata=None, subfiletype=1 + 8 * index)


def test_label_macro_and_patient_of_a_slide_are_never_served(
    settings: ServiceSettings, predictor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import openslide

    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: FakeEncoder())
    predictor.contract = FeatureContract("fake-encoder", "a" * 64, 8, 0.5, 64)
    write_aperio(settings.slide_roots[0] / "case-1.svs")
    with openslide.OpenSlide(settings.slide_roots[0] / "case-1.svs") as slide:
        assert set(slide.associated_images) >= {"label", "macro"}
        assert PATIENT in str(dict(slide.properties))
    stream = io.StringIO()
    with TestClient(app_with(settings, predictor, log=make_log(stream))) as client:
        job = ended(client, client.post("/v1/predictions", json={"slide": "case-1.svs"}))
        assert job["state"] == "done", job
        answer = client.get(job["links"]["prediction"])
        served = [answer.content, *(client.get(link).content for link in answer.json()["links"].values())]
        for name in ("label", "macro", "thumbnail.png", "prediction.json", "properties"):
            assert client.get(f"{answer.json()['links']['self']}/{name}").status_code == 404
    assert not any(PATIENT.encode() in content for content in served)
    kept = [path for path in settings.state_dir.rglob("*") if path.is_file()]
    assert kept
    assert not any(PATIENT.encode() in path.read_bytes() for path in kept)
    assert PATIENT not in stream.getvalue()
    pictures = [content for content in served if content.startswith(b"\x89PNG")]
    assert pictures
    for content in [*pictures, *(path.read_bytes() for path in kept if path.suffix == ".png")]:
        with Image.open(io.BytesIO(content)) as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
            assert not picture.info.keys() & {"comment", "Description", "exif"}
        assert np.abs(pixels - LABEL_COLOUR).max(axis=-1).min() > 30
