"""Bearer tokens of an OpenID Connect provider, in addition to or instead of API keys.

A token is valid if the provider's own key signed it, it names this provider and this service, it has not expired, and a
scope, role or group in it maps to one of the service's scopes. Any other token is refused.

The provider's public keys are fetched when they are first needed, again after an hour, and again when a token is signed by one
unknown key, at most once in ten seconds. One fetch runs at a time, in its own thread, and is given up after
ten seconds: an unavailable or slow provider delays only requests whose token cannot be checked without it.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from comel.errors import ConfigError
from service.access.keys import SCOPES, Scope, is_loopback

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Bearer", "ProviderUnreachable", "TokenVerifier"]

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures by a private key. Neither a shared secret (HS256) nor "none" is allowed."""
_LONGEST_TOKEN = 16 << 10
_LARGEST_ANSWER = 1 << 20
_LEEWAY_SECONDS = 60
_KEYS_SECONDS = 3600.0
_AGAIN_SECONDS = 10.0
_TIMEOUT_SECONDS = 5.0
_FETCH_SECONDS = 10.0
_TIMES = ("exp", "nbf", "iat")


class ProviderUnreachable(Exception):
    """The provider's keys cannot be fetched, so no token can be checked now."""


@dataclass(frozen=True)
class Bearer:
    """A token's holder: the name in the audit log, and the highest scope that it has, or None."""

    name: str
    scope: Scope | None

    def allows(self, scope: Scope) -> bool:
        """Whether the scope includes ``scope``."""
        return self.scope is not None and SCOPES.index(self.scope) >= SCOPES.index(scope)


class TokenVerifier:
    """Checks tokens of one provider. Thread-safe.

    Args:
        issuer: the provider, as its tokens name it in ``iss``; its configuration lies below.
        audience: this service, as tokens name it in ``aud``.
        claim: where a token lists scopes, roles or groups: a claim's name, or a path of names joined by dots.
        scopes: the service's scope for each of these.

    Raises:
        ConfigError: the library is not installed, or keys would come over an unprotected connection.
    """

    def __init__(self, issuer: str, audience: str, claim: str, scopes: Mapping[str, Scope]) -> None:
        try:
            import jwt
        except ImportError:
            raise ConfigError("OpenID Connect tokens need PyJWT", "install it: pip install 'comel-mil[oidc]'") from None
        _check_address(issuer, "oidc_issuer")
        self._jwt, self._issuer, self._audience = jwt, issuer, audience
        self._claim, self._scopes = claim.split("."), dict(scopes)
        self._client = _client_of(issuer)
        self._lock = threading.Lock()
        self._keys: dict[str, Any] = {}
        self._flight: threading.Thread | None = None
        self._began = self._tried = -1e9

    @staticmethod
    def is_token(presented: str) -> bool:
        """Whether this has the form of a signed token; API keys do not."""
        return len(presented) <= _LONGEST_TOKEN and re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", presented, re.ASCII) is not None

    def wants_keys(self, token: str) -> bool:
        """Whether a token cannot be checked before :meth:`fetch` was called. If keys are merely old, a fetch is started."""
        kid = self._signed_with(token)
        with self._lock:
            if kid is None or not self._due():
                return False
            if kid not in self._keys:
                return True
            if self._client.jwk_set_cache.is_expired():
                self._begin()
            return False

    def fetch(self) -> None:
        """Wait until the provider's keys were fetched, or cannot be: ten seconds at most. The next try is ten seconds later."""
        with self._lock:
            if not self._due():
                return
            self._begin()
            flight, left = self._flight, self._began + _FETCH_SECONDS - time.monotonic()
        assert flight is not None
        flight.join(max(0.0, left))
        if flight.is_alive():
            with self._lock:
                self._tried = time.monotonic()

    def identify(self, token: str) -> Bearer | None:
        """Who the token is of, None if it does not count. Never waits.

        Raises:
            ProviderUnreachable: the keys cannot be fetched.
        """
        kid = self._signed_with(token)
        with self._lock:
            if kid is not None and not self._keys:
                raise ProviderUnreachable
            key = None if kid is None else self._keys.get(kid)
        if key is None:
            return None
        # What a token of a stranger may be is without end, and so are the ways in which a library fails at it.
        with suppress(Exception):
            return self._bearer(token, key)
        return None

    def _bearer(self, token: str, key: Any) -> Bearer | None:
        algorithm = self._jwt.get_unverified_header(token)["alg"]
        # A provider may leave open which of the algorithms of its kind a key is for.
        if self._client.stated.get(key.key_id or "") not in (None, algorithm):
            return None
        claims = self._jwt.decode(
            token,
            key.key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=_LEEWAY_SECONDS,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )
        if any(type(claims[name]) not in (int, float) for name in _TIMES if name in claims):
            return None
        return Bearer(_name(claims["sub"]), self._scope(claims))

    def _signed_with(self, token: str) -> str | None:
        """The id of the key that a token says it is signed with, empty if it names none; None if it cannot count."""
        with suppress(Exception):
            header = self._jwt.get_unverified_header(token)
            if header["alg"] in _ALGORITHMS:
                return str(header.get("kid", ""))
        return None

    def _scope(self, claims: Mapping[str, Any]) -> Scope | None:
        found: Any = claims
        for part in self._claim:
            found = found.get(part) if isinstance(found, Mapping) else None
        listed = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        reached = [self._scopes[name] for name in listed if isinstance(name, str) and name in self._scopes]
        return max(reached, key=SCOPES.index, default=None)

    def _due(self) -> bool:
        """Whether the provider may be asked, or is being asked."""
        return time.monotonic() - self._tried > _AGAIN_SECONDS

    def _begin(self) -> None:
        """Fetch the keys in a thread of their own, unless that is under way."""
        if self._flight is None or not self._flight.is_alive():
            self._began = time.monotonic()
            self._flight = threading.Thread(target=self._refresh, name="comel-oidc", daemon=True)
            self._flight.start()

    def _refresh(self) -> None:
        # Known keys stay good while the provider is away for a while: they are its own.
        keys = None
        with suppress(Exception):
            keys = {key.key_id or "": key for key in self._client.get_jwk_set(refresh=True)}
        with self._lock:
            self._keys = keys or self._keys
            self._tried = time.monotonic()


