"""What a route needs of its request: the service behind it, who asks, and the audit log that must have it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from fastapi import Request

from service.access.audit import Action, AuditLog
from service.backend import Backend

__all__ = ["audited", "backend_of", "key_of"]


def backend_of(request: Request) -> Backend:
    """What the application keeps behind its routes."""
    backend: Backend = request.app.state.backend
    return backend


def key_of(request: Request) -> str | None:
    """The name of the key or token that asks; None where the service asks for none."""
    return getattr(request.state, "key", None)


def audited(request: Request, action: Action, **facts: Any) -> AbstractContextManager[None]:
    """Write what the block comes to into the audit log, an error included, with who asked."""
    audit: AuditLog = request.app.state.audit
    return audit.recorded(action, key=key_of(request), request=request.state.request_id, **facts)
