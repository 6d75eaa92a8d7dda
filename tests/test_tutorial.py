"""The documents' commands exist with their options, and the tutorial's run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from comel.app.cli import app
from tests.places import ROOT

TUTORIAL = ROOT / "docs" / "tutorial.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "data_manifests" / "README.md"])


def blocks(language: str) -> list[str]:
    """The tutorial's code blocks of a language, in order."""
    return [body for kind, body in FENCED.findall(TUTORIAL.read_text(encoding="utf-8")) if kind == language]


def commands(document: Path) -> Iterator[list[str]]:
    """Every ``comel ...`` that stands on a line of code, as words."""
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = [line for _, body in FENCED.findall(text) for line in body.splitlines()]
    indented = [line for line in text.splitlines() if line.startswith("    ")]
    for line in [*fenced, *indented]:
        if line.strip().startswith("comel "):
            yield shlex.split(line.strip(), comments=True)[1:]


def unknown_words(words: list[str]) -> list[str]:
    """What the command line does not know: the command's name, or options that it has not."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return words[:1]
        command, words = command.commands[words[0]], words[1:]
    command = command.made() if hasattr(command, "made") else command
    known = {name for parameter in command.params for name in [*parameter.opts, *parameter.secondary_opts]} | {"--help"}
    return [word for word in words if word.startswith("-") and word.split("=")[0] not in known and len(word) > 1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_documents_commands_exist_with_their_options(document: Path) -> None:
    wrong = {" ".join(words): unknown for words in commands(document) if (unknown := unknown_words(words))}
    assert not wrong


def test_the_check_finds_what_is_wrong() -> None:
    assert unknown_words(["extrakt", "cohort.csv"]) == ["extrakt"]
    assert unknown_words(["extract", "cohort.csv", "--tile_size", "256"]) == ["--tile_size"]
    assert unknown_words(["bags", "stats", "bags", "--json"]) == []
    shown = [words for words in commands(TUTORIAL) if words]
    assert {words[0] for words in shown} >= {
        "synth",
        "manifest",
        "inspect",
        "extract",
        "train",
        "add-task",
        "evaluate",
        "predict",
    }


def test_the_documents_link_to_what_is_there() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).is_file(), f"{document.name}: {target}"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    """Every block in its order, in an empty folder, with ``comel`` on the path as after an installation."""
    program = tmp_path / "bin" / "comel"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m comel.app.cli "$@"\n')
    program.chmod(0o755)
    place = tmp_path / "work"
    place.mkdir()
    environment = {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",  # more threads than idle cores wait for each other
    }
    steps = [["bash", "-euo", "pipefail", "-c", body] for body in blocks("sh")]
    steps += [[sys.executable, "-c", body] for body in blocks("python")]
    assert len(steps) >= 8
    for step in steps:
        done = subprocess.run(step, cwd=place, env=environment, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, f"{step[-1]}\n{done.stderr[-2000:]}"
    written = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert written >= {
        "tissue.png",
        "cases.csv",
        "colon.csv",
        "runs/mine/report.html",
        "runs/mine/versions/002/model.json",
        "predictions/kidney-0003.png",
        "predictions/kidney-0003.geojson",
        "from-python/kidney-0003.json",
    }
    assert len([path for path in written if path.startswith("bags/overlays/")]) == 24
    assert "kidney" in done.stdout
