"""API keys: how they are kept, what they allow, how often, and when none is needed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from comel.app.commands import keys as commands
from comel.errors import ConfigError
from service import app as application
from service.access.gate import Gate
from service.access.keys import SCOPES, KeyStore, is_loopback, private_files, private_folder
from service.access.rate import RateLimiter
from service.app import serve
from service.settings import ServiceSettings
from tests.service.answers import bag_bytes
from tests.service.in_process import app_with

NEEDED = [
    ("GET", "/v1/models", "read"),
    ("GET", "/v1/models/{name}", "read"),
    ("POST", "/v1/models/{name}/version", "admin"),
    ("GET", "/v1/predictions/" + "0" * 32, "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/instances", "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/map.png", "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/map.geojson", "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/tiles", "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/tiles/{rank}.jpg", "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/bag.h5", "read"),
    ("DELETE", "/v1/predictions/" + "0" * 32, "predict"),
    ("GET", "/v1/predictions", "read"),
    ("POST", "/v1/predictions", "predict"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/raster.png", "read"),
    ("GET", "/v1/predictions/" + "0" * 32 + "/raster.json", "read"),
    ("GET", "/v1/slides", "read"),
    ("GET", "/v1/slides/{slide}", "read"),
    ("GET", "/v1/slides/{slide}/thumbnail.jpg", "read"),
    ("GET", "/v1/slides/{slide}/tiles/{level}/{column}_{row}.jpg", "read"),
    ("GET", "/v1/jobs", "read"),
    ("GET", "/v1/jobs/" + "0" * 32, "read"),
    ("POST", "/v1/jobs/" + "0" * 32 + "/cancel", "predict"),
    ("POST", "/v1/uploads", "predict"),
    ("GET", "/v1/uploads/" + "0" * 32, "predict"),
    ("PUT", "/v1/uploads/" + "0" * 32, "predict"),
    ("DELETE", "/v1/uploads/" + "0" * 32, "predict"),
    ("GET", "/metrics", "admin"),
]
OPEN = {"/healthz", "/readyz"}


@pytest.fixture
def store(settings: ServiceSettings) -> KeyStore:
    return KeyStore(settings.state_dir)


@pytest.fixture
def held(store: KeyStore) -> dict[str, str]:
    """One key a scope, by scope."""
    return {scope: store.add(f"{scope}er", scope) for scope in SCOPES}


@pytest.fixture
def guarded(held: dict[str, str], settings: ServiceSettings, predictor: Any) -> Iterator[TestClient]:
    with TestClient(app_with(settings, predictor)) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_only_a_salted_hash_is_kept_and_only_the_owner_reads_it(store: KeyStore) -> None:
    secret = store.add("viewer", "read")
    assert len(secret) >= 6 + 43
    text = store.path.read_text()
    assert secret not in text
    assert secret.removeprefix("comel_") not in text
    (entry,) = json.loads(text)["keys"]
    expected = hashlib.blake2b(secret.encode(), digest_size=32, salt=bytes.fromhex(entry["salt"]), person=b"comel-api-key")
    assert entry["hash"] == expected.hexdigest()
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert store.path.parent.stat().st_mode & 0o077 == 0
    assert store.add("other", "read") != secret
    assert store.path.stat().st_mode & 0o777 == 0o600
    assert len({entry["salt"] for entry in json.loads(store.path.read_text())["keys"]}) == 2


def test_a_key_is_known_until_it_is_revoked_by_any_process(store: KeyStore) -> None:
    secret = store.add("viewer", "read")
    other = KeyStore(store.path.parent)
    found = other.identify(secret)
    assert found is not None
    assert (found.name, found.scope) == ("viewer", "read")
    for wrong in ("", secret[:-1], secret + "x", secret.swapcase(), "comel_", "é", "x" * 10**6):
        assert other.identify(wrong) is None
    store.revoke("viewer")
    assert other.identify(secret) is None
    with pytest.raises(ConfigError, match="no active key 'viewer'"):
        store.revoke("viewer")
    with pytest.raises(ConfigError, match="or there was"):
        store.add("viewer", "admin")


def test_keys_added_at_once_are_all_kept(store: KeyStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        secrets = list(pool.map(lambda index: KeyStore(store.path.parent).add(f"key{index}", "read"), range(8)))
    assert {key.name for secret in secrets if (key := store.identify(secret))} == {f"key{index}" for index in range(8)}


@pytest.mark.parametrize(
    ("name", "scope", "said"), [("a b", "read", "cannot name"), ("", "read", "name"), ("a", "all", "scope")]
)
def test_names_and_scopes_are_checked(store: KeyStore, name: str, scope: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        store.add(name, scope)
    assert not store.exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 2, "keys": []}', '{"format": 1, "keys": [{"name": "a"}]}', "[" * 99_999]
)
def test_a_damaged_key_file_lets_nobody_in(store: KeyStore, guarded: TestClient, held: Any, content: str) -> None:
    store.path.write_text(content)
    with pytest.raises(ConfigError, match="cannot be read as keys"):
        KeyStore(store.path.parent).all()
    answer = guarded.get("/v1/models", headers=bearer(held["admin"]))
    assert answer.status_code == 503
    assert str(store.path.parent) not in answer.text


@pytest.mark.parametrize(("method", "path", "scope"), NEEDED)
def test_every_route_asks_for_its_scope(guarded: TestClient, held: dict[str, str], method: str, path: str, scope: str) -> None:
    answer = guarded.request(method, path)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["www-authenticate"] == 'Bearer realm="comel"'
    wrong = guarded.request(method, path, headers=bearer("comel_" + "x" * 43))
    assert (wrong.status_code, "invalid_token" in wrong.headers["www-authenticate"]) == (401, True)
    for has, key in held.items():
        for headers in (bearer(key), {"X-API-Key": key}):
            answer = guarded.request(method, path, headers=headers)
            if SCOPES.index(has) < SCOPES.index(scope):
                assert answer.status_code == 403
                assert f'scope="{scope}"' in answer.headers["www-authenticate"]
                assert answer.headers["content-type"] == "application/problem+json"
            else:
                assert answer.status_code not in (401, 403, 429)


def test_no_route_was_forgotten(guarded: TestClient) -> None:
    document = guarded.get("/openapi.json").json()
    guarded_paths = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods if path not in OPEN
    }
    listed = {(method, path.replace("0" * 32, "{identifier}")) for method, path, _ in NEEDED}
    assert guarded_paths == listed
    for method, path in guarded_paths:
        operation = document["paths"][path][method.lower()]
        assert operation["security"]
        assert {"401", "403", "429"} <= set(operation["responses"])
    for path in OPEN:
        assert guarded.get(path).status_code == 200


def test_the_body_of_a_stranger_is_not_read(guarded: TestClient) -> None:
    answer = guarded.post("/v1/predictions", content=b"x", headers={"content-length": str(10**12)})
    assert answer.status_code == 401


def test_a_revoked_key_is_refused_at_once(guarded: TestClient, held: dict[str, str], store: KeyStore) -> None:
    assert guarded.get("/v1/models", headers=bearer(held["read"])).status_code == 200
    store.revoke("reader")
    assert guarded.get("/v1/models", headers=bearer(held["read"])).status_code == 401


def test_a_vanished_key_file_does_not_open_the_service(guarded: TestClient, store: KeyStore) -> None:
    store.path.unlink()
    assert guarded.get("/v1/models").status_code == 401
    lost = guarded.get("/readyz")
    assert (lost.status_code, "keys are lost" in lost.json()["detail"]) == (503, True)


def test_the_first_key_closes_an_open_service_for_good(client: TestClient, store: KeyStore) -> None:
    assert client.get("/v1/models").status_code == 200
    key = store.add("viewer", "read")
    assert client.get("/v1/models").status_code == 401
    for path in store.path.parent.glob("keys.*"):
        path.unlink()  # all that says that there were keys
        assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers=bearer(key)).status_code == 401


@pytest.mark.parametrize("revoked", [False, True])
def test_a_service_that_had_keys_starts_closed_without_them(
    revoked: bool, store: KeyStore, settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    store.add("viewer", "predict")
    if revoked:
        store.revoke("viewer")
    store.path.unlink()
    assert not Gate(settings).open
    content = bag_bytes(tmp_path, make_bag([0.5]))
    with TestClient(app_with(settings, predictor)) as client:
        for path in ("/v1/models", "/v1/predictions", "/v1/jobs", "/v1/slides", "/metrics"):
            assert client.get(path).status_code == 401
        assert client.post("/v1/predictions", files={"bag": ("a.h5", content)}).status_code == 401
        assert client.get("/readyz").status_code == 503
        again = store.add("second", "read")
        assert client.get("/v1/models", headers=bearer(again)).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_the_keys_of_an_earlier_version_are_remembered(store: KeyStore, settings: ServiceSettings) -> None:
    store.add("viewer", "read")
    (settings.state_dir / "keys.required").unlink()  # which that version did not write
    assert not Gate(settings).open
    store.path.unlink()
    assert not Gate(settings).open


def test_a_state_that_never_had_keys_is_open_on_loopback_unless_keys_are_required(settings: ServiceSettings) -> None:
    assert Gate(settings).open
    for more in ({"require_keys": True}, {"host": "0.0.0.0"}, {"host": "0.0.0.0", "require_keys": False}):
        assert not Gate(settings.model_copy(update=more)).open
    with pytest.raises(ConfigError, match=r"require_keys is set.*comel keys add"):
        Gate(settings.model_copy(update={"require_keys": True})).check_exposure()
    Gate(settings).check_exposure()


def test_that_keys_are_lost_is_said_where_they_are_required(settings: ServiceSettings, store: KeyStore) -> None:
    store.add("viewer", "read")
    store.path.unlink()
    with pytest.raises(ConfigError, match=r"keys\.json is lost: restore it"):
        Gate(settings.model_copy(update={"host": "0.0.0.0"})).check_exposure()


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o707, 0o701])
def test_a_state_folder_that_others_can_read_is_closed_to_them(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    for names in ((), ("lost+found",), ("comel.db", "other.txt")):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in names:
            (folder / name).touch()
        folder.chmod(mode)
        private_folder(folder)
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_use_is_no_state_folder(tmp_path: Path) -> None:
    """Closing /tmp or somebody's home to everyone else would do more harm than refusing it."""
    shared, sticky = tmp_path / "home", tmp_path / "tmp"
    for folder, mode in ((shared, 0o755), (sticky, 0o1777)):
        folder.mkdir()
        (folder / "thesis.tex").touch()
        folder.chmod(mode)
        with pytest.raises(ConfigError, match="give a separate folder"):
            private_folder(folder)
        assert folder.stat().st_mode & 0o7777 == mode
    (sticky / "comel.db").touch()
    with pytest.raises(ConfigError, match="give a separate folder"):
        private_folder(sticky)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "no")

    (tmp_path / "state").mkdir(mode=0o755)
    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(ConfigError, match="another user"):
        private_folder(tmp_path / "state")


