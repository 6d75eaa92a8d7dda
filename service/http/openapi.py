"""The OpenAPI document: FastAPI's own, with the schemas that its routes only refer to, and with examples of all bodies.

Each schema stands there once under its name, so that a generated client has one class for it. The examples are added to the
finished document because FastAPI leaves nulls out of what its routes are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.http.examples import ANSWERS, REQUESTS
from service.http.problems import Problem
from service.http.webhook_schemas import WEBHOOKS, JobEnded
from service.jobs.sources import SourceRequest

__all__ = ["TAGS", "describe_once"]

TAGS = [
    {"name": "health", "description": "Whether the service is up and able to work, for its operator."},
    {"name": "models", "description": "The models' classes and requirements, and which version answers."},
    {"name": "predictions", "description": "Request predictions; read them, their maps and their tiles."},
    {"name": "slides", "description": "The slides of the service's folders, for a viewer."},
    {"name": "jobs", "description": "Predictions in progress: their state, and cancelling them."},
    {"name": "uploads", "description": "Bags and slides sent in parts."},
]

_REFERRED: tuple[type[BaseModel], ...] = (Problem, SourceRequest, JobEnded)
_UNSAID = "Successful Response"
"""FastAPI's description of an answer without another description."""


def describe_once(app: FastAPI) -> None:
    """Complete the application's document when it is first requested."""
    described: Callable[[], dict[str, Any]] = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(described())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for model in _REFERRED:
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    document["webhooks"] = WEBHOOKS
    for methods in document["paths"].values():
        for operation in methods.values():
            name = operation["operationId"]
            if name in REQUESTS:
                _illustrate(operation["requestBody"], REQUESTS[name])
            for status, answer in operation["responses"].items():
                if (name, int(status)) in ANSWERS:
                    _illustrate(answer, ANSWERS[name, int(status)])
                if answer["description"] == _UNSAID:
                    answer["description"] = _what(answer, schemas)


def _illustrate(body: dict[str, Any], examples: dict[str, Any]) -> None:
    """Add examples to the JSON of a request or an answer."""
    (kind,) = (kind for kind in body["content"] if kind.endswith("json"))
    body["content"][kind]["examples"] = {name: {"value": value} for name, value in examples.items()}


def _what(answer: dict[str, Any], schemas: dict[str, Any]) -> str:
    """An answer's description, taken from its schema."""
    for content in answer.get("content", {}).values():
        said: str = schemas[content["schema"]["$ref"].rpartition("/")[2]]["description"]
        return said
    return "Done; there is no body."
