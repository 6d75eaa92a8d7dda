"""OpenID Connect tokens, from a provider of our own on this machine: what counts, what does not, and what is fetched when."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fastapi.testclient import TestClient

from comel.errors import ConfigError
from service.access import tokens
from service.access.gate import Gate
from service.access.tokens import Bearer, ProviderUnreachable, TokenVerifier
from service.settings import ServiceSettings
from tests.service.in_process import app_with

SCOPES = {"comel:read": "read", "comel:predict": "predict", "Pathology": "predict", "comel:admin": "admin"}


FIRST_KEY = rsa.generate_private_key(65537, 2048)


class Provider:
    """An issuer with a key or two; counts what is fetched."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {"first": ("RS256", FIRST_KEY)}
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
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
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


def ask(verifier: TokenVerifier, token: str) -> Bearer | None:
    """What the gate does: fetch keys where they are wanted, then identify."""
    if verifier.wants_keys(token):
        verifier.fetch()
    return verifier.identify(token)


def test_a_good_token_has_a_name_and_a_scope(provider: Provider, verifier: TokenVerifier) -> None:
    found = ask(verifier, provider.token())
    assert found is not None
    assert (found.name, found.scope, found.allows("read"), found.allows("admin")) == ("oidc:u-17", "predict", True, False)
    nothing = ask(verifier, provider.token(scope="openid email"))
    assert nothing is not None
    assert (nothing.scope, nothing.allows("read")) == (None, False)
    named = ask(verifier, provider.token(sub="jane.doe@hospital.example"))
    assert named is not None
    assert "jane" not in named.name
    assert ask(verifier, provider.token(aud=["other", "comel"])) is not None


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
    verifier = TokenVerifier(provider.issuer, "comel", claim, SCOPES)  # type: ignore[arg-type]
    found = ask(verifier, provider.token(**claims))
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
    assert ask(verifier, provider.token()) is not None
    assert ask(verifier, BAD[name](provider)) is None


def part(value: Any) -> str:
    """A part of a token: JSON, or bytes as they are."""
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


HEADERS: list[Any] = [
    *({}, [], "text", 7, None, b"", b"{", b"\xff\xfe", b"[" * 9000, b'{"alg": NaN}'),
    *({"alg": wrong} for wrong in (None, 7, ["RS256"], {"RS256": 1}, "", "none", "RS256", "rs256")),
    *({"alg": "RS256", "kid": wrong} for wrong in (None, 7, ["first"], {"a": 1}, "\ud800", "../../etc/passwd")),
    *({"alg": other, "kid": "first"} for other in ("ES256", "EdDSA", "PS512", "HS256", "none")),
    {"alg": "HS256", "kid": "shared"},
    *({"alg": "RS256", "kid": "first"} | more for more in ({"crit": ["exp"]}, {"crit": 7}, {"b64": False}, {"zip": "DEF"})),
    {"alg": "RS256", "kid": "first", "b64": False, "crit": ["b64"]},
    {"alg": "RS256", "kid": "first", "jwk": {"kty": "oct"}, "jku": "http://127.0.0.1:1/"},
]
CLAIMS: dict[str, list[Any]] = {
    "exp": ["soon", "9999999999", True, [1], {}, 1e400, float("nan"), None, -1],
    "nbf": ["soon", [1], {}, 1e400, float("nan"), True],
    "iat": ["soon", [1], {}, 1e400, 9e12],
    "iss": [7, [], {}, None, ""],
    "aud": [7, {}, None, [], [7], ["other"], [["comel"]], ""],
    "sub": [7, [], {}, None, True],
    "jti": [7],
}


@pytest.mark.parametrize("body", [{}, b"", b"[", b"\xff", b"[" * 9000, "text", 7])
def test_a_malformed_token_of_any_kind_is_401_and_no_defect(body: Any, provider: Provider, verifier: TokenVerifier) -> None:
    ask(verifier, provider.token())
    for header in HEADERS:
        for signature in ("", "x", "!!!!", part(b"0" * 256), "é"):
            assert ask(verifier, f"{part(header)}.{part(body)}.{signature}") is None


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_of_another_kind_makes_a_token_that_does_not_count(
    claim: str, provider: Provider, verifier: TokenVerifier
) -> None:
    """Signed by the provider itself, whose tokens may be odd."""
    for value in CLAIMS[claim]:
        now = int(time.time())
        good = {"iss": provider.issuer, "aud": "comel", "sub": "u", "exp": now + 600, "scope": "comel:read"}
        kind, key = provider.keys["first"]
        content = json.dumps(good | {claim: value}).encode()
        token = jwt.api_jws.PyJWS().encode(content, key, kind, {"kid": "first"})
        assert ask(verifier, token) is None, value