def test_what_a_service_writes_is_its_owners_alone(
    settings: ServiceSettings, predictor: Any, make_bag: Any, tmp_path: Path
) -> None:
    content = bag_bytes(tmp_path, make_bag([0.2, 0.9]))
    with private_files(), TestClient(app_with(settings, predictor)) as client:
        made = client.post("/v1/predictions", files={"bag": ("a.h5", content)}).json()
        assert client.get(made["links"]["map"]).status_code == 200
        client.post("/v1/uploads", json={"filename": "a", "size": 9})
        found = [settings.state_dir, *settings.state_dir.rglob("*")]
    assert len(found) > 12
    assert [path for path in found if path.exists() and path.stat().st_mode & 0o077] == []


def test_an_open_service_answers_to_its_own_address_only(client: TestClient) -> None:
    for name in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert client.get("/v1/models", headers={"host": name}).status_code == 200
    for name in ("evil.example", "localhost.evil.example", "10.0.0.1", "localhost@evil.example", "evil/localhost", ""):
        assert client.get("/v1/models", headers={"host": name}).status_code == 421


def test_a_page_of_another_origin_gets_nothing_from_an_open_service(
    client: TestClient, settings: ServiceSettings, predictor: Any, send: Any, make_bag: Any
) -> None:
    """A form needs no leave of the service to be sent, and a browser sends it from any page."""
    made = send(make_bag([0.5])).json()["id"]
    for origin in ("https://evil.example", "http://localhost:81", "null"):
        for method in ("GET", "POST"):
            assert client.request(method, "/v1/predictions", headers={"origin": origin}).status_code == 403
        assert client.delete(f"/v1/predictions/{made}", headers={"origin": origin}).status_code == 403
    own = {"host": "localhost:8000", "origin": "http://localhost:8000"}
    assert client.get("/v1/predictions", headers=own).status_code == 200
    opened = settings.model_copy(update={"cors_origins": ("https://viewer.example",)})
    with TestClient(app_with(opened, predictor)) as other:
        assert other.get("/v1/models", headers={"origin": "https://viewer.example"}).status_code == 200


