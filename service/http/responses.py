"""What the API's description says of answers that no route's type says: problems, and files."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from service.http.problems import MEDIA_TYPE, Problem

__all__ = ["BINARY", "UNCHANGED", "Responses", "created", "file_answer", "guarded", "part_answer", "problems"]

Responses = dict[int | str, dict[str, Any]]

BINARY = {"type": "string", "format": "binary"}
UNCHANGED: Responses = {304: {"description": "Not changed since what `If-None-Match` names."}}

_MEANINGS = {
    400: "The body cannot be read: it ended early, or is no form or no text in UTF-8.",
    401: "No API key, or one that is not taken.",
    403: "The key's scope does not reach this, or another key made it.",
    404: "There is no such prediction, job, upload, slide, model or file.",
    408: "The body came too slowly.",
    409: "It does not fit what is there already; the problem says how.",
    413: "The body, or what it declares, is larger than the service takes.",
    415: "The body or the file is of a kind that is not taken.",
    416: "The file has no such part.",
    421: "A service without keys was called by another name than localhost.",
    422: "The content cannot be used; the problem says why and what to do.",
    429: "The key asks too often, or the queue is full.",
    503: "The service cannot do this now; the problem says why.",
    507: "The service's disk is full.",
}
_SAID: dict[int, dict[str, tuple[str, str]]] = {
    400: {"broken off": ("the body ended early", "")},
    401: {
        "no key": ("this needs an API key", ""),
        "unknown key": ("this key or token is not known, or no longer", ""),
    },
    403: {
        "scope too small": ("this needs a key of scope predict; yours is read", ""),
        "another's": ("another key made this prediction", "ask with the key that made it, or with one of scope manage"),
    },
    404: {
        "prediction": ("there is no prediction of this id", "use an id that POST or GET /v1/predictions gives"),
        "job": ("there is no job of this id", "use an id that POST /v1/predictions or GET /v1/jobs gives"),
        "upload": ("there is no upload of this id", "use an id that POST /v1/uploads gave, before the upload expires"),
        "slide": ("there is no slide of this id", "use an id that GET /v1/slides gives"),
        "slide by path": ("case-7/slide-1.svs: no such slide", "name a slide that lies below the slide folder"),
        "model": ("there is no model of this name", "it may be breast"),
    },
    408: {"too slow": ("the body comes too slowly", "")},
    409: {
        "another request": ("this Idempotency-Key came with another request before", "use a new key for a new request"),
        "incomplete upload": ("the upload is not complete", "send the rest from offset 16777216 on"),
    },
    413: {"too long": ("the body is larger than 2147483648 bytes", "send a smaller one, or ask for a larger limit")},
    415: {"no HDF5": ("the file in the field 'bag' is not HDF5", "send the .h5 file that comel extract wrote")},
    416: {"beyond the end": ("there is no such part", "")},
    421: {"foreign name": ("without API keys this service answers to localhost only", "")},
    422: {
        "out of range": ("query.limit: Input should be greater than or equal to 1", "see the API description"),
        "unknown task": ("the model knows no task 'liver'", "it knows breast"),
    },
    429: {
        "too often": ("this key may make 120 requests a minute", ""),
        "queue full": ("100 jobs wait already", "send it again later"),
    },
    503: {"busy": ("all decoders are busy", "ask again in a minute")},
    507: {"full": ("there is no room on the service's disk", "send it later, or ask its operator")},
}


def _header(description: str, kind: str, example: Any) -> dict[str, Any]:
    return {"description": description, "schema": {"type": kind}, "example": example}


_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": _header("how to prove who asks", "string", 'Bearer realm="comel"')},
    409: {"Upload-Offset": _header("of an upload: where the next part begins", "integer", 16777216)},
    429: {"Retry-After": _header("seconds to wait", "integer", 30)},
}


def problems(*statuses: int) -> Responses:
    """The entries of these problems, each with what the service says then."""
    return {status: _problem(status) for status in statuses}


def guarded(*statuses: int) -> Responses:
    """These problems, and those of every request that a key may be needed for."""
    return problems(401, 403, 421, 429, 503, 507, *statuses)


def file_answer(kind: str, what: str, schema: dict[str, Any] = BINARY) -> Responses:
    """The entry of an answer 200 with a body of another media type than JSON."""
    return {200: {"description": what, "content": {kind: {"schema": schema}}}}


def part_answer(kind: str) -> Responses:
    """The entry of an answer 206: the part that ``Range`` asks for."""
    return {206: {"description": "The part of it that `Range` asks for.", "content": {kind: {"schema": BINARY}}}}


def created(where: str, what: str) -> dict[str, Any]:
    """What an answer is that says where to find what it made: ``where`` is an example of its place."""
    return {"description": what, "headers": {"Location": _header("where it is, as seen from here", "string", where)}}


def _problem(status: int) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    examples = {
        name: {"value": Problem(title=title, status=status, detail=detail, remedy=remedy).model_dump()}
        for name, (detail, remedy) in _SAID[status].items()
    }
    content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": examples}
    entry = {"description": _MEANINGS[status], "content": {MEDIA_TYPE: content}}
    return entry | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
