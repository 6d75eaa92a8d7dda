"""Errors as problem+json (RFC 9457): client errors with status 4xx, never a traceback, never a server path."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from comel.errors import ComelError
from service.errors import (
    BusyError,
    ConflictError,
    ForbiddenError,
    NoRoomError,
    NotFoundError,
    NotReadyError,
    TooLargeError,
    WrongKindError,
    is_full,
)
from service.paths import without_paths

__all__ = [
    "MEDIA_TYPE",
    "Problem",
    "install_problem_handlers",
    "problem",
]

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    type: str = Field(default="about:blank", description="always about:blank: the status gives the kind")
    title: str = Field(description="the status in words", examples=["Unprocessable Content"])
    status: int = Field(description="the HTTP status", examples=[422])
    detail: str = Field(description="what is wrong, and where", examples=["slide.h5: truncated or not HDF5"])
    remedy: str = Field(default="", description="what the client can do about it", examples=["extract the slide again"])


_STATUS = {
    ForbiddenError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    TooLargeError: 413,
    WrongKindError: 415,
    BusyError: 429,
    NotReadyError: 503,
    NoRoomError: 507,
}
_METHODS = ("GET", "POST", "PUT", "DELETE")
_UNDEFINED_TABLE = "42P01"
"""PostgreSQL's error code for an emptied database."""


def problem(status: int, detail: str, remedy: str = "", headers: Any = None) -> JSONResponse:
    """A problem as an answer."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, remedy=remedy)
    return JSONResponse(body.model_dump(), status, headers, MEDIA_TYPE)


def install_problem_handlers(app: FastAPI, *, hidden: Iterable[Path]) -> None:
    """Answer client errors as problems. ``hidden`` are folders whose paths are removed from the texts.

    Defects are not caught here: the outermost middleware answers and logs them.
    """
    roots = tuple(hidden)

    async def mistaken(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ComelError)
        request.state.refusal = type(error).__name__
        headers = {}
        if isinstance(error, BusyError):
            headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, ConflictError) and error.offset is not None:
            headers["Upload-Offset"] = str(error.offset)
        if isinstance(error, ForbiddenError):
            headers["WWW-Authenticate"] = 'Bearer realm="comel", error="insufficient_scope", scope="manage"'
        what, remedy = without_paths(error.what, roots), without_paths(error.remedy, roots)
        return problem(_STATUS.get(type(error), 422), what, remedy, headers)

    async def failed(request: Request, error: Exception) -> JSONResponse:
        """Failures of the disk or the database; anything else they raise is a bug."""
        if is_full(error):
            return await mistaken(request, NoRoomError())
        gone = getattr(getattr(error, "orig", None), "sqlstate", None) == _UNDEFINED_TABLE
        if not (gone or isinstance(error, (OperationalError, InterfaceError))):
            raise error
        request.state.refusal = type(error).__name__
        return problem(503, "the service's database does not answer", "send it again in a minute")

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return problem(422, describe_validation(error.errors()), "see the API description")

    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = {"Allow": _allowed(request)} if error.status_code == 405 else error.headers
        return problem(error.status_code, str(error.detail), headers=headers)

    async def gone(request: Request, error: Exception) -> JSONResponse:
        return problem(400, "the body ended early")

    for kind, handler in (
        (ComelError, mistaken),
        (DBAPIError, failed),
        (OSError, failed),
        (RequestValidationError, invalid),
        (HTTPException, refused),
        (ClientDisconnect, gone),
    ):
        app.add_exception_handler(kind, handler)


def _allowed(request: Request) -> str:
    """The methods that a path accepts."""
    place = {name: request.scope[name] for name in ("type", "path", "root_path") if name in request.scope}
    methods = [
        method
        for method in _METHODS
        if any(route.matches({**place, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]
    return ", ".join(["GET", "HEAD", *methods[1:]] if "GET" in methods else methods)


def describe_validation(errors: Iterable[Any]) -> str:
    """pydantic's errors as one line: where, and what was expected."""
    return "; ".join(f"{'.'.join(map(str, error['loc'])) or 'body'}: {error['msg']}" for error in errors)