@pytest.mark.usefixtures("no_refill")
def test_a_key_that_asks_too_often_waits_and_others_do_not(held: Any, settings: ServiceSettings, predictor: Any) -> None:
    limited = settings.model_copy(update={"requests_per_minute": 3})
    with TestClient(app_with(limited, predictor)) as client:
        answers = [client.get("/v1/models", headers=bearer(held["read"])) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert answers[-1].headers["content-type"] == "application/problem+json"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert client.get("/v1/models", headers=bearer(held["admin"])).status_code == 200


@given(st.integers(1, 200), st.lists(st.floats(0, 90), min_size=1, max_size=60))
def test_never_more_than_the_limit_and_its_refill(per_minute: int, pauses: list[float]) -> None:
    now = 0.0
    limiter = RateLimiter(per_minute, clock=lambda: now)
    let_in = 0
    for pause in pauses:
        now += pause
        wait = limiter.wait("a")
        let_in += wait == 0
        assert 0 <= wait <= 60 / per_minute + 1
        assert let_in <= per_minute + now * per_minute / 60 + 1e-6
        if wait:
            now += wait
            assert limiter.wait("a") == 0
            let_in += 1


def test_a_bucket_never_holds_more_than_a_minute() -> None:
    now = 0.0
    limiter = RateLimiter(5, clock=lambda: now)
    assert limiter.wait("a") == 0
    now = 3600.0
    assert [limiter.wait("a") for _ in range(6)] == [0, 0, 0, 0, 0, 12]


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.example", "comel")],
    ],
)
def test_what_is_loopback(host: str, inside: bool) -> None:
    assert is_loopback(host) == inside


