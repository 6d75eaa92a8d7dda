"""The application as a whole: its description, the model it shows, its settings, and how it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from comel.errors import ConfigError
from service.app import create_app, open_predictor
from service.problems import without_paths
from service.schemas import SlideRequest
from service.settings import ServiceSettings


def references(value: Any) -> list[str]:
    """Every ``$ref`` in a schema."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in references(part)]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_the_model_is_described(client: TestClient) -> None:
    body = client.get("/v1/model").json()
    assert (body["run"], body["version"], body["classes"]) == ("run-1", 4, ["breast/normal", "breast/tumour"])
    assert body["contract"]["encoder"] == "fake-encoder"
    assert body["tasks"][0]["negative"] == "normal"
    assert "Research use only" in body["notice"]


def test_openapi_is_whole_and_says_what_it_is_for(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "Research use only" in document["info"]["description"]
    assert set(document["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/model",
        "/v1/predictions",
        "/v1/predictions/{identifier}",
        "/v1/predictions/{identifier}/instances",
        "/v1/predictions/{identifier}/map.png",
        "/v1/predictions/{identifier}/map.geojson",
    }
    found = references(document)
    assert found
    for reference in found:
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    assert all(operation["summary"] and operation["responses"] for operation in operations)
    content = document["paths"]["/v1/predictions"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    SlideRequest.model_validate(content["application/json"]["example"])
    refused = document["paths"]["/v1/predictions"]["post"]["responses"]
    assert {"201", "404", "413", "415", "422"} <= set(refused)
    assert list(refused["422"]["content"]) == ["application/problem+json"]


def test_the_documentation_page_opens(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200


def test_unknown_places_and_methods_are_problems(client: TestClient) -> None:
    for answer, status in ((client.get("/v1/nothing"), 404), (client.delete("/v1/predictions"), 405)):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMEL_RUN", "runs/demo")
    monkeypatch.setenv("COMEL_PORT", "9000")
    settings = ServiceSettings()
    assert (settings.run, settings.port, settings.host) == (Path("runs/demo"), 9000, "127.0.0.1")


def test_folders_are_looked_at_before_anything_listens(settings: ServiceSettings, tmp_path: Path) -> None:
    pytest.importorskip("comel.predictor", reason="the predictor is not there yet")
    with pytest.raises(ConfigError, match="slide folder"):
        open_predictor(settings.model_copy(update={"slide_root": tmp_path / "missing"}))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state folder"):
        open_predictor(settings.model_copy(update={"state_dir": tmp_path / "file" / "state"}))


def test_the_service_needs_its_lifespan_only_for_the_model(settings: ServiceSettings) -> None:
    assert create_app(settings).title == "CoMEL"


@given(st.lists(st.text("ab.-é ", min_size=1, max_size=8).filter(lambda part: part.strip(". ")), min_size=1, max_size=4))
def test_no_server_path_is_told(parts: list[str]) -> None:
    root = Path("/srv/co mel/state")
    inside = "/".join(parts)
    assert without_paths(f"{root}/{inside}: bad, {root}", [root]) == f"{inside}: bad, "
    assert without_paths(f"{root}/uploads/tmp12/{inside}: bad", [root]) == f"{inside}: bad"
    assert without_paths(f"{root}x/{inside}", [root]) == f"{root}x/{inside}"


def test_relative_folders_are_cut_from_paths_and_not_from_prose() -> None:
    roots = [Path("run"), Path()]
    assert without_paths("run/versions/1: damaged, run it again.", roots) == "versions/1: damaged, run it again."
    assert without_paths(f"{Path('run').absolute()}/current: missing", roots) == "current: missing"
