"""Bearer tokens of an OpenID Connect provider, beside or in place of API keys.

A token counts where the provider's own key signed it, it names this provider and this service, its time has not passed, and a
scope, role or group in it stands for one of the service's scopes. The provider's public keys are fetched when they are first
needed and again when a token is signed by one that is not known, at most once in ten seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from comel.errors import ComelError, ConfigError
from service.access.keys import SCOPES, Scope, is_loopback

__all__ = ["Bearer", "ProviderUnreachable", "TokenVerifier"]

_ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures by a private key. A shared secret (HS256) is not among them, nor is none at all."""
_LONGEST_TOKEN = 16 << 10
_LARGEST_ANSWER = 1 << 20
_LEEWAY_SECONDS = 60
_KEYS_SECONDS = 3600.0
_AGAIN_SECONDS = 10.0
_TIMEOUT_SECONDS = 5.0


class ProviderUnreachable(Exception):
    """The provider's keys cannot be fetched, so no token can be checked now."""


@dataclass(frozen=True)
class Bearer:
    """Who a token is of: the name that the audit log has, and the highest scope that it reaches, None of none."""

    name: str
    scope: Scope | None

    def allows(self, scope: Scope) -> bool:
        """Whether the scope reaches ``scope``."""
        return self.scope is not None and SCOPES.index(self.scope) >= SCOPES.index(scope)


class TokenVerifier:
    """Checks tokens of one provider. Safe from several threads.

    Args:
        issuer: the provider, as its tokens name it in ``iss``; its configuration lies below.
        audience: this service, as tokens name it in ``aud``.
        claim: where a token lists scopes, roles or groups: a claim's name, or a path of names joined by dots.
        scopes: which of these stands for which scope of the service.

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
        self._lock = threading.Lock()
        self._keys: dict[str, dict[str, Any]] = {}
        self._idle = threading.Event()
        self._idle.set()
        self._fetched = self._tried = -1e9

    @staticmethod
    def is_token(presented: str) -> bool:
        """Whether this has the form of a signed token, which no API key has."""
        return len(presented) <= _LONGEST_TOKEN and re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", presented, re.ASCII) is not None

    def identify(self, token: str) -> Bearer | None:
        """Who the token is of, None where it does not count. May take seconds, when keys are fetched.

        Raises:
            ProviderUnreachable: as said.
        """
        jwt = self._jwt
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header["alg"]
            entry = self._key(str(header.get("kid", ""))) if algorithm in _ALGORITHMS else None
            # A provider may leave open which of the algorithms of its kind a key is for.
            if entry is None or entry.get("alg", algorithm) != algorithm:
                return None
            claims = jwt.decode(
                token,
                jwt.PyJWK(entry, algorithm=algorithm),
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            return None
        return Bearer(_name(str(claims["sub"])), self._scope(claims))

    def _scope(self, claims: Mapping[str, Any]) -> Scope | None:
        found: Any = claims
        for part in self._claim:
            found = found.get(part) if isinstance(found, Mapping) else None
        listed = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
        reached = [self._scopes[name] for name in listed if isinstance(name, str) and name in self._scopes]
        return max(reached, key=SCOPES.index, default=None)

    def _key(self, kid: str) -> dict[str, Any] | None:
        """The provider's public key of this id, None where it has none.

        One request at a time fetches keys. The others go on with those that are known, and wait only where there are none.
        """
        with self._lock:
            now = time.monotonic()
            stale = now - self._fetched > _KEYS_SECONDS
            mine = (stale or kid not in self._keys) and now - self._tried > _AGAIN_SECONDS
            if mine:
                self._tried = now
                self._idle.clear()
        if mine:
            try:
                keys = self._fetch()
                with self._lock:
                    self._keys, self._fetched = keys, now
            except (OSError, HTTPException, ComelError, ValueError, KeyError, TypeError, AttributeError):
                pass  # known keys stay good while the provider is away for a while: they are its own
            finally:
                self._idle.set()
        elif not self._keys:
            self._idle.wait(3 * _TIMEOUT_SECONDS)
        with self._lock:
            if not self._keys:
                raise ProviderUnreachable
            return self._keys.get(kid)

    def _fetch(self) -> dict[str, dict[str, Any]]:
        about = _get_json(self._issuer.rstrip("/") + "/.well-known/openid-configuration")
        if about["issuer"] != self._issuer:
            raise ValueError("the configuration is another issuer's")
        _check_address(about["jwks_uri"], "jwks_uri")
        listed = _get_json(about["jwks_uri"])["keys"]
        return {str(entry.get("kid", "")): entry for entry in listed if self._signs(entry)}

    def _signs(self, entry: Any) -> bool:
        """Whether this is a public key for signatures of a kind that is known; of one that is not, the others still count."""
        if entry.get("kty") not in ("RSA", "EC", "OKP") or entry.get("use", "sig") != "sig":
            return False
        try:
            self._jwt.PyJWK(entry)
        except (self._jwt.PyJWTError, ValueError, KeyError, TypeError):
            return False
        return True


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that leads elsewhere is an error: elsewhere was not checked."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _get_json(address: str) -> Any:
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(address, timeout=_TIMEOUT_SECONDS) as answer:
        content = answer.read(_LARGEST_ANSWER + 1)
    if len(content) > _LARGEST_ANSWER:
        raise ValueError("the answer is too long")
    return json.loads(content)


def _check_address(address: str, what: str) -> None:
    parts = urlsplit(address)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))):
        raise ConfigError(f"{what}: {address[:200]!r} is no https address", "give the provider's address with https://")


def _name(subject: str) -> str:
    """The token's subject for the log; as a hash where it is long or more than a plain id, such as a mail address."""
    plain = re.fullmatch(r"[A-Za-z0-9_.:|-]{1,59}", subject)
    return "oidc:" + (subject if plain else hashlib.blake2b(subject.encode("utf-8", "replace"), digest_size=12).hexdigest())
