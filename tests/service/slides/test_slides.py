"""Slides named in requests: only those below the slide folder, extracted as the model's features were made."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from comel.bags.contract import FeatureContract
from comel.errors import ComelError
from pipelines.patch_encoders.base import PatchEncoder
from service.errors import NotFoundError
from service.settings import ServiceSettings
from service.slides.folders import resolve_slide
from tests.places import REAL_DATA
from tests.service.answers import ended
from tests.service.in_process import app_with

REAL_SLIDE = REAL_DATA / "wsi" / "CMU-1-Small-Region.svs"


class FakeEncoder(PatchEncoder):
    """A tile's first feature is how dark it is."""

    name, dimension, weights_hash, recipe, input_size, device = "fake-encoder", 8, "a" * 64, "darkness", 64, "cpu"

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        features = np.zeros((len(tiles), 8), np.float32)
        features[:, 0] = 1 - tiles.mean(axis=(1, 2, 3)) / 255
        return features


def check_tiles(client: TestClient, body: dict[str, Any]) -> None:
    """The strongest tiles' pictures are the slide's pixels at their places."""
    tiles = client.get(body["links"]["tiles"]).json()["tiles"]
    assert [tile["score"] for tile in tiles] == sorted(body["instances"]["scores"], reverse=True)[:12]
    with openslide.OpenSlide(REAL_SLIDE) as slide:
        for tile in (tiles[0], tiles[-1]):
            picture = np.asarray(Image.open(io.BytesIO(client.get(tile["image"]).content)).convert("RGB"), float)
            size = (round(tile["width"]), round(tile["height"]))
            wanted = slide.read_region((tile["x"], tile["y"]), 0, size).convert("RGB").resize(picture.shape[:2])
            assert np.abs(picture - np.asarray(wanted, float)).mean() < 8


def ask(client: TestClient, slide: str, **more: Any) -> Any:
    return client.post("/v1/predictions", json={"slide": slide, **more})


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../run/x.svs", "a/../../x.svs", "..", "a\\..\\x.svs", "a\u0000.svs", "a\n.svs"]
)
def test_names_that_lead_outside_are_refused(client: TestClient, name: str) -> None:
    answer = ask(client, name)
    assert answer.status_code == 422
    assert "plain path" in answer.json()["detail"]


def test_links_that_lead_outside_are_refused_and_inside_are_not(tmp_path: Path) -> None:
    root, outside = tmp_path / "slides", tmp_path / "outside"
    for folder in (root, outside):
        folder.mkdir()
        (folder / "a.svs").write_bytes(b"x")
    (root / "in.svs").symlink_to(root / "a.svs")
    (root / "out.svs").symlink_to(outside / "a.svs")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    assert resolve_slide(root, "in.svs") == root / "a.svs"
    for name in ("out.svs", "folder/a.svs"):
        with pytest.raises(ComelError, match="outside"):
            resolve_slide(root, name)
    for name in ("missing.svs", "loop", ".", "a.svs/b", "x" * 500):
        with pytest.raises(NotFoundError, match="no such slide"):
            resolve_slide(root, name)


def test_a_missing_slide_is_404_and_no_folder_is_said(client: TestClient, settings: ServiceSettings, predictor: Any) -> None:
    answer = ask(client, "case/missing.svs")
    assert (answer.status_code, answer.json()["detail"]) == (404, "case/missing.svs: no such slide")
    with TestClient(app_with(settings.model_copy(update={"slide_roots": ()}), predictor)) as without:
        answer = ask(without, "a.svs")
        assert (answer.status_code, answer.json()["detail"]) == (422, "this service has no slide folder")


def test_what_is_no_slide_is_said_by_its_own_name(
    client: TestClient, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: FakeEncoder())
    (settings.slide_roots[0] / "text.svs").write_text("not a slide")
    job = ended(client, ask(client, "text.svs"))
    assert job["state"] == "failed"
    assert job["error"]["what"].startswith("text.svs: ")
    assert str(settings.slide_roots[0]) not in str(job)


def test_an_encoder_with_other_weights_is_refused(
    client: TestClient, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = FakeEncoder()
    encoder.weights_hash = "b" * 64
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: encoder)
    (settings.slide_roots[0] / "a.svs").write_text("x")
    assert "other weights" in ended(client, ask(client, "a.svs"))["error"]["what"]


def test_a_model_of_unknown_features_reads_no_slides(client: TestClient, settings: ServiceSettings, predictor: Any) -> None:
    predictor.contract = FeatureContract("fake-encoder", None, 8, None, None)
    (settings.slide_roots[0] / "a.svs").write_text("x")
    assert "send a bag instead" in ended(client, ask(client, "a.svs"))["error"]["remedy"]


def test_a_model_of_drawn_tissue_says_what_it_needs(client: TestClient, settings: ServiceSettings, predictor: Any) -> None:
    predictor.contract = FeatureContract("fake-encoder", None, 8, 0.5, 128, {"tissue": "mask"})
    (settings.slide_roots[0] / "a.svs").write_text("x")
    error = ended(client, ask(client, "a.svs"))["error"]
    assert "only with their tissue drawn by hand" in error["what"]
    assert "tissue_folder" in error["remedy"]
    assert "send a bag" in error["remedy"]


@pytest.mark.skipif(not REAL_SLIDE.exists(), reason="needs the real slide CMU-1-Small-Region.svs in ../shared/data/wsi")
def test_a_real_slide_is_extracted_predicted_and_mapped(
    settings: ServiceSettings, predictor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.extraction.contract.load_stated_encoder", lambda name, trust, device: FakeEncoder())
    predictor.contract = FeatureContract("fake-encoder", "a" * 64, 8, 0.5, 128)
    with TestClient(app_with(settings.model_copy(update={"slide_roots": (REAL_SLIDE.parent,)}), predictor)) as client:
        job = ended(client, ask(client, REAL_SLIDE.name))
        assert job["state"] == "done", job
        body = client.get(job["links"]["prediction"]).json()
        assert body["prediction"]["slide_id"] == "CMU-1-Small-Region"
        assert body["instances"]["count"] > 50
        assert body["slide"] == client.app.state.backend.slides.folders.id_of(REAL_SLIDE.resolve())  # type: ignore[attr-defined]
        check_tiles(client, body)
        picture = Image.open(io.BytesIO(client.get(body["links"]["map"], params={"width": 512}).content))
        assert picture.width == 512
        tissue = np.asarray(picture)[: int(512 * 2967 / 2220)]
        assert tissue.std() > 10
