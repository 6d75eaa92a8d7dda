"""The application as a whole: its description, the model it shows, its settings, and how it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from comel.errors import ConfigError
from service.app import create_app, open_models
from service.jobs.sources import SourceRequest
from service.paths import without_paths
from service.settings import ServiceSettings


def references(value: Any) -> list[str]:
    """Every ``$ref`` in a schema."""
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for part in value.values() for found in references(part)]
    return [found for part in value for found in references(part)] if isinstance(value, list) else []


def test_the_model_is_described(client: TestClient) -> None:
    body = client.get("/v1/models").json()
    (model,) = body["items"]
    assert (model["name"], model["default"], model["pinned"], model["refused"]) == ("breast", True, False, None)
    assert (model["run"], model["version"], model["classes"]) == ("run-1", 4, ["breast/normal", "breast/tumour"])
    assert model["contract"]["encoder"] == "fake-encoder"
    assert model["tasks"][0]["negative"] == "normal"
    assert "Research use only" in body["notice"]
    assert client.get("/v1/models/breast").json()["version"] == 4
    assert client.get("/v1/models/lung").status_code == 404


def test_openapi_is_whole_and_says_what_it_is_for(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    assert "Research use only" in document["info"]["description"]
    assert set(document["paths"]) == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/models/{name}/version",
        "/v1/predictions",
        "/v1/predictions/{identifier}",
        "/v1/predictions/{identifier}/instances",
        "/v1/predictions/{identifier}/map.png",
        "/v1/predictions/{identifier}/map.geojson",
        "/v1/predictions/{identifier}/tiles",
        "/v1/predictions/{identifier}/tiles/{rank}.jpg",
        "/v1/predictions/{identifier}/bag.h5",
        "/v1/predictions/{identifier}/raster.png",
        "/v1/predictions/{identifier}/raster.json",
        "/v1/slides",
        "/v1/slides/{slide}",
        "/v1/slides/{slide}/thumbnail.jpg",
        "/v1/slides/{slide}/tiles/{level}/{column}_{row}.jpg",
        "/v1/jobs",
        "/v1/jobs/{identifier}",
        "/v1/jobs/{identifier}/cancel",
        "/v1/uploads",
        "/v1/uploads/{identifier}",
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
    for example in content["application/json"]["examples"].values():
        SourceRequest.model_validate(example["value"])
    refused = document["paths"]["/v1/predictions"]["post"]["responses"]
    assert {"201", "404", "413", "415", "422"} <= set(refused)
    assert list(refused["422"]["content"]) == ["application/problem+json"]


def test_the_documentation_page_opens(client: TestClient) -> None:
    assert client.get("/docs").status_code == 200


def test_unknown_places_and_methods_are_problems(client: TestClient) -> None:
    for answer, status in ((client.get("/v1/nothing"), 404), (client.delete("/v1/jobs"), 405)):
        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMEL_RUNS", '{"lung": "runs/demo"}')
    monkeypatch.setenv("COMEL_PORT", "9000")
    settings = ServiceSettings()
    assert (settings.runs, settings.port, settings.host) == ({"lung": Path("runs/demo")}, 9000, "127.0.0.1")


def test_folders_are_looked_at_before_anything_listens(settings: ServiceSettings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no model.*comel serve --model"):
        open_models(settings.model_copy(update={"runs": {}}))
    with pytest.raises(ConfigError, match="slide folder"):
        open_models(settings.model_copy(update={"slide_roots": (tmp_path / "missing",)}))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state folder"):
        open_models(settings.model_copy(update={"state_dir": tmp_path / "file" / "state"}))


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
