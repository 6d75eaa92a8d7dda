"""What a route needs from its request: the service behind it, the caller, and the audit log."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from fastapi import Request

from service.access.audit import Action, AuditLog, Recording
from service.access.gate import Gate, reaches
from service.backend import Backend
from service.errors import ForbiddenError

__all__ = ["audited", "backend_of", "check_maker", "key_of"]


def backend_of(request: Request) -> Backend:
    """The backend behind the application's routes."""
    backend: Backend = request.app.state.backend
    return backend


def key_of(request: Request) -> str | None:
    """The name of the caller's key or token; None if the service needs none."""
    return getattr(request.state, "key", None)


def check_maker(request: Request, maker: str | None, what: str) -> None:
    """Refuse to change what another key made, unless the caller's scope allows it.

    Args:
        request: the caller's request.
        maker: the name of the key that made it; None if no key did, or none was recorded.
        what: "prediction", "job" or "upload".

    Raises:
        ForbiddenError: another key made it.
    """
    gate: Gate = request.app.state.gate
    mine = maker is not None and maker == key_of(request)
    if not (gate.open or mine or reaches(getattr(request.state, "scope", None), "manage")):
        raise ForbiddenError(f"another key made this {what}", "use the key that made it, or one of scope manage")


def audited(request: Request, action: Action, **facts: Any) -> AbstractContextManager[Recording]:
    """Write the block's outcome, including an error, and the caller into the audit log.

    The yielded function must be called just before any permanent effect: see :meth:`service.access.audit.AuditLog.recorded`.
    """
    audit: AuditLog = request.app.state.audit
    return audit.recorded(action, key=key_of(request), request=request.state.request_id, **facts)