@pytest.mark.parametrize("scope", [7, None, {}, [["comel:admin"]], [{}], {"comel:admin": 1}, True, "", "\ud800"])
def test_scopes_of_any_other_kind_are_none(scope: Any, provider: Provider, verifier: TokenVerifier) -> None:
    kind, key = provider.keys["first"]
    good = {"iss": provider.issuer, "aud": "comel", "sub": "\ud800" * 9, "exp": int(time.time()) + 600, "scope": scope}
    token = jwt.api_jws.PyJWS().encode(json.dumps(good).encode(), key, kind, {"kid": "first"})
    found = ask(verifier, token)
    assert found is not None
    assert (found.scope, found.allows("read")) == (None, False)


def test_keys_are_kept_and_new_ones_found_without_asking_at_every_token(
    provider: Provider, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        assert ask(verifier, provider.token()) is not None
    assert len(provider.fetched) == 2
    for index in range(20):
        assert ask(verifier, provider.token(f"made-up-{index}", key=provider.keys["first"][1], algorithm="RS256")) is None
    assert len(provider.fetched) == 2
    monkeypatch.setattr(tokens, "_AGAIN_SECONDS", -1.0)
    provider.keys["second"] = "ES256", ec.generate_private_key(ec.SECP256R1())
    assert ask(verifier, provider.token("second")) is not None
    assert len(provider.fetched) == 4
    provider.up = False
    verifier.fetch()
    assert ask(verifier, provider.token("second")) is not None  # a provider that is away for a while stops nobody


def test_old_keys_are_fetched_again_while_tokens_go_on(
    provider: Provider, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ask(verifier, provider.token()) is not None
    monkeypatch.setattr(tokens, "_AGAIN_SECONDS", -1.0)
    verifier._client.jwk_set_cache.lifespan = 0.0
    del provider.keys["first"]
    provider.keys["second"] = "RS256", rsa.generate_private_key(65537, 2048)
    withdrawn = provider.token("first", key=rsa.generate_private_key(65537, 2048), algorithm="RS256")
    assert not verifier.wants_keys(withdrawn)  # its key is known, if old: nobody waits
    eventually(lambda: "second" in verifier._keys)
    assert verifier.identify(withdrawn) is None


def test_one_key_of_an_unknown_kind_does_not_spoil_the_others(provider: Provider, verifier: TokenVerifier) -> None:
    answer = provider.answer

    def with_more(path: str) -> Any:
        said = answer(path)
        if "keys" in said:
            said["keys"] += [{"kty": "OKP", "crv": "X25519", "x": "AAAA", "kid": "x"}, {"kty": "EC", "crv": "P-1", "kid": "y"}]
        return said

    provider.answer = with_more  # type: ignore[method-assign]
    assert ask(verifier, provider.token()) is not None


@pytest.mark.parametrize("algorithm", ["RS256", "RS512", "PS256"])
def test_a_key_that_leaves_its_algorithm_open_signs_with_any_of_its_kind(
    algorithm: str, provider: Provider, verifier: TokenVerifier
) -> None:
    answer = provider.answer
    key = provider.keys["first"][1]
    provider.answer = lambda path: _without_algorithm(answer(path))  # type: ignore[method-assign]
    assert ask(verifier, provider.token(key=key, algorithm=algorithm)) is not None


def _without_algorithm(said: Any) -> Any:
    for entry in said.get("keys", ()):
        entry.pop("alg", None)
    return said


def test_a_provider_that_hangs_keeps_no_known_token_waiting(
    provider: Provider, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = provider.token()
    assert ask(verifier, known) is not None
    go_on, answer = threading.Event(), provider.answer

    def hang(path: str) -> Any:
        go_on.wait(600)
        return answer(path)

    provider.answer = hang  # type: ignore[method-assign]
    monkeypatch.setattr(tokens, "_FETCH_SECONDS", 1.0)
    verifier._tried = -1e9
    stranger = provider.token("made-up", key=provider.keys["first"][1], algorithm="RS256")
    assert verifier.wants_keys(stranger)
    asking = [threading.Thread(target=verifier.fetch) for _ in range(50)]
    for thread in asking:
        thread.start()
    assert verifier.identify(known) is not None
    for thread in asking:
        thread.join(600)
    assert len(provider.fetched) == 3  # one flight for all who waited
    # What could not be had is refused at once, without another try.
    assert not verifier.wants_keys(stranger)
    verifier.fetch()
    assert verifier.identify(stranger) is None
    assert len(provider.fetched) == 3
    go_on.set()


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_provider_that_drips_is_given_up(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then, so that no single read takes long."""
    monkeypatch.setattr(tokens, "_FETCH_SECONDS", 0.5)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection, suppress(OSError):
                head = b"HTTP/1.1 200 OK\r\nX-A: " if where == "head" else b"HTTP/1.1 200 OK\r\n\r\n"
                connection.sendall(head)
                while not over.wait(0.05):
                    connection.sendall(b"a")

        dripping = threading.Thread(target=drip)
        dripping.start()
        verifier = TokenVerifier(f"http://127.0.0.1:{server.getsockname()[1]}", "comel", "scope", {})
        token = jwt.encode({}, rsa.generate_private_key(65537, 2048), "RS256", {"kid": "a"})
        with pytest.raises(ProviderUnreachable):
            ask(verifier, token)
        assert verifier._flight is not None
        verifier._flight.join(600)
        assert not verifier._flight.is_alive()
        over.set()
        dripping.join(600)


def test_an_answer_without_end_is_not_read(provider: Provider, verifier: TokenVerifier) -> None:
    provider.answer = lambda path: {"issuer": "x" * (2 << 20)}  # type: ignore[method-assign]
    with pytest.raises(ProviderUnreachable):
        ask(verifier, provider.token())


def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(12_000):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError("it did not come about in ten minutes")


def test_a_long_subject_fits_the_columns_that_keep_it(provider: Provider, verifier: TokenVerifier) -> None:
    found = ask(verifier, provider.token(sub="u" * 80))
    assert found is not None
    assert len(found.name) <= 64


@pytest.mark.parametrize("how", ["down", "another"])
def test_a_provider_that_cannot_be_asked_is_no_way_in(how: str, provider: Provider, verifier: TokenVerifier) -> None:
    provider.up, provider.names_itself = how != "down", how != "another"
    for _ in range(2):
        with pytest.raises(ProviderUnreachable):
            ask(verifier, provider.token())
    assert len(provider.fetched) == 1


@pytest.mark.parametrize("issuer", ["http://login.example", "login.example", "file:///etc/passwd", "https://", ""])
def test_keys_come_over_a_protected_connection_only(issuer: str) -> None:
    with pytest.raises(ConfigError, match="https"):
        TokenVerifier(issuer, "comel", "scope", {})


@pytest.mark.usefixtures("no_refill")
def test_the_service_takes_tokens_beside_keys(provider: Provider, settings: ServiceSettings, predictor: Any) -> None:
    settings = settings.model_copy(update={"oidc_issuer": provider.issuer, "requests_per_minute": 6})
    assert not Gate(settings).open
    with TestClient(app_with(settings, predictor)) as client:

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
    with TestClient(app_with(settings, predictor)) as client:
        away = client.get("/v1/models", headers={"Authorization": f"Bearer {provider.token()}"})
        assert (away.status_code, away.headers["retry-after"]) == (503, "10")
        for wrong in ("a.b.c", f"{part({'alg': 'RS256'})}..", f"{part([])}.{part({})}.x", "é.b.c", "a" * 20_000):
            for header in ((b"Authorization", f"Bearer {wrong}".encode()), (b"X-API-Key", wrong.encode())):
                assert client.get("/v1/models", headers=[header]).status_code in (401, 503), wrong


def test_a_provider_that_is_away_holds_up_no_one_else(
    provider: Provider, settings: ServiceSettings, predictor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many tokens wait as there are threads for everything else."""
    monkeypatch.setattr(tokens, "_FETCH_SECONDS", 600.0)
    go_on, answer = threading.Event(), provider.answer

    def hang(path: str) -> Any:
        go_on.wait(600)
        return answer(path)

    provider.answer = hang  # type: ignore[method-assign]
    settings = settings.model_copy(update={"oidc_issuer": provider.issuer, "requests_per_minute": 10_000})
    token = {"Authorization": f"Bearer {provider.token()}"}
    with TestClient(app_with(settings, predictor)) as client, ThreadPoolExecutor(80) as pool:
        key = {"X-API-Key": client.app.state.gate.keys.add("viewer", "read")}  # type: ignore[attr-defined]
        waiting = [pool.submit(client.get, "/v1/models", headers=token) for _ in range(80)]
        eventually(lambda: len(provider.fetched) == 1)
        for _ in range(5):
            assert client.get("/v1/models", headers=key).status_code == 200
        assert not any(asked.done() for asked in waiting)
        go_on.set()
        assert {asked.result().status_code for asked in waiting} == {200}
    assert len(provider.fetched) == 2
