"""Admission of requests: the key or token, its scope, and its rate."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from comel.errors import ComelError, ConfigError
from service.access.audit import AuditLog
from service.access.keys import SCOPES, Key, KeyStore, Scope, is_loopback
from service.access.rate import RateLimiter
from service.access.tokens import Bearer, ProviderUnreachable, TokenVerifier
from service.settings import ServiceSettings

__all__ = ["Gate", "allow", "reaches"]

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::\d{1,5})?", re.ASCII)
_CHALLENGE = 'Bearer realm="comel"'
REFUSALS_A_MINUTE = 10
"""Most lines per minute in the audit log about refusals of one kind and key."""

BearerHeader = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="an API key, or a token of the OpenID Connect provider")),
]
Header = Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False, description="an API key"))]


class Gate:
    """Admits requests. Open (no key needed) only if it listens on loopback, no key is required, none was ever added, and
    no OpenID Connect provider is set. Once closed, a gate stays closed, whatever happens to the files."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.keys = KeyStore(settings.state_dir)
        self.keys.remember()
        self._tokens: TokenVerifier | None = None
        if settings.oidc_issuer is not None:
            self._tokens = TokenVerifier(
                settings.oidc_issuer, settings.oidc_audience, settings.oidc_scope_claim, settings.oidc_scopes
            )
        self._limiter = RateLimiter(settings.requests_per_minute)
        self._noted = RateLimiter(REFUSALS_A_MINUTE)
        self._host = settings.host
        self._required = not is_loopback(settings.host) if settings.require_keys is None else settings.require_keys
        self._may_be_open = not self._required and is_loopback(settings.host) and self._tokens is None

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        self._may_be_open = self._may_be_open and not self.keys.exists()
        return self._may_be_open

    def check_exposure(self) -> None:
        """Refuse to serve without keys if they are required, as at an address that other machines can reach.

        Raises:
            ConfigError: keys are required and there are none.
        """
        if self._required and not self.keys.active() and self._tokens is None:
            why = "require_keys is set" if is_loopback(self._host) else f"{self._host} is reachable from other machines"
            lost = f"; {self.keys.path.name} is lost: restore it" if self.keys.lost() else ""
            raise ConfigError(
                f"{why}, and there is no API key in {self.keys.path.parent}{lost}",
                f"add one with: comel keys add NAME --scope predict --state {self.keys.path.parent}"
                + ("" if is_loopback(self._host) else ", or listen on 127.0.0.1"),
            )

    def check_keys(self) -> None:
        """Raise :class:`ConfigError` if no request can be admitted because the keys are lost or cannot be read."""
        if self._tokens is None and self.keys.lost():
            raise ConfigError(
                "the API keys are lost, so no request is admitted", "restore keys.json, or add a key: comel keys add"
            )
        self.keys.all()

    def wants_keys(self, presented: str | None) -> bool:
        """Whether :meth:`admit` cannot judge a token before :meth:`fetch_keys`."""
        return self._is_token(presented) and self._tokens is not None and self._tokens.wants_keys(presented or "")

    def fetch_keys(self) -> None:
        """Wait for the OpenID Connect provider's keys; see :meth:`service.access.tokens.TokenVerifier.fetch`."""
        if self._tokens is not None:
            self._tokens.fetch()

    def admit(self, presented: str | None, scope: Scope, request: Request, cost: float = 1.0) -> str | None:
        """The name of the request's key, None if the gate is open. ``cost`` is the number of requests it counts as.

        Raises:
            HTTPException: 401 without a valid key, 403 if its scope is too small or a page of another
                origin calls an open service, 421 if an open service is called
                by a foreign name, 429 if its rate is too high.
        """
        if self.open:
            _check_host(request)
            _check_origin(request)
            return None
        key = None if presented is None else self._identify(presented)
        if key is None:
            error = "" if presented is None else ', error="invalid_token"'
            said = "this needs an API key" if presented is None else "this key or token is unknown or no longer valid"
            raise _refusal(401, said, {"WWW-Authenticate": _CHALLENGE + error})
        request.state.key, request.state.scope = key.name, key.scope
        if wait := self._limiter.wait(key.name, cost):
            raise _refusal(429, f"this key may make {self._limiter.per_minute} requests a minute", {"Retry-After": str(wait)})
        if not key.allows(scope):
            challenge = f'{_CHALLENGE}, error="insufficient_scope", scope="{scope}"'
            raise _refusal(
                403, f"this needs a key of scope {scope}; yours is {key.scope or 'none'}", {"WWW-Authenticate": challenge}
            )
        return key.name

    def note(self, refusal: HTTPException, request: Request) -> None:
        """Write a refusal into the audit log; only the first few of a kind per minute, so strangers cannot fill the disk."""
        key = getattr(request.state, "key", None)
        if self._noted.wait(f"{refusal.status_code} {key}"):
            return
        audit: AuditLog = request.app.state.audit
        route = getattr(request.scope.get("route"), "path", "unmatched")
        facts = {"request": request.state.request_id, "method": request.method[:16], "route": route}
        with suppress(ComelError):  # it is refused anyway
            audit.record("refuse", key=key, outcome="refused", status=refusal.status_code, **facts)

    def _is_token(self, presented: str | None) -> bool:
        return self._tokens is not None and presented is not None and self._tokens.is_token(presented)

    def _identify(self, presented: str) -> Key | Bearer | None:
        if self._tokens is not None and self._is_token(presented):
            try:
                return self._tokens.identify(presented)
            except ProviderUnreachable:
                said = "the OpenID Connect provider does not answer; tokens cannot be checked"
                raise _refusal(503, said, {"Retry-After": "10"}) from None
        try:
            return self.keys.identify(presented)
        except ConfigError:
            raise _refusal(503, "the service's API keys cannot be read; its operator must fix this", {}) from None


