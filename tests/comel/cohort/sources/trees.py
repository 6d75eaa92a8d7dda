"""Empty files under the names that the cohorts' downloads have, and the command that lists them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner


@dataclass(frozen=True)
class Listed:
    """What the command said: the JSON it printed and its warnings."""

    result: dict[str, Any]
    warnings: list[str]


def touch(root: Path, *names: str) -> None:
    """Make empty files with these names below a folder."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def manifest_command(*arguments: object) -> Listed:
    """Run ``comel manifest ... --json``; an error of the command is raised here."""
    from comel.app.commands.manifest import app

    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    if done.exception is not None:
        raise done.exception
    warnings = [line.removeprefix("warning: ") for line in done.stderr.splitlines()]
    return Listed(json.loads(done.stdout), warnings)
