"""A database and a state folder belong together, or nothing starts and nothing is lost."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import delete, text
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from comel.app.commands import db as commands
from comel.errors import ConfigError
from service.access.audit import AuditLog
from service.backend import open_database
from service.db.backup import backup, restore
from service.db.database import Database, WrongDatabase
from service.db.migrate import upgrade
from service.db.pairing import join, pair
from service.db.tables import Installation, PredictionRow
from service.housekeeping import clean
from service.settings import ServiceSettings
from tests.service.databases import database, other_url, postgres, url  # noqa: F401
from tests.service.in_process import app_with

ID = "1" * 32


@pytest.fixture
def other(other_url: str) -> Iterator[Database]:  # noqa: F811
    opened = Database(other_url)
    upgrade(opened)
    yield opened
    opened.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state"


def keep(database: Database, state: Path, identifier: str = ID) -> None:  # noqa: F811
    """A prediction, in the database and in the folder."""
    (state / "predictions" / identifier).mkdir(parents=True)
    row = PredictionRow(id=identifier, slide_id="s", source={}, model="m", version=1, created=1.0, size=1)
    with database.writing() as session:
        session.add(row)


def ids(database: Database) -> list[str]:  # noqa: F811
    with database.reading() as session:
        return [row.id for row in session.query(Installation)]


def test_new_ones_get_an_id_that_both_keep(database: Database, state: Path) -> None:  # noqa: F811
    pair(database, state)
    pair(database, state)
    assert ids(database) == [(state / "state.id").read_text().strip()]
    assert (state / "state.id").stat().st_mode & 0o777 == 0o600


def test_a_state_of_an_earlier_version_is_taken_as_it_is(database: Database, state: Path) -> None:  # noqa: F811
    keep(database, state)
    pair(database, state)
    assert len(ids(database)) == 1


def test_an_empty_database_is_not_that_of_a_folder_with_predictions(
    database: Database,  # noqa: F811
    other: Database,
    state: Path,
) -> None:
    keep(database, state)
    pair(database, state)
    with pytest.raises(
        ConfigError, match=r"does not belong to the state folder.*1 predictions.*comel db restore.*comel db pair"
    ):
        pair(other, state)
    assert ids(other) == []
    (state / "state.id").unlink()
    with pytest.raises(ConfigError, match="does not belong to the state folder"):
        pair(other, state)
    pair(database, state)  # the id is not lost: the database has it


@pytest.mark.parametrize("place", ["uploads", "inbox"])
def test_an_empty_database_is_not_that_of_a_folder_with_what_was_sent(
    place: str,
    database: Database,  # noqa: F811
    state: Path,
) -> None:
    (state / place / ID).mkdir(parents=True)
    with pytest.raises(ConfigError, match="does not belong to the state folder"):
        pair(database, state)


def test_another_services_database_is_refused_also_where_both_hold_nothing(
    database: Database,  # noqa: F811
    other: Database,
    state: Path,
    tmp_path: Path,
) -> None:
    pair(database, state)
    (tmp_path / "second").mkdir()
    pair(other, tmp_path / "second")
    for wrong, folder in ((database, tmp_path / "second"), (other, state)):
        with pytest.raises(ConfigError, match="does not belong to the state folder"):
            pair(wrong, folder)


def test_a_database_with_predictions_is_not_that_of_an_empty_folder(
    database: Database,  # noqa: F811
    state: Path,
    tmp_path: Path,
) -> None:
    keep(database, state)
    pair(database, state)
    (tmp_path / "new").mkdir()
    with pytest.raises(ConfigError, match="does not belong to the state folder"):
        pair(database, tmp_path / "new")


def test_a_restored_database_belongs_to_its_folder(
    database: Database,  # noqa: F811
    other: Database,
    state: Path,
    tmp_path: Path,
) -> None:
    keep(database, state)
    pair(database, state)
    backup(database, tmp_path / "b.gz")
    restore(other, tmp_path / "b.gz")
    pair(other, state)


def test_they_are_joined_where_the_operator_says_so(
    database: Database,  # noqa: F811
    other: Database,
    state: Path,
) -> None:
    keep(database, state)
    pair(database, state)
    join(other, state)
    pair(other, state)
    with pytest.raises(ConfigError, match="does not belong to the state folder"):
        pair(database, state)


@pytest.mark.parametrize("content", ["", "x", "\xff", ID + ID])
def test_an_id_that_cannot_be_read_is_no_new_start(content: str, database: Database, state: Path) -> None:  # noqa: F811
    (state / "state.id").write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"state\.id: cannot be read"):
        pair(database, state)


def test_a_bound_database_that_was_emptied_or_replaced_is_noticed(database: Database, state: Path) -> None:  # noqa: F811
    pair(database, state)
    with database.writing() as session:
        session.execute(delete(Installation))
    with pytest.raises(ConfigError, match="no longer belongs to the state folder"):
        database.check()
    with database.reading() as session, pytest.raises(WrongDatabase):
        database.expect(session)
    database.engine.dispose()
    with pytest.raises(OperationalError), database.reading() as session:
        session.execute(text("SELECT 1"))


def replace(path: Path) -> None:
    for end in ("", "-wal", "-shm"):
        Path(f"{path}{end}").unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as rows:
        rows.execute("CREATE TABLE a (b)")


def unlink(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("how", [unlink, replace])
def test_a_database_that_is_deleted_while_the_service_runs_is_missed(
    how: Callable[[Path], None], client: TestClient, settings: ServiceSettings, send: Any, make_bag: Any
) -> None:
    """What is written to a deleted file would be gone with the process."""
    made = send(make_bag([0.5])).json()["links"]["self"]
    how(settings.state_dir / "comel.db")
    for answer in (client.get(made), send(make_bag([0.5])), client.get("/v1/jobs"), client.delete(made), client.get("/readyz")):
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    backend = client.app.state.backend  # type: ignore[attr-defined]
    with pytest.raises(OperationalError):
        clean(backend.database, settings, client.app.state.audit, left_behind_seconds=-1)  # type: ignore[attr-defined]
    assert len(list((settings.state_dir / "predictions").iterdir())) == 1
    assert (settings.state_dir / "comel.db").exists() == (how is replace)


def test_a_service_does_not_start_with_another_database(
    client: TestClient, settings: ServiceSettings, send: Any, make_bag: Any, predictor: Any
) -> None:
    assert send(make_bag([0.5])).status_code == 201
    for name in settings.state_dir.glob("comel.db*"):
        name.unlink()
    with pytest.raises(ConfigError, match="does not belong to the state folder"):
        open_database(settings)
    with pytest.raises(ConfigError, match="comel db pair"), TestClient(app_with(settings, predictor)):
        pass


def test_an_operator_takes_the_predictions_of_a_folder_into_a_new_database(
    client: TestClient, settings: ServiceSettings, send: Any, make_bag: Any, predictor: Any
) -> None:
    made = [send(make_bag([0.1, score], slide_id=f"s{score}")).json() for score in (0.5, 0.9)]
    damaged = send(make_bag([0.3])).json()["id"]
    (settings.state_dir / "predictions" / damaged / "instances.npz").write_bytes(b"x")
    upload = client.post("/v1/uploads", json={"filename": "a", "size": 9}).json()["id"]
    before = client.get(made[0]["links"]["self"]).json()
    for name in settings.state_dir.glob("comel.db*"):
        name.unlink()
    said = CliRunner().invoke(commands.app, ["pair", "--state", str(settings.state_dir)])
    assert said.exit_code == 0, said.output
    assert "2 predictions added, 2 other folders set aside" in said.output
    assert (settings.state_dir / "set-aside" / "predictions" / damaged / "bag.h5").is_file()
    assert (settings.state_dir / "set-aside" / "uploads" / upload / "a.bin").is_file()
    with TestClient(app_with(settings, predictor)) as again:
        listed = again.get("/v1/predictions").json()["items"]
        assert {entry["id"] for entry in listed} == {one["id"] for one in made}
        assert {(entry["model"], entry["label"]) for entry in listed} == {("breast", "breast/tumour")}
        after = again.get(made[0]["links"]["self"]).json()
        assert after["prediction"] == before["prediction"]
        assert after["created"][:16] == before["created"][:16]
    log = AuditLog(settings.state_dir).path.read_text()
    assert log.count('"adopt"') == 2
    assert log.count('"set-aside"') == 2


def test_a_folder_that_was_copied_is_the_same_state(client: TestClient, settings: ServiceSettings, tmp_path: Path) -> None:
    shutil.copytree(settings.state_dir, tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm", "*-wal"))
    (tmp_path / "copy").chmod(0o700)
    open_database(settings.model_copy(update={"state_dir": tmp_path / "copy"})).close()
