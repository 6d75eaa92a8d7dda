"""Descriptions of answers that routes' types do not cover: problems and files."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.http.problems import MEDIA_TYPE, Problem

__all__ = ["BINARY", "UNCHANGED", "Responses", "created", "file_answer", "guarded", "part_answer", "problems"]

Responses = dict[int | str, dict[str, Any]]

BINARY = {"type": "string", "format": "binary"}
UNCHANGED: Responses = {304: {"description": "Not changed since what `If-None-Match` names."}}

_MEANINGS = {
    400: "The body cannot be read: it ended early, or is not a form or not UTF-8 text.",
    401: "No API key, or an invalid one.",
    403: "The key's scope does not cover this, or another key made it.",
    404: "There is no such prediction, job, upload, slide, model or file.",
    408: "The body arrived too slowly.",
    409: "It conflicts with existing state; the problem says how.",
    413: "The body, or what it declares, is larger than the service accepts.",
    415: "The body or the file is of a kind that is not accepted.",
    416: "The file has no such part.",
    421: "A service without keys was called by another name than localhost.",
    422: "The content cannot be used; the problem says why and what to do.",
    429: "The key makes too many requests, or the queue is full.",
    503: "The service cannot do this now; the problem says why.",
    507: "The service's disk is full.",
}
_SAID: dict[int, dict[str, tuple[str, str]]] = {
    400: {"broken off": ("the body ended early", "")},
    401: {
        "no key": ("this needs an API key", ""),
        "unknown key": ("this key or token is unknown or no longer valid", ""),
    },
    403: {
        "scope too small": ("this needs a key of scope predict; yours is read", ""),
        "another's": ("another key made this prediction", "use the key that made it, or one of scope manage"),
    },
    404: {
        "prediction": ("there is no prediction of this id", "use an id that POST or GET /v1/predictions gives"),
        "job": ("there is no job of this id", "use an id that POST /v1/predictions or GET /v1/jobs gives"),
        "upload": ("there is no upload of this id", "use an id that POST /v1/uploads gave, before the upload expires"),
        "slide": ("there is no slide of this id", "use an id that GET /v1/slides gives"),
        "slide by path": ("case-7/slide-1.svs: no such slide", "name a slide that lies below the slide folder"),
        "model": ("there is no model of this name", "it may be breast"),
    },
    408: {"too slow": ("the body arrives too slowly", "")},
    409: {
        "another request": ("this Idempotency-Key was used with another request before", "use a new key for a new request"),
        "incomplete upload": ("the upload is not complete", "send the rest from offset 16777216 on"),
    },
    413: {"too long": ("the body is larger than 2147483648 bytes", "send a smaller one, or ask for a larger limit")},
    415: {"no HDF5": ("the file in the field 'bag' is not HDF5", "send the .h5 file that comel extract wrote")},
    416: {"beyond the end": ("there is no such part", "")},
    421: {"foreign name": ("without API keys this service answers to localhost only", "")},
    422: {
        "out of range": ("query.limit: Input should be greater than or equal to 1", "see the API description"),
        "unknown task": ("the model has no task 'liver'", "it knows breast"),
    },
    429: {
        "too often": ("this key may make 120 requests a minute", ""),
        "queue full": ("100 jobs wait already", "send it again later"),
    },
    503: {"busy": ("all decoders are busy", "ask again in a minute")},
    507: {"full": ("there is no room on the service's disk", "try again later, or ask its operator")},
}


def _header(description: str, kind: str, example: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}, "example": example}


_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": _header("how to authenticate", "string", 'Bearer realm="comel"')},
    409: {"Upload-Offset": _header("where an upload's next part begins", "integer", 16777216)},
    429: {"Retry-After": _header("seconds to wait", "integer", 30)},
}


def problems(*statuses: int) -> Responses:
    """The entries of these problems, each with the service's message."""
    return {status: _problem(status) for status in statuses}


def guarded(*statuses: int) -> Responses:
    """These problems, and those of every request that may need a key."""
    return problems(401, 403, 421, 429, 503, 507, *statuses)


def file_answer(kind: str, what: str, schema: dict[str, Any] = BINARY) -> Responses:
    """The entry of an answer 200 whose body is not JSON."""
    return {200: {"description": what, "content": {kind: {"schema": schema}}}}


def part_answer(kind: str) -> Responses:
    """The entry of an answer 206: the part that ``Range`` requests."""
    return {206: {"description": "The part that `Range` requests.", "content": {kind: {"schema": BINARY}}}}


def created(where: str, what: str) -> dict[str, Any]:
    """The description of an answer with the location of what was created; ``where`` is an example."""
    return {"description": what, "headers": {"Location": _header("its location, relative to this one", "string", where)}}


def _problem(status: int) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    examples = {
        name: {"value": Problem(title=title, status=status, detail=detail, remedy=remedy).model_dump()}
        for name, (detail, remedy) in _SAID[status].items()
    }
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
    entry = {"description": _MEANINGS[status], "content": {MEDIA_TYPE: content}}
    return entry | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
