"""What these tests share: a toy stream of bags and a run trained on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.comel.toys import Stream, write_stream

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def toy_stream(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Three tasks of 16 slides. Read only: copy what you change."""
    return write_stream(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, toy_stream: Stream) -> Path:
    """A finished OWLoRA run of two tasks, colon and kidney, that has learned them well. Read only."""
    import comel

    settings = toy_stream.settings(tasks=["colon", "kidney"], epochs=8, lr=3e-3)
    return comel.train(settings, tmp_path_factory.mktemp("run") / "owlora", quiet=True)


@pytest.fixture
def comel_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``comel_cli("evaluate", run, ...)`` runs the command in this process: (exit code, standard output, standard error)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        from comel.app.cli import main

        monkeypatch.setattr("sys.argv", ["comel", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
