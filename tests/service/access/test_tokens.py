"""OpenID Connect tokens, from a provider of our own on this machine: what counts, what does not, and what is fetched when."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi.testclient import TestClient

from comel.errors import ConfigError
from service.access import tokens
from service.access.gate import Gate
from service.access.tokens import ProviderUnreachable, TokenVerifier
from service.app import create_app
from service.settings import ServiceSettings

SCOPES = {"comel:read": "read", "comel:predict": "predict", "Pathology": "predict", "comel:admin": "admin"}


class Provider:
    """An issuer with a key or two; counts what is fetched."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {"first": ("RS256", rsa.generate_private_key(65537, 2048))}
        self.fetched: list[str] = []
        self.up, self.names_itself = True, True
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.fetched.append(self.path)
                body = provider.answer(self.path) if provider.up else None
                self.send_response(503 if body is None else 200)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.issuer = f"http://127.0.0.1:{self.server.server_port}/realms/hospital"

    def answer(self, path: str) -> Any:
        if path.endswith("/.well-known/openid-configuration"):
            issuer = self.issuer if self.names_itself else "https://other.example"
            return {"issuer": issuer, "jwks_uri": f"{self.issuer}/certs"}
        keys = []
        for kid, (algorithm, key) in self.keys.items():
            kind = jwt.algorithms.RSAAlgorithm if algorithm[0] == "R" else jwt.algorithms.ECAlgorithm
            keys.append(kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid, "use": "sig"})
        return {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "shared"}, *keys]}

    def token(self, kid: str = "first", *, key: Any = None, algorithm: str | None = None, **claims: Any) -> str:
        """A good token, apart from ``claims``; one that is None is left out."""
        now = int(time.time())
        good = {
            "iss": self.issuer,
            "aud": "comel",
            "sub": "u-17",
            "iat": now,
            "exp": now + 600,
            "scope": "openid comel:predict",
        }
        content = {name: value for name, value in (good | claims).items() if value is not None}
        if key is None:
            own_algorithm, key = self.keys[kid]
            algorithm = algorithm or own_algorithm
        return jwt.encode(content, key, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture
def provider() -> Iterator[Provider]:
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def verifier(provider: Provider) -> TokenVerifier:
    return TokenVerifier(provider.issuer, "comel", "scope", SCOPES)  # type: ignore[arg-type]


def test_a_good_token_has_a_name_and_a_scope(provider: Provider, verifier: TokenVerifier) -> None:
    found = verifier.identify(provider.token())
    assert found is not None
    assert (found.name, found.scope, found.allows("read"), found.allows("admin")) == ("oidc:u-17", "predict", True, False)
    nothing = verifier.identify(provider.token(scope="openid email"))
    assert nothing is not None
    assert (nothing.scope, nothing.allows("read")) == (None, False)
    named = verifier.identify(provider.token(sub="jane.doe@hospital.example"))
    assert named is not None
    assert "jane" not in named.name
    assert verifier.identify(provider.token(aud=["other", "comel"])) is not None


@pytest.mark.parametrize(
    ("claim", "claims", "scope"),
    [
        ("groups", {"groups": ["Pathology", "Staff"]}, "predict"),
        ("realm_access.roles", {"realm_access": {"roles": ["comel:read", "comel:admin"]}}, "admin"),
        ("realm_access.roles", {"realm_access": ["comel:admin"]}, None),
        ("groups", {"groups": [["comel:admin"], 7, None]}, None),
        ("groups", {"groups": {"comel:admin": True}}, None),
    ],
)
def test_scopes_stand_where_the_provider_puts_them(provider: Provider, claim: str, claims: Any, scope: str | None) -> None:
    found = TokenVerifier(provider.issuer, "comel", claim, SCOPES).identify(provider.token(**claims))  # type: ignore[arg-type]
    assert found is not None
    assert found.scope == scope


BAD: dict[str, Callable[[Provider], str]] = {
    "expired": lambda p: p.token(exp=int(time.time()) - 120),
    "not yet": lambda p: p.token(nbf=int(time.time()) + 600),
    "without an end": lambda p: p.token(exp=None),
    "without a subject": lambda p: p.token(sub=None),
    "for another service": lambda p: p.token(aud="other"),
    "for nobody": lambda p: p.token(aud=None),
    "of another provider": lambda p: p.token(iss="https://other.example"),
    "signed by a stranger": lambda p: p.token(key=rsa.generate_private_key(65537, 2048), algorithm="RS256"),
    "of an unknown key": lambda p: p.token("second", key=p.keys["first"][1], algorithm="RS256"),
    "by a shared secret": lambda p: p.token("shared", key="secret" * 8, algorithm="HS256"),
    "by the public key as a secret": lambda p: p.token(key="n" * 64, algorithm="HS256"),
    "not signed": lambda p: jwt.encode({"iss": p.issuer, "aud": "comel", "sub": "x", "exp": 9e9}, "", "none", {"kid": "first"}),
    "cut": lambda p: p.token()[:-9],
    "changed": lambda p: ".".join(a if i != 1 else a[:-4] + "AAAA" for i, a in enumerate(p.token().split("."))),
    "no token": lambda p: "a.b.c",
    "nested without end": lambda p: "W1tb" * 900 + ".W1tb.x",
}


@pytest.mark.parametrize("name", BAD)
def test_a_token_that_is_not_right_does_not_count(name: str, provider: Provider, verifier: TokenVerifier) -> None:
    assert verifier.identify(provider.token()) is not None
    assert verifier.identify(BAD[name](provider)) is None


def test_keys_are_kept_and_new_ones_found_without_asking_at_every_token(
    provider: Provider, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        assert verifier.identify(provider.token()) is not None
    assert len(provider.fetched) == 2
    for index in range(20):
        assert verifier.identify(provider.token(f"made-up-{index}", key=provider.keys["first"][1], algorithm="RS256")) is None
    assert len(provider.fetched) == 2
    monkeypatch.setattr(tokens, "_AGAIN_SECONDS", -1.0)
    provider.keys["second"] = "ES256", ec.generate_private_key(ec.SECP256R1())
    assert verifier.identify(provider.token("second")) is not None
    assert len(provider.fetched) == 4
    del provider.keys["first"]
    monkeypatch.setattr(tokens, "_KEYS_SECONDS", -1.0)
    assert verifier.identify(provider.token("first", key=rsa.generate_private_key(65537, 2048), algorithm="RS256")) is None
    provider.up = False
    assert verifier.identify(provider.token("second")) is not None  # a provider that is away for a while stops nobody


def test_one_key_of_an_unknown_kind_does_not_spoil_the_others(provider: Provider, verifier: TokenVerifier) -> None:
    answer = provider.answer

    def with_more(path: str) -> Any:
        said = answer(path)
        if "keys" in said:
            said["keys"] += [{"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "x"}, {"kty": "EC", "crv": "P-1", "kid": "y"}]
        return said

    provider.answer = with_more  # type: ignore[method-assign]
    assert verifier.identify(provider.token()) is not None


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256"])
def test_a_key_that_leaves_its_algorithm_open_signs_with_any_of_its_kind(
    algorithm: str, provider: Provider, verifier: TokenVerifier
) -> None:
    answer = provider.answer
    key = provider.keys["first"][1]
    provider.answer = lambda path: _without_algorithm(answer(path))  # type: ignore[method-assign]
    assert verifier.identify(provider.token(key=key, algorithm=algorithm)) is not None


def _without_algorithm(said: Any) -> Any:
    for entry in said.get("keys", ()):
        entry.pop("alg", None)
    return said


def test_a_provider_that_hangs_keeps_no_known_token_waiting(provider: Provider, verifier: TokenVerifier) -> None:
    known = provider.token()
    assert verifier.identify(known) is not None
    hanging, go_on, answer = threading.Event(), threading.Event(), provider.answer
    answered: list[str] = []

    def hang(path: str) -> Any:
        hanging.set()
        go_on.wait(240)
        answered.append(path)
        return answer(path)

    provider.answer = hang  # type: ignore[method-assign]
    verifier._tried = -1e9
    stranger = provider.token("made-up", key=provider.keys["first"][1], algorithm="RS256")
    asking = threading.Thread(target=verifier.identify, args=[stranger])
    asking.start()
    assert hanging.wait(60)
    assert verifier.identify(known) is not None
    assert not answered
    go_on.set()
    asking.join(60)


def test_a_long_subject_fits_the_columns_that_keep_it(provider: Provider, verifier: TokenVerifier) -> None:
    found = verifier.identify(provider.token(sub="u" * 80))
    assert found is not None
    assert len(found.name) <= 64


@pytest.mark.parametrize("how", ["down", "another"])
def test_a_provider_that_cannot_be_asked_is_no_way_in(how: str, provider: Provider, verifier: TokenVerifier) -> None:
    provider.up, provider.names_itself = how != "down", how != "another"
    for _ in range(2):
        with pytest.raises(ProviderUnreachable):
            verifier.identify(provider.token())
    assert len(provider.fetched) == 1


@pytest.mark.parametrize("issuer", ["http://login.example", "login.example", "file:///etc/passwd", "https://", ""])
def test_keys_come_over_a_protected_connection_only(issuer: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        TokenVerifier(issuer, "comel", "scope", {})


def test_the_service_takes_tokens_beside_keys(provider: Provider, settings: ServiceSettings, predictor: Any) -> None:
    settings = settings.model_copy(update={"oidc_issuer": provider.issuer, "requests_per_minute": 6})
    assert not Gate(settings).open
    with TestClient(create_app(settings, predictor=predictor)) as client:

        def ask(path: str, **claims: Any) -> Any:
            return client.get(path, headers={"Authorization": f"Bearer {provider.token(**claims)}"})

        assert client.get("/v1/models").status_code == 401
        assert ask("/v1/models").status_code == 200
        assert ask("/metrics").status_code == 403
        assert ask("/metrics", scope="comel:admin", sub="boss").status_code == 200
        assert ask("/v1/models", scope="", sub="guest").status_code == 403
        assert ask("/v1/models", exp=1).status_code == 401
        assert [ask("/v1/models").status_code for _ in range(5)][-1] == 429
        key = client.app.state.gate.keys.add("viewer", "read")  # type: ignore[attr-defined]
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert not Gate(settings.model_copy(update={"host": "0.0.0.0"})).open
    Gate(settings.model_copy(update={"host": "0.0.0.0"})).check_exposure()  # tokens are a way in, so there need be no key
    provider.up = False
    with TestClient(create_app(settings, predictor=predictor)) as client:
        assert client.get("/v1/models", headers={"Authorization": f"Bearer {provider.token()}"}).status_code == 503