def _client_of(issuer: str) -> Any:
    """PyJWT's client of a provider's keys, with the limits that it has not: of the answer's size, and of the time in all."""
    import jwt

    class Client(jwt.PyJWKClient):
        stated: dict[str, str | None] = {}  # noqa: RUF012

        def fetch_data(self) -> Any:
            with _limited_time() as opened:
                about = _get_json(self.uri, opened)
                if about["issuer"] != issuer:
                    raise ValueError("the configuration is another issuer's")
                _check_address(about["jwks_uri"], "jwks_uri")
                listed = _get_json(about["jwks_uri"], opened)["keys"]
            usable = [entry for entry in listed if _signs(entry)]
            self.stated = {str(entry.get("kid") or ""): entry.get("alg") for entry in usable}
            return {"keys": usable}

    def _signs(entry: Any) -> bool:
        """Whether this is a public key for signatures of a kind that is known; of one that is not, the others still count."""
        with suppress(Exception):
            return entry["kty"] in ("RSA", "EC", "OKP") and entry.get("use", "sig") == "sig" and bool(jwt.PyJWK(entry).key)
        return False

    return Client(issuer.rstrip("/") + "/.well-known/openid-configuration", lifespan=_KEYS_SECONDS)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that leads elsewhere is an error: elsewhere was not checked."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


@contextmanager
def _limited_time() -> Iterator[list[Any]]:
    """Connections that are put into the list are cut when the time for a fetch is over, however slowly they answer."""
    opened: list[Any] = []

    def cut() -> None:
        for connection in opened:
            with suppress(OSError, AttributeError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    over = threading.Timer(_FETCH_SECONDS, cut)
    over.daemon = True
    over.start()
    try:
        yield opened
    finally:
        over.cancel()


def _get_json(address: str, opened: list[Any]) -> Any:
    def keep(kind: type[HTTPConnection], *arguments: Any, **options: Any) -> HTTPConnection:
        connection = kind(*arguments, **options)
        opened.append(connection)
        return connection

    class Plain(urllib.request.HTTPHandler):
        def http_open(self, request: Any) -> Any:
            return self.do_open(partial(keep, HTTPConnection), request)

    class Secure(urllib.request.HTTPSHandler):
        def https_open(self, request: Any) -> Any:
            return self.do_open(partial(keep, HTTPSConnection), request)

    deadline, content = time.monotonic() + _FETCH_SECONDS, b""
    with urllib.request.build_opener(_NoRedirect, Plain, Secure).open(address, timeout=_TIMEOUT_SECONDS) as answer:
        while block := answer.read1(_LARGEST_ANSWER):
            content += block
            if len(content) > _LARGEST_ANSWER or time.monotonic() > deadline:
                raise ValueError("the answer is too long, or takes too long")
    return json.loads(content)


def _check_address(address: str, what: str) -> None:
    parts = urlsplit(address)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))):
        raise ConfigError(f"{what}: {address[:200]!r} is no https address", "give the provider's address with https://")


def _name(subject: str) -> str:
    """The token's subject for the log; as a hash where it is long or more than a plain id, such as a mail address."""
    plain = re.fullmatch(r"[A-Za-z0-9_.:|-]{1,59}", subject)
    return "oidc:" + (subject if plain else hashlib.blake2b(subject.encode("utf-8", "replace"), digest_size=12).hexdigest())
