"""The OpenAPI document says everything: each operation, parameter, body and answer, with examples that are true."""

from __future__ import annotations

import copy
import json
import keyword
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from jsonschema import Draft202012Validator, FormatChecker

from service.access.keys import KeyStore
from service.db.tables import Job
from service.settings import ServiceSettings
from service.webhooks.outbox import body_of
from tests.service.answers import bag_bytes, place_of
from tests.service.in_process import app_with

BINARY = {"image/png", "image/jpeg", "application/x-hdf5", "application/octet-stream"}
PROBLEM = "application/problem+json"


@pytest.fixture
def document(settings: ServiceSettings, predictor: Any) -> dict[str, Any]:
    described: dict[str, Any] = copy.deepcopy(app_with(settings, predictor).openapi())
    return described


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in (document["paths"] | document["webhooks"]).items():
        for method, operation in methods.items():
            yield f"{method} {path}", operation


def bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Where, media type and content of every body that is sent or answered."""
    for where, operation in operations(document):
        if "requestBody" in operation:
            assert operation["requestBody"]["content"], where
            for kind, content in operation["requestBody"]["content"].items():
                yield where, kind, content
        for status, answer in operation["responses"].items():
            assert ("content" in answer) == (status not in ("204", "304", "2XX")), (where, status)
            for kind, content in answer.get("content", {}).items():
                yield f"{where} {status}", kind, content


def values(content: dict[str, Any]) -> list[Any]:
    return [example["value"] for example in content.get("examples", {}).values()]


def examples_of(document: dict[str, Any], operation_id: str, status: int | None = None) -> list[Any]:
    """An operation's examples of its JSON request, or of its answer with a status."""
    (operation,) = (found for _, found in operations(document) if found["operationId"] == operation_id)
    body = operation["requestBody"] if status is None else operation["responses"][str(status)]
    return [value for kind, content in body["content"].items() if kind.endswith("json") for value in values(content)]


