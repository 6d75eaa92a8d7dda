"""A label or a task that is written as programs write a missing value, such as ``null`` or ``NA``: a name where the user names
it, at every command, and else refused by those that use it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import comel
from comel.reporting.collect import collect_run
from tests.comel.toys import FINETUNE, Stream, write_stream

Cli = Callable[..., tuple[int, str, str]]


def renamed(old: str, new: str, column: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row[column] = new if row[column] == old else row[column]

    return change


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Half its slides are called ``null``."""
    return write_stream(tmp_path_factory.mktemp("null"), ("colon",), slides=8, change=renamed("normal", "null", "label"))


@pytest.fixture(scope="module")
def run(stream: Stream, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = stream.settings(FINETUNE, epochs=1)
    settings["data"]["negative"] = "null"
    return comel.train(settings, tmp_path_factory.mktemp("run") / "run", quiet=True)


def test_what_the_settings_name_is_a_name_for_every_command(stream: Stream, run: Path, comel_cli: Cli, tmp_path: Path) -> None:
    bags = ("--bags", stream.bags)
    code, out, said = comel_cli("evaluate", run, "--manifest", stream.manifest, *bags, "--split", "all", "--quiet")
    assert (code, said) == (0, "")
    assert "colon" in out
    code, out, said = comel_cli("predict", run, stream.manifest, *bags, "--out", tmp_path / "out", "--quiet")
    assert (code, said) == (0, "")
    assert "colon/null" in out
    assert {label for *_, label in collect_run(run, "run").data.slides["colon"]} == {"null", "tumour"}


def test_a_task_that_the_user_names_is_learned_and_scored(run: Path, comel_cli: Cli, tmp_path: Path) -> None:
    more = write_stream(tmp_path / "more", ("kidney",), slides=8, change=renamed("kidney", "NA", "task"))
    where = ("--manifest", more.manifest, "--bags", more.bags)
    code, _, said = comel_cli("add-task", run, *where, "--quiet")
    assert (code, "column task: is empty ('NA' means a missing value" in said) == (2, True)
    assert comel_cli("add-task", run, *where, "--task", "NA", "--set", "trainer.epochs=1", "--quiet")[0] == 0
    code, _, said = comel_cli("evaluate", run, *where, "--quiet")
    assert (code, said) == (0, "")


def test_who_makes_nothing_of_labels_takes_them_as_they_are(stream: Stream, comel_cli: Cli, tmp_path: Path) -> None:
    code, out, said = comel_cli("extract", stream.manifest, "--out", tmp_path / "bags", "--status")
    assert (code, said) == (0, "")
    assert "remaining 8" in out.replace("  ", " ")
    (tmp_path / "m.csv").write_text("slide_id,path,label,task\na,a.svs,,colon\n")
    code, _, said = comel_cli("extract", tmp_path / "m.csv", "--out", tmp_path / "bags", "--status")
    assert (code, said) == (2, "comel: m.csv row 2 column label: is empty\n")


def test_who_writes_tables_of_labels_refuses_them(stream: Stream, comel_cli: Cli, tmp_path: Path) -> None:
    """CLAM would read them as nothing."""
    code, _, said = comel_cli("bags", "export", stream.bags, "--manifest", stream.manifest, "--out", tmp_path / "clam")
    assert (code, said.count("\n")) == (2, 1)
    assert "column label: is empty ('null' means a missing value: fill it in, or use another word if it" in said
    assert not (tmp_path / "clam").exists()
