"""The OpenAPI document: FastAPI's own, with the schemas that its routes only refer to.

Each stands there once under its name, so that a generated client has one class for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from service.problems import Problem
from service.schemas import SourceRequest

__all__ = ["describe_once"]

_REFERRED: tuple[type[BaseModel], ...] = (Problem, SourceRequest)


def describe_once(app: FastAPI) -> None:
    """Complete the application's document when it is first asked for."""
    described: Callable[[], dict[str, Any]] = app.openapi

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = described().setdefault("components", {}).setdefault("schemas", {})
            for model in _REFERRED:
                schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