def allow(scope: Scope, *, cost: float = 1.0) -> Any:
    """A dependency that admits requests whose key covers ``scope``; it runs before the body is read.

    A request counts as ``cost`` of the requests that a key may make per minute: a viewer requests hundreds of tiles.
    """

    async def check(request: Request, bearer: BearerHeader, header: Header) -> None:
        gate: Gate = request.app.state.gate
        presented = bearer.credentials if bearer else header
        if gate.wants_keys(presented):
            # One thread for all waiting requests, so that an unavailable provider does not block others.
            await anyio.to_thread.run_sync(gate.fetch_keys, limiter=request.app.state.fetching)
        try:
            gate.admit(presented, scope, request, cost)
        except HTTPException as refusal:
            await anyio.to_thread.run_sync(partial(gate.note, refusal, request))
            raise

    checked: Callable[..., Awaitable[None]] = check
    return Depends(checked)


def reaches(held: Scope | None, scope: Scope) -> bool:
    """Whether a key's scope includes ``scope``."""
    return held is not None and SCOPES.index(held) >= SCOPES.index(scope)


def _check_host(request: Request) -> None:
    """Refuse foreign host names: a web page whose name resolves to loopback could otherwise read an open
    service through the browser of this machine's user (DNS rebinding)."""
    named = _HOST.fullmatch(request.headers.get("host", ""))
    name = named[1].lower() if named else ""
    arrived_at = str((request.scope.get("server") or ("", None))[0]).lower()
    if not name or not (is_loopback(name) or name == arrived_at):
        raise _refusal(421, "without API keys this service answers to localhost only", {})


def _check_origin(request: Request) -> None:
    """Refuse requests from pages of other origins: their forms need no permission to reach an open service."""
    origin = request.headers.get("origin")
    allowed: tuple[str, ...] = request.app.state.settings.cors_origins
    if origin is None or origin in allowed:
        return
    if urlsplit(origin).netloc.lower() != request.headers.get("host", "").lower():
        raise _refusal(403, "without API keys this service refuses requests from pages of other origins", {})


def _refusal(status: int, said: str, headers: dict[str, str]) -> HTTPException:
    return HTTPException(HTTPStatus(status), said, headers)
