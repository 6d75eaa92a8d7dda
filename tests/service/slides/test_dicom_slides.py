"""A folder of DICOM files below a slide folder is one slide, and says nothing of its patient."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from comel.bags.contract import FeatureContract
from comel.errors import ComelError
from service.logs import make_log
from service.settings import ServiceSettings
from service.slides.folders import resolve_slide
from tests.pipelines.vendor_slides import levels_of, write_dicom
from tests.service.answers import ended
from tests.service.in_process import app_with
from tests.service.slides.test_slides import FakeEncoder

PATIENT = b"a-patient-by-name"
SIDE = 1024


def tissue() -> np.ndarray:
    """White, with a textured purple square in the middle of its upper left quarter."""
    pixels = np.full((SIDE, SIDE, 3), 245, np.uint8)
    texture = np.random.default_rng(0).integers(-25, 25, (300, 300, 3))
    pixels[100:400, 100:400] = np.clip(np.array([150, 70, 140]) + texture, 0, 255)
    return pixels


@pytest.fixture
def series(settings: ServiceSettings) -> Path:
    """A series of two levels in ``case-7/series.1``, with a report beside them."""
    folder = settings.slide_roots[0] / "case-7" / "series.1"
    write_dicom(folder, levels_of(tissue()), (0.5, 0.5))
    (folder / "a-report.dcm").write_bytes(b"no image")
    return folder


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def client(
    settings: ServiceSettings, predictor: Any, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: FakeEncoder())
    predictor.contract = FeatureContract("fake-encoder", "a" * 64, 8, 0.5, 128)
    with TestClient(app_with(settings, predictor, log=make_log(log))) as opened:
        yield opened


def listed(client: TestClient) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = client.get("/v1/slides").json()["items"]
    return entries


def mean_colour(answer: Any, box: tuple[int, int, int, int]) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    colour: np.ndarray = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB").crop(box), float).mean(axis=(0, 1))
    return colour


def test_a_series_is_one_slide(client: TestClient, series: Path) -> None:
    (series.parent / "other.svs").write_bytes(b"x")
    assert [entry["name"] for entry in listed(client)] == ["other.svs", "series.1"]
    assert listed(client)[1]["size_bytes"] == sum(path.stat().st_size for path in series.iterdir())


def test_a_series_whose_files_have_no_suffix_is_one_slide(client: TestClient, series: Path) -> None:
    (series / "a-report.dcm").unlink()
    for number in (0, 1):
        (series / f"level-{number}.dcm").rename(series / f"1.2.840.99.{number}")
    (series.parent / "tables").mkdir()
    (series.parent / "tables" / "list.csv").write_text("slide_id,path\n")
    [entry] = listed(client)
    assert entry["name"] == "series.1"
    thumbnail = client.get(f"/v1/slides/{entry['id']}/thumbnail.jpg", params={"width": SIDE // 4})
    np.testing.assert_allclose(mean_colour(thumbnail, (30, 30, 95, 95)), [150, 70, 140], atol=8)


def test_its_pictures_are_of_its_pixels(client: TestClient, series: Path) -> None:
    [entry] = listed(client)
    place = f"/v1/slides/{entry['id']}"
    said = client.get(place).json()
    assert (said["name"], said["width"], said["height"], said["mpp_x"]) == ("series.1", SIDE, SIDE, 0.5)
    tile = client.get(f"{place}/tiles/{said['max_level']}/0_0.jpg")
    thumbnail = client.get(f"{place}/thumbnail.jpg", params={"width": SIDE // 4})
    for picture, scale in ((tile, 1), (thumbnail, 4)):
        near, far = 120 // scale, 380 // scale
        np.testing.assert_allclose(mean_colour(picture, (near, near, far, far)), [150, 70, 140], atol=8)
    write_dicom(series, levels_of(np.full((SIDE, SIDE, 3), 90, np.uint8)), (0.5, 0.5))
    changed = client.get(f"{place}/tiles/{said['max_level']}/0_0.jpg", headers={"If-None-Match": tile.headers["etag"]})
    np.testing.assert_allclose(mean_colour(changed, (120, 120, 380, 380)), [90, 90, 90], atol=3)


@pytest.mark.parametrize("named", ["id", "case-7/series.1", "case-7/series.1/level-1.dcm"])
def test_it_is_predicted_by_its_id_its_folder_or_one_of_its_files(client: TestClient, series: Path, named: str) -> None:
    [entry] = listed(client)
    job = ended(client, client.post("/v1/predictions", json={"slide": entry["id"] if named == "id" else named}))
    assert job["state"] == "done", job["error"]
    made = client.get(job["links"]["prediction"]).json()
    assert made["slide"] == entry["id"]
    assert made["prediction"]["slide_id"] == ("level-1" if named.endswith(".dcm") else "series.1")
    assert made["instances"]["coords"] == [[128, 128], [256, 128], [128, 256], [256, 256]]  # those within the square


def test_nothing_of_its_patient_is_served_logged_or_kept(
    client: TestClient, series: Path, settings: ServiceSettings, log: io.StringIO
) -> None:
    [entry] = listed(client)
    headers = pydicom.dcmread(series / "level-0.dcm", stop_before_pixels=True)
    secrets = [PATIENT, *(str(headers[name].value).encode() for name in ("SeriesInstanceUID", "StudyInstanceUID"))]
    job = ended(client, client.post("/v1/predictions", json={"slide": entry["id"]}))
    place = f"/v1/slides/{entry['id']}"
    answers = [client.get(path) for path in ("/v1/slides", place, f"{place}/thumbnail.jpg", "/v1/jobs", "/v1/predictions")]
    answers += [client.get(link) for link in client.get(job["links"]["prediction"]).json()["links"].values()]
    assert all(answer.status_code == 200 for answer in answers)
    kept = [path.read_bytes() for path in settings.state_dir.rglob("*") if path.is_file()]
    assert len(kept) > 5
    written = log.getvalue().encode()
    assert b"thumbnail.jpg" in written
    assert b"series.1" not in written
    for secret in secrets:
        assert not any(secret in content for content in [*kept, *(answer.content for answer in answers), written])


def test_a_folder_of_several_slides_names_a_file_of_each(client: TestClient, settings: ServiceSettings) -> None:
    folder = settings.slide_roots[0] / "mixed"
    for name in ("a", "b"):
        [file] = write_dicom(folder, [tissue()], (0.5, 0.5))
        file.rename(folder / f"{name}.dcm")
    [entry] = listed(client)
    answer = client.get(f"/v1/slides/{entry['id']}")
    assert answer.status_code == 422
    assert answer.json()["detail"] == "mixed: a folder of 2 slides"
    assert "a.dcm, b.dcm" in answer.json()["remedy"]
    assert ended(client, client.post("/v1/predictions", json={"slide": "mixed/b.dcm"}))["state"] == "done"


def test_links_make_no_slide(client: TestClient, series: Path, settings: ServiceSettings, tmp_path: Path) -> None:
    root, outside = settings.slide_roots[0], tmp_path / "outside"
    write_dicom(outside, [tissue()], (0.5, 0.5))
    (root / "linked").symlink_to(outside)
    (root / "linking").mkdir()
    (root / "linking" / "own.dcm").write_bytes((series / "level-0.dcm").read_bytes())
    (root / "linking" / "other").symlink_to(outside / "level-0.dcm")
    (root / "linking" / "unnamed").write_bytes((series / "level-0.dcm").read_bytes())
    [entry] = listed(client)
    assert entry["name"] == "series.1"
    for name, refusal in (
        ("linked", "outside"),
        ("linked/level-0.dcm", "outside"),
        ("linking", "no such"),
        ("linking/own.dcm", "no such"),
        ("linking/unnamed", "no such"),
    ):
        with pytest.raises(ComelError, match=refusal):
            resolve_slide(root, name)
    (series / "late.dcm").symlink_to(outside / "level-0.dcm")
    assert client.get(f"/v1/slides/{entry['id']}").status_code == 404
