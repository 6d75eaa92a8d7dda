"""Whatever a client sends to what the API describes: never a 5xx, and every refusal a problem."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

OPERATIONS = [
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{name}"),
    ("post", "/v1/models/{name}/version"),
    ("get", "/v1/predictions"),
    ("post", "/v1/predictions"),
    ("get", "/v1/predictions/{identifier}"),
    ("delete", "/v1/predictions/{identifier}"),
    ("get", "/v1/predictions/{identifier}/instances"),
    ("get", "/v1/predictions/{identifier}/map.png"),
    ("get", "/v1/predictions/{identifier}/map.geojson"),
    ("get", "/v1/predictions/{identifier}/tiles"),
    ("get", "/v1/predictions/{identifier}/tiles/{rank}.jpg"),
    ("get", "/v1/predictions/{identifier}/bag.h5"),
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/{identifier}"),
    ("post", "/v1/jobs/{identifier}/cancel"),
    ("post", "/v1/uploads"),
    ("get", "/v1/uploads/{identifier}"),
    ("put", "/v1/uploads/{identifier}"),
    ("delete", "/v1/uploads/{identifier}"),
    ("get", "/v1/predictions/{identifier}/raster.png"),
    ("get", "/v1/predictions/{identifier}/raster.json"),
    ("get", "/v1/slides"),
    ("get", "/v1/slides/{slide}"),
    ("get", "/v1/slides/{slide}/thumbnail.jpg"),
    ("get", "/v1/slides/{slide}/tiles/{level}/{column}_{row}.jpg"),
]
texts = st.text(max_size=40)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([0, 1, 0.5, 256, 4096, -1, 1e308, 10**400]))
junk: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
likely = st.fixed_dictionaries(
    {"slide": st.one_of(texts, junk)},
    optional={"task": junk, "mpp": st.one_of(numbers, junk), "more": junk},
)
bodies = st.one_of(st.binary(max_size=200), st.one_of(junk, likely).map(lambda value: json.dumps(value).encode()))
kinds = st.one_of(
    st.sampled_from(["application/json", "application/json; charset=utf-16", "multipart/form-data; boundary=x", "text/plain"]),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)


@pytest.fixture
def made(client: TestClient, send: Any, make_bag: Any) -> Any:
    """A client, the id of a prediction that is there, and the API's description."""
    return client, send(make_bag([0.2, 0.8, 0.6])).json()["id"], client.get("/openapi.json").json()


def parameters(document: dict[str, Any], method: str, path: str) -> list[str]:
    """Names of the query parameters that an operation describes."""
    described = document["paths"][path][method].get("parameters", [])
    return [one["name"] for one in described if one["in"] == "query"]


def test_every_operation_is_asked(made: Any) -> None:
    _, _, document = made
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_that_is_sent_makes_it_fail(made: Any, method: str, path: str, data: st.DataObject) -> None:
    client, known, document = made
    identifier = data.draw(st.one_of(st.just(known), texts), "identifier")
    value = st.one_of(texts, numbers.map(str), st.sampled_from(["true", "bounds", "level0", "0.5", "300"]))
    names = parameters(document, method, path)
    query = data.draw(st.dictionaries(st.one_of(st.sampled_from([*names, "other"]), texts), value, max_size=4), "query")
    headers = {"content-type": data.draw(kinds, "kind")}
    content = data.draw(bodies, "body")
    # Slashes and dots would lead to another operation, which is asked in its own turn.
    place = path.replace("{identifier}", quote(identifier, safe="").replace(".", "%2E") or "%20")
    place = place.replace("{name}", "breast").replace("{rank}", "1")
    answer = client.request(method, place, params=query, content=content, headers=headers)
    assert answer.status_code < 500
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["status"] == answer.status_code
        assert str(client.app.state.settings.state_dir) not in answer.text
        described = document["paths"][path][method]["responses"]
        assert str(answer.status_code) in described or answer.status_code in (400, 404)
