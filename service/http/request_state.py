"""What a route needs of its request: the service behind it, who asks, and the audit log that must have it."""

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
    """What the application keeps behind its routes."""
    backend: Backend = request.app.state.backend
    return backend


def key_of(request: Request) -> str | None:
    """The name of the key or token that asks; None if the service asks for none."""
    return getattr(request.state, "key", None)


def check_maker(request: Request, maker: str | None, what: str) -> None:
    """Refuse to change what another key made, unless the scope of the one that asks is for that.

    Args:
        request: who asks.
        maker: name of the key that made it; None if nobody's key did, or none was kept.
        what: "prediction", "job" or "upload".

    Raises:
        ForbiddenError: as said.
    """
    gate: Gate = request.app.state.gate
    mine = maker is not None and maker == key_of(request)
    if not (gate.open or mine or reaches(getattr(request.state, "scope", None), "manage")):
        raise ForbiddenError(f"another key made this {what}", "ask with the key that made it, or with one of scope manage")


def audited(request: Request, action: Action, **facts: Any) -> AbstractContextManager[Recording]:
    """Write what the block comes to into the audit log, an error included, with who asked.

    What it gives is to be called just before something is done for good: see :meth:`service.access.audit.AuditLog.recorded`.
    """
    audit: AuditLog = request.app.state.audit
    return audit.recorded(action, key=key_of(request), request=request.state.request_id, **facts)