def listening_to_nothing(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let ``serve`` do all but listen; the hosts that it would listen on."""
    opened: list[str] = []

    def run(server: uvicorn.Server) -> None:
        opened.append(server.config.host)
        server.started = True

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(application, "open_models", lambda settings: SimpleNamespace(names=[]))
    monkeypatch.setattr(application, "route_library_logs", lambda log: None)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return opened


def test_other_addresses_need_a_key_before_anything_is_opened(
    settings: ServiceSettings, store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = listening_to_nothing(monkeypatch)
    outside = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 is reachable from other machines.*comel keys add"):
        serve(outside)
    store.add("viewer", "read")
    store.revoke("viewer")
    with pytest.raises(ConfigError, match="no API key"):
        serve(outside)
    assert opened == []
    store.add("second", "read")
    serve(outside)
    assert opened == ["0.0.0.0"]


def test_that_no_key_is_needed_is_said_at_start(
    settings: ServiceSettings, store: KeyStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listening_to_nothing(monkeypatch)
    serve(settings)
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], "no API keys" in line["event"]) == ("warning", True)
    store.add("viewer", "read")
    serve(settings)
    assert capsys.readouterr().err == ""


def test_an_application_for_others_is_closed_even_without_keys(settings: ServiceSettings, predictor: Any) -> None:
    outside = settings.model_copy(update={"host": "0.0.0.0"})
    assert not Gate(outside).open
    with TestClient(app_with(outside, predictor)) as client:
        assert client.get("/v1/models").status_code == 401


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        return CliRunner().invoke(commands.app, [*arguments, "--state", str(tmp_path / "keys state")])

    return run


def test_keys_are_made_listed_and_revoked_by_commands(command: Any, tmp_path: Path) -> None:
    added = command("add", "viewer", "--scope", "predict")
    assert added.exit_code == 0, added.output
    secret = added.stdout.strip()
    key = KeyStore(tmp_path / "keys state").identify(secret)
    assert key is not None
    assert (key.name, key.scope) == ("viewer", "predict")
    listed = command("list")
    assert "viewer: predict, created " in listed.stdout
    assert secret not in listed.output
    assert json.loads(command("list", "--json").stdout)[0]["revoked"] is None
    assert command("revoke", "viewer").stdout == "viewer: revoked\n"
    assert "revoked" in command("list").stdout
    again = command("revoke", "viewer")
    assert isinstance(again.exception, ConfigError)
    other = json.loads(command("add", "second", "--scope", "read", "--json").stdout)
    assert KeyStore(tmp_path / "keys state").identify(other["key"]) is not None
    lines = [json.loads(line) for line in (tmp_path / "keys state" / "audit.jsonl").read_text().splitlines()]
    assert [(line["action"], line["key"]) for line in lines] == [
        ("key-add", "viewer"),
        ("key-revoke", "viewer"),
        ("key-add", "second"),
    ]
    assert secret not in (tmp_path / "keys state" / "audit.jsonl").read_text()


def test_no_keys_are_said(command: Any) -> None:
    assert command("list").stdout.startswith("no keys in ")
