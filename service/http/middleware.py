"""Around every request: its id, its log line, its time, the security headers, and a last catch for defects."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import problem
from service.logs import describe_defect
from service.metrics import Metrics

__all__ = ["SECURITY_HEADERS", "RequestRecord"]

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer that does not set its own. Transport security is the proxy's: this service speaks plain HTTP."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestRecord:
    """The outermost layer. A request's ``state`` gets ``request_id``; ``key`` and ``refusal`` are read from it afterwards.

    The log line names the route's pattern, never the path or the query: a client may write anything there.
    """

    def __init__(self, app: ASGIApp, *, log: Any, metrics: Metrics) -> None:
        self.app, self._log, self._metrics = app, log, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status, started = 0, time.perf_counter()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        defect: dict[str, Any] = {}
        try:
            await self.app(scope, receive, answer)
        except Exception as error:
            defect = describe_defect(error)
            # Where the answer has begun nothing can be said any more; the server cuts the connection.
            if status:
                raise _CutShort(request_id) from None
            response = problem(500, "the service failed at this request", f"ask its operator about request {request_id}")
            await response(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", "unmatched")
            self._metrics.request(scope["method"], route, status, seconds)
            about = {"request": request_id, "method": scope["method"][:16], "route": route, "status": status}
            about |= {"milliseconds": round(seconds * 1e3, 1), "key": state.get("key"), **defect}
            if "refusal" in state:
                about["refusal"] = state["refusal"]
            (self._log.error if defect else self._log.info)("request", **about)


class _CutShort(Exception):
    """An answer that broke off. The defect is in the log under the request's id, without its text."""
