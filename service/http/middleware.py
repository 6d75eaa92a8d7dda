"""Around every request: its id, its log line, its duration, the security headers, the proxy's prefix, limits on the speed and
size of bodies, cross-origin rules, and a final handler for defects."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import anyio
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem
from service.intake.bodies import MAX_SMALL_BODY
from service.logs import describe_defect
from service.metrics import Metrics

__all__ = ["SECURITY_HEADERS", "BodyLimits", "Cors", "Defects", "RequestRecord"]

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""For every answer that does not set its own. Transport security is left to the proxy: this service speaks plain HTTP."""

BYTES_A_SECOND = 1024
"""The average speed that a body must reach after its initial time allowance."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_ASKED_WITH = (
    "Authorization", "X-API-Key", "X-Request-ID", "Content-Type", "Idempotency-Key", "Prefer",
    "If-None-Match", "If-Modified-Since", "If-Range", "Range",
)  # fmt: skip
_ANSWERED_WITH = (
    "Location", "Retry-After", "X-Request-ID", "Upload-Offset", "Preference-Applied", "ETag", "Accept-Ranges",
    "Content-Range", "WWW-Authenticate", "Allow",
)  # fmt: skip
_STREAMED = re.compile(r"POST (/.*)?/v1/predictions|PUT (/.*)?/v1/uploads/[^/]*")
"""Requests whose bodies go to disk as they arrive; their routes check the size."""


class RequestRecord:
    """The outermost layer. A request's ``state`` gets ``request_id``; ``key``, ``refusal`` and ``defect`` are read from it
    afterwards. A request by HEAD is handled as one by GET, and its answer loses the body.

    The log line names the route's pattern, never the path or the query, which may contain anything.

    Args:
        root_path: prefix below which a proxy serves the application, whether or not the proxy strips it.
    """

    def __init__(self, app: ASGIApp, *, log: Any, metrics: Metrics, root_path: str = "") -> None:
        self.app, self._log, self._metrics, self._root_path = app, log, metrics, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        method, status, started = scope["method"], 0, time.perf_counter()
        if method == "HEAD":
            scope["method"], state["head"] = "GET", True
        _put_below(scope, self._root_path)

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await Defects(self.app)(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.request(method, route, status, seconds)
            defect = state.get("defect", {})
            about = {"request": request_id, "method": method[:16], "route": route, "status": status}
            about |= {"milliseconds": round(seconds * 1e3, 1), "key": state.get("key"), **defect}
            if "refusal" in state:
                about["refusal"] = state["refusal"]
            (self._log.error if defect else self._log.info)("request", **about)


class Defects:
    """Answers unhandled errors with 500; the request's ``state`` gets the ``defect`` for the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except _CutShort:
            raise
        except Exception as error:
            request_id = scope["state"]["request_id"]
            scope["state"]["defect"] = describe_defect(error)
            # Once the answer has begun, nothing more can be sent; the server cuts the connection.
            if begun:
                raise _CutShort(request_id) from None
            response = problem(500, "the service failed on this request", f"ask its operator about request {request_id}")
            await response(scope, receive, send)


class BodyLimits:
    """Cuts bodies that arrive too slowly, and those larger than any accepted JSON.

    A body may make the service wait for ``seconds`` at a time, and for that long in total plus a second per KiB received.
    Only the time counts in which the service waits for the client.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self.app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        most = None if _STREAMED.fullmatch(f"{scope['method']} {scope['path']}") else MAX_SMALL_BODY
        waited, received, whole = 0.0, 0, False

        async def take() -> Message:
            nonlocal waited, received, whole
            if whole:
                return await receive()  # which says when the client has gone
            started = time.monotonic()
            message: Message | None = None
            left = min(self._seconds, self._seconds + received / BYTES_A_SECOND - waited)
            if left > 0:
                with anyio.move_on_after(left):
                    message = await receive()
            if message is None:
                raise HTTPException(408, "the body arrives too slowly")
            waited += time.monotonic() - started
            received += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if most is not None and received > most:
                raise HTTPException(413, f"the body is larger than {most} bytes")
            return message

        await self.app(scope, take, send)


class Cors(CORSMiddleware):
    """Cross-origin rules for the named origins; refusals of a preflight are problems, like all others."""

    def __init__(self, app: ASGIApp, *, origins: tuple[str, ...]) -> None:
        methods = ("GET", "HEAD", "POST", "PUT", "DELETE")
        super().__init__(
            app, allow_origins=origins, allow_methods=methods, allow_headers=_ASKED_WITH, expose_headers=_ANSWERED_WITH
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """See the base class."""
        answer = super().preflight_response(request_headers)
        if answer.status_code < 400:
            return answer
        own = {name: value for name, value in answer.headers.items() if name not in ("content-length", "content-type")}
        return problem(answer.status_code, bytes(answer.body).decode(), "ask the service's operator about cors_origins", own)


class _CutShort(Exception):
    """An interrupted answer. The defect is in the log under the request's id, without its text."""


def _put_below(scope: Scope, root_path: str) -> None:
    """Prefix a request's path with the proxy's prefix, as ASGI requires."""
    if root_path:
        if f"{scope['path']}/".startswith(f"{root_path}/"):
            scope["root_path"] = root_path
        else:
            scope["path"], scope["root_path"] = root_path + scope["path"], root_path
