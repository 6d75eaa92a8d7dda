"""Health, metrics, headers, request ids, settings, and that the operator's page says what the code does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from comel.base.settings import parse_section
from comel.errors import ConfigError
from service.http.middleware import SECURITY_HEADERS
from service.http.routes import documentation
from service.metrics import Metrics
from service.settings import ServiceSettings
from service.vendor import vendored
from tests.places import ROOT
from tests.service.in_process import app_with

DOCS = ROOT / "docs"


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ServiceSettings.model_fields:
        monkeypatch.delenv(f"COMEL_{name.upper()}", raising=False)


def samples(client: TestClient) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = text_string_to_metric_families(answer.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def sample(client: TestClient, name: str, **labels: str) -> float:
    return samples(client)[name, frozenset(labels.items())]


def test_ready_means_that_the_folders_can_be_used(
    client: TestClient, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.get("/readyz").json() == {"status": "ok", "warnings": []}
    usage = shutil.disk_usage(settings.state_dir)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=settings.max_upload_bytes - 1))
    answer = client.get("/readyz")
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "no room" in answer.json()["detail"]
    monkeypatch.undo()
    settings.slide_roots[0].rmdir()
    answer = client.get("/readyz")
    assert (answer.status_code, "slide folder" in answer.json()["detail"]) == (503, True)
    assert str(settings.slide_roots[0]) not in answer.text
    assert client.get("/healthz").status_code == 200


def test_a_service_without_its_database_or_its_choices_is_not_ready(
    client: TestClient, settings: ServiceSettings, send: Any, make_bag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("SELECT 1", {}, Exception("no connection"))

    made = send(make_bag([0.5])).json()["id"]
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "connect", away)
        answer = client.get("/readyz")
        assert (answer.status_code, "database" in answer.json()["detail"]) == (503, True)
        asked = client.get(f"/v1/predictions/{made}")
        assert (asked.status_code, asked.headers["content-type"]) == (503, "application/problem+json")
    (settings.state_dir / "models.json").write_text("[")
    assert client.get("/readyz").status_code == 503


def test_metrics_count_requests_and_predictions(client: TestClient, send: Any, make_bag: Any) -> None:
    for scores in ([0.5] * 5, [0.5] * 50):
        assert send(make_bag(scores)).status_code == 201
    assert send(b"not a bag").status_code == 415
    route = "/v1/predictions"
    assert sample(client, "comel_http_requests_total", method="POST", route=route, status="201") == 2
    assert sample(client, "comel_http_requests_total", method="POST", route=route, status="415") == 1
    assert sample(client, "comel_http_request_seconds_count", method="POST", route=route) == 3
    assert sample(client, "comel_predictions_total", kind="bag", outcome="done") == 2
    assert sample(client, "comel_predictions_total", kind="bag", outcome="refused") == 1
    assert sample(client, "comel_prediction_seconds_count", kind="bag") == 2
    assert sample(client, "comel_prediction_instances_sum") == 55
    assert sample(client, "comel_prediction_instances_bucket", le="10.0") == 1
    assert sample(client, "comel_prediction_tiles_per_second_count", kind="bag") == 2
    assert {sample(client, "comel_jobs", state=state) for state in ("queued", "running")} == {0}
    assert sample(client, "comel_predictions_running") == 0
    assert sample(client, "comel_model_info", model="breast", run="run-1", version="4") == 1
    assert sample(client, "comel_model_refused", model="breast") == 0


def test_no_client_makes_series_of_its_own(client: TestClient) -> None:
    for index in range(20):
        client.get(f"/v1/predictions/{index}")
        client.get(f"/made-up/{index}")
        client.request(f"MADEUP{index}", "/healthz")
    routes = {value for _, labels in samples(client) for name, value in labels if name == "route"}
    methods = {value for _, labels in samples(client) for name, value in labels if name == "method"}
    assert routes <= {"/v1/predictions/{identifier}", "/healthz", "/metrics", "unmatched"}
    assert methods == {"GET", "other"}


def test_applications_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.request("GET", "/healthz", 200, 0.1)
    assert b'route="/healthz"' in first.text()
    assert b'route="/healthz"' not in second.text()


@pytest.fixture
def answers(client: TestClient, send: Any, make_bag: Any, predictor: Any) -> list[Any]:
    """Answers of every kind, a defect's too."""
    made = send(make_bag([0.2, 0.8]))
    links = made.json()["links"].values()
    paths = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/models", "/nothing", *links]
    several = [made, *(client.get(path) for path in paths), client.delete("/v1/jobs"), send(b"no bag")]
    predictor.predict = None
    return [*several, send(make_bag([0.5]))]