def mistakes(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """What an example has that its schema does not allow; members that the schema does not name are mistakes too."""
    components = copy.deepcopy(document["components"])
    for described in components["schemas"].values():
        if "properties" in described:
            described.setdefault("additionalProperties", False)
    validator = Draft202012Validator({**schema, "components": components}, format_checker=FormatChecker())
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def test_every_operation_says_what_it_is_and_what_a_client_calls_it(document: dict[str, Any]) -> None:
    known = {tag["name"]: tag["description"] for tag in document["tags"]}
    names = []
    for where, operation in operations(document):
        assert operation["summary"], where
        assert len(operation["description"]) > 20, where
        assert set(operation["tags"]) <= set(known), where
        assert len(operation["tags"]) == 1, where
        assert all(answer["description"] not in ("", "Successful Response") for answer in operation["responses"].values()), (
            where
        )
        names.append(operation["operationId"])
    assert all(re.fullmatch("[a-z]+(_[a-z]+)*", name) and not keyword.iskeyword(name) for name in names)
    assert len(set(names)) == len(names) > 25
    assert all(known.values())


def test_every_parameter_has_a_description_and_an_example_that_fits(document: dict[str, Any]) -> None:
    seen = 0
    for where, operation in operations(document):
        for parameter in operation.get("parameters", []):
            place, seen = f"{where} {parameter['name']}", seen + 1
            assert parameter.get("description"), place
            assert parameter["schema"].get("examples"), place
            for example in parameter["schema"]["examples"]:
                assert not mistakes(document, parameter["schema"], example), place
    assert seen > 40


def test_every_json_body_has_examples_that_fit_its_schema(document: dict[str, Any]) -> None:
    seen = set()
    for where, kind, content in bodies(document):
        if not kind.endswith("json"):
            continue
        seen.add(where)
        assert content.get("schema"), where
        assert values(content), where
        for value in values(content):
            assert not mistakes(document, content["schema"], value), where
            if kind == PROBLEM:
                assert str(value["status"]) == where.rpartition(" ")[2]
    assert len(seen) > 150


def test_what_is_not_json_says_so(document: dict[str, Any]) -> None:
    for where, kind, content in bodies(document):
        if kind in BINARY:
            assert content["schema"] == {"type": "string", "format": "binary"}, where
        elif not kind.endswith("json"):
            assert kind in ("text/plain", "multipart/form-data"), where
            assert content["schema"].get("examples") or content["schema"]["properties"]["bag"]["format"] == "binary", where


def test_the_examples_of_members_fit_too(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for example in schema.get("examples", []):
            assert not mistakes(document, {"$ref": f"#/components/schemas/{name}"}, example), name
        for member, described in schema.get("properties", {}).items():
            for example in described.get("examples", []):
                assert not mistakes(document, described, example), f"{name}.{member}"


def shape(value: Any, of: Any) -> list[str]:
    """Where the members of two JSON values differ, as far as both have something there; free names are not compared."""
    if isinstance(value, dict) and isinstance(of, dict):
        if not {"/" in name for name in (*value, *of)} <= {False}:
            return []
        different = [f"only one has {name}" for name in value.keys() ^ of.keys()]
        return different + [f"{name}: {found}" for name in value.keys() & of.keys() for found in shape(value[name], of[name])]
    if isinstance(value, list) and isinstance(of, list):
        return shape(value[0], of[0]) if value and of else []
    kinds = [float if type(one) is int else type(one) for one in (value, of)]
    return [] if None in (value, of) or kinds[0] is kinds[1] else [f"{kinds[0].__name__} and {kinds[1].__name__}"]


def test_the_answers_of_the_examples_look_like_real_ones(
    document: dict[str, Any], client: TestClient, send: Any, make_bag: Any, settings: ServiceSettings
) -> None:
    (settings.slide_roots[0] / "slide-1.svs").write_bytes(b"x")
    made = send(make_bag([0.12, 0.93, 0.71]))
    this = f"/v1/predictions/{made.json()['id']}"
    job = client.post("/v1/predictions", json={"slide": "slide-1.svs"})
    upload = client.post("/v1/uploads", json={"filename": "a.svs", "size": 1000})
    asked = {
        "predict": made,
        "create_upload": upload,
        "health": client.get("/healthz"),
        "readiness": client.get("/readyz"),
        "list_models": client.get("/v1/models"),
        "read_model": client.get("/v1/models/breast"),
        "list_predictions": client.get("/v1/predictions"),
        "read_prediction": client.get(this),
        "read_instances": client.get(f"{this}/instances"),
        "read_tiles": client.get(f"{this}/tiles"),
        "read_geojson": client.get(f"{this}/map.geojson"),
        "read_raster_place": client.get(f"{this}/raster.json"),
        "list_jobs": client.get("/v1/jobs"),
        "read_job": client.get(place_of(job)),
        "cancel_job": client.post(f"{place_of(job)}/cancel"),
        "list_slides": client.get("/v1/slides"),
        "read_upload": client.get(place_of(upload)),
    }
    for name, answer in asked.items():
        for example in examples_of(document, name, answer.status_code):
            assert not shape(example, answer.json()), name
    assert not any(shape(example, job.json()) for example in examples_of(document, "predict", 202))


def test_the_real_answers_of_a_slide_look_like_the_example(
    document: dict[str, Any], client: TestClient, settings: ServiceSettings
) -> None:
    from PIL import Image

    Image.fromarray(np.full((600, 700, 3), 200, np.uint8)).save(settings.slide_roots[0] / "slide-1.png")
    (entry,) = client.get("/v1/slides").json()["items"]
    (example,) = examples_of(document, "read_slide", 200)
    assert not shape(example, client.get(f"/v1/slides/{entry['id']}").json())


def test_the_requests_of_the_examples_are_taken(
    document: dict[str, Any], settings: ServiceSettings, predictor: Any, tmp_path: Path, make_bag: Any
) -> None:
    case = settings.slide_roots[0] / "case-7"
    case.mkdir()
    (case / "slide-1.svs").write_bytes(b"x")
    predictor.version = 1
    with TestClient(app_with(settings, predictor)) as client:
        content = bag_bytes(tmp_path, make_bag([0.2]))
        for body in examples_of(document, "create_upload"):
            assert client.post("/v1/uploads", json=body).status_code == 201
        sent = client.post("/v1/uploads", json={"filename": "a.h5", "size": len(content)}).json()["id"]
        client.put(f"/v1/uploads/{sent}", params={"offset": 0}, content=content)
        for body in examples_of(document, "predict"):
            real = body | ({"upload": sent, "webhook": None} if "upload" in body else {})
            answer = client.post("/v1/predictions", json=real)
            assert answer.status_code == 202, answer.text
        for parameter in document["paths"]["/v1/predictions"]["get"]["parameters"]:
            for example in parameter["schema"]["examples"]:
                assert client.get("/v1/predictions", params={parameter["name"]: example}).status_code == 200
        for path in ("/v1/jobs", "/v1/slides"):
            query = {one["name"]: one["schema"]["examples"][0] for one in document["paths"][path]["get"]["parameters"]}
            assert client.get(path, params=query).status_code == 200, path


def test_the_call_of_a_webhook_looks_like_the_example(document: dict[str, Any]) -> None:
    ended = {"id": "1" * 32, "finished": 1772357400.0}
    sent = {
        "done": Job(**ended, state="done", error=None),
        "failed": Job(**ended, state="failed", error={"what": "w", "remedy": "r"}),
    }
    examples = {example["state"]: example for example in examples_of(document, "job_ended")}
    assert set(examples) == set(sent)
    for state, job in sent.items():
        body = json.loads(body_of(job))
        assert not mistakes(document, {"$ref": "#/components/schemas/JobEnded"}, body)
        assert not shape(examples[state], body)


def said(problem: dict[str, Any]) -> dict[str, str]:
    """A problem without its numbers, which differ from one service to the next."""
    return {name: re.sub(r"\d+", "N", str(value)) for name, value in problem.items() if name != "status"}


def test_the_problems_of_the_examples_are_what_the_service_says(
    document: dict[str, Any], client: TestClient, send: Any, make_bag: Any, settings: ServiceSettings
) -> None:
    (settings.slide_roots[0] / "a.svs").write_bytes(b"x")
    again = {"Idempotency-Key": "case-7-1"}
    client.post("/v1/predictions", json={"slide": "a.svs"}, headers=again)
    upload = client.post("/v1/uploads", json={"filename": "a.h5", "size": 1000}).json()["id"]
    long = {"Content-Length": "9" * 12, "Content-Type": "multipart/form-data; boundary=x"}
    asked = [
        ("read_prediction", client.get("/v1/predictions/x")),
        ("read_job", client.get("/v1/jobs/x")),
        ("read_upload", client.get("/v1/uploads/x")),
        ("read_slide", client.get("/v1/slides/x")),
        ("predict", client.post("/v1/predictions", json={"slide": "case-7/slide-1.svs"})),
        ("read_model", client.get("/v1/models/x")),
        ("predict", client.post("/v1/predictions", json={"upload": upload})),
        ("predict", client.post("/v1/predictions", json={"slide": "a.svs", "mpp": 1}, headers=again)),
        ("predict", send(b"no HDF5")),
        ("predict", client.post("/v1/predictions", headers=long)),
        ("list_jobs", client.get("/v1/jobs", params={"limit": 0})),
        ("predict", send(make_bag([0.2]), task="liver")),
        ("list_models", client.get("/v1/models", headers={"Host": "elsewhere.example.org"})),
    ]
    for name, answer in asked:
        assert answer.status_code >= 400, name
        known = [said(example) for example in examples_of(document, name, answer.status_code)]
        assert said(answer.json()) in known, (name, answer.text)
    assert {answer.status_code for _, answer in asked} == {404, 409, 413, 415, 421, 422}


@pytest.mark.usefixtures("no_refill")
def test_the_refusals_of_keys_are_what_the_service_says(
    document: dict[str, Any], settings: ServiceSettings, predictor: Any
) -> None:
    key = KeyStore(settings.state_dir).add("reader", "read")
    with TestClient(app_with(settings.model_copy(update={"requests_per_minute": 3}), predictor)) as client:
        readers = {"Authorization": f"Bearer {key}"}
        answers = [client.get("/v1/jobs"), client.get("/v1/jobs", headers={"X-API-Key": "comel_no"})]
        answers += [client.post("/v1/uploads", headers=readers, json={}) for _ in range(8)]
    assert {answer.status_code for answer in answers} == {401, 403, 429}
    for answer in answers:
        name = "list_jobs" if answer.status_code == 401 else "create_upload"
        assert said(answer.json()) in [said(example) for example in examples_of(document, name, answer.status_code)]
    described = document["paths"]["/v1/uploads"]["post"]["responses"]["429"]["headers"]["Retry-After"]
    assert not mistakes(document, described["schema"], int(answers[-1].headers["retry-after"]))