def test_every_answer_has_the_security_headers(answers: list[Any]) -> None:
    assert {answer.status_code for answer in answers} == {200, 201, 404, 405, 415, 500}
    for answer in answers:
        for name, value in SECURITY_HEADERS.items():
            assert answer.headers[name] == value
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.skipif(vendored("swagger-ui-bundle.js") is None, reason="needs Swagger UI: make viewer")
def test_the_documentation_page_may_run_its_own_script_only(client: TestClient) -> None:
    page = client.get("/docs")
    for address in re.findall(r"""(?:src|href)="([^"]+)\"""", page.text):
        assert address == "data:," or client.get(address).status_code == 200, address
    policy = page.headers["content-security-policy"]
    (script,) = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    scripts = next(part.strip() for part in policy.split(";") if part.strip().startswith("script-src"))
    assert scripts == f"script-src 'self' 'sha256-{digest}'"
    assert "frame-ancestors 'none'" in policy
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_service_without_swagger_ui_says_where_the_description_is(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documentation, "vendored", lambda name: None)
    page = client.get("/docs")
    assert page.status_code == 200
    assert "make viewer" in page.text
    assert 'href="openapi.json"' in page.text  # relative: a proxy may serve it below a prefix
    assert "<script" not in page.text


def test_other_origins_are_let_in_by_name_only(client: TestClient, settings: ServiceSettings, predictor: Any) -> None:
    asked = {"Origin": "https://viewer.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in client.options("/v1/predictions", headers=asked).headers
    opened = settings.model_copy(update={"cors_origins": ("https://viewer.example",)})
    with TestClient(app_with(opened, predictor)) as other:
        answer = other.options("/v1/predictions", headers=asked)
        assert answer.headers["access-control-allow-origin"] == "https://viewer.example"
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["x-content-type-options"] == "nosniff"
        evil = other.get("/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 64])
def test_a_request_keeps_its_id(client: TestClient, given: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "<script>", "é".encode(), None])
def test_a_request_gets_an_id(client: TestClient, given: Any) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    first, second = (client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2))
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert first != second


def test_an_argument_wins_over_the_environment_and_that_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "service.yaml"
    file.write_text("runs: {lung: runs/file}\nport: 1\nmax_instances: 7\ncors_origins: [https://a.example]\n")
    monkeypatch.setenv("COMEL_SETTINGS_FILE", str(file))
    monkeypatch.setenv("COMEL_PORT", "2")
    settings = ServiceSettings()
    assert (settings.runs, settings.port, settings.max_instances) == ({"lung": Path("runs/file")}, 2, 7)
    assert settings.cors_origins == ("https://a.example",)
    assert ServiceSettings(port=3).port == 3
    monkeypatch.delenv("COMEL_SETTINGS_FILE")
    mine = parse_section(ServiceSettings, {"settings_file": file, "runs": {"a": "runs/mine"}}, "serve")
    assert mine.runs == {"a": Path("runs/mine")}
    monkeypatch.setenv("COMEL_CORS_ORIGINS", '["https://b.example"]')
    assert ServiceSettings().cors_origins == ("https://b.example",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("max_instance: 7", "unknown key 'max_instance'.*max_instances"),
        ("port: many", "port"),
        ("requests_per_minute: 0", "requests_per_minute"),
        ("- run", "not a mapping"),
        ("settings_file: other.yaml", "contains settings_file"),
        ("a: [", "not YAML"),
        ("!!python/object/apply:os.system ['true']", "not YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_settings_file_that_cannot_be_used_is_said(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "service.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=said):
        parse_section(ServiceSettings, {"settings_file": file}, "serve")


def settings_table() -> list[str]:
    """The table of docs/operations.md as the schema has it."""
    rows = ["| setting | environment | default | what |", "|---|---|---|---|"]
    for name, field in ServiceSettings.model_fields.items():
        value = field.default
        default = "required" if field.is_required() else "none" if value in (None, (), {}) else f"`{value}`"
        rows.append(f"| `{name}` | `COMEL_{name.upper()}` | {default} | {field.description} |")
    return rows


def test_the_table_of_settings_is_the_schema() -> None:
    table = "\n".join(settings_table())
    assert table in (DOCS / "operations.md").read_text(encoding="utf-8"), f"docs/operations.md needs this table:\n{table}"


def test_the_documents_name_every_metric_and_header(client: TestClient) -> None:
    operations = (DOCS / "operations.md").read_text(encoding="utf-8")
    families = {family.name for family in text_string_to_metric_families(client.get("/metrics").text)}
    own = {name for name in families if name.startswith("comel_") and not name.endswith("_created")}
    assert len(own) == 12
    assert all(f"`{name}" in operations for name in own)
    security = (DOCS / "security.md").read_text(encoding="utf-8")
    assert all(name in security for name in SECURITY_HEADERS)


def test_the_log_line_of_the_documents_has_the_fields_of_a_real_one(
    client: TestClient, capsys: pytest.CaptureFixture[str], settings: ServiceSettings, predictor: Any
) -> None:
    with TestClient(app_with(settings, predictor)) as other:
        other.get("/healthz")
    real = json.loads(capsys.readouterr().err.splitlines()[-1])
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    shown = json.loads(next(line for line in text.splitlines() if line.startswith('{"request"')))
    assert set(shown) == set(real)
