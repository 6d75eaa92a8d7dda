"""Classes by name, from an installed package's entry points, and from a file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import comel
from comel.base.registry import nearest, resolve_name, resolve_user_code
from comel.errors import ConfigError
from comel.models import MODELS, model_class
from comel.models.base import MILModel
from comel.strategies import STRATEGIES, strategy_class
from comel.strategies.base import Strategy
from tests.comel.toys import Stream

MINE = '''
from __future__ import annotations

from dataclasses import dataclass

from comel.strategies.base import Strategy


@dataclass
class Note:
    text: str


class Patient(Strategy):
    """Trains nothing but the heads."""

    def parameters(self, model, stage):
        from comel.strategies.base import train_heads

        return [train_heads(model, stage.heads)]
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path that offers a strategy and a broken model by entry points."""
    (tmp_path / "patient_comel.py").write_text(MINE)
    info = tmp_path / "patient_comel-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: patient-comel\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[comel.strategies]\npatient = patient_comel:Patient\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_one(name: str) -> None:
    assert issubclass(model_class(name), MILModel)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_is_one(name: str) -> None:
    assert issubclass(strategy_class(name), Strategy)


def test_an_installed_package_offers_a_strategy(installed: Path, toy_stream: Stream, tmp_path: Path) -> None:
    assert strategy_class("patient").__name__ == "Patient"
    run = comel.train(toy_stream.settings({"name": "patient"}, tasks=["colon"], epochs=1), tmp_path / "run", quiet=True)
    assert (run / "current").exists()
    with pytest.raises(ConfigError, match="did you mean 'patient'"):
        strategy_class("patiend")


def test_a_file_may_hold_dataclasses(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    assert issubclass(resolve_user_code(f"{tmp_path}/mine.py:Patient")[0], Strategy)


def test_a_file_does_not_stand_in_for_a_module_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("class Mine: pass")
    assert resolve_user_code(f"{tmp_path}/json.py:Mine")[0].__name__ == "Mine"
    import json

    assert json.loads("1") == 1


def test_what_is_hashed_is_what_is_run(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_bytes(MINE.encode())
    assert resolve_user_code(f"{tmp_path}/mine.py:Patient")[1] == hashlib.sha256(MINE.encode()).hexdigest()


def test_a_name_runs_no_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit('run')")
    for name in (f"{tmp_path}/mine.py:Patient", f"{tmp_path}/mine.py", "os:system", "../mine", "", "mine.py:"):
        with pytest.raises(ConfigError, match="strategies: no "):
            resolve_name(name, STRATEGIES, "comel.strategies")


def test_code_that_ends_the_process_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match=r"mine\.py: cannot be loaded \(SystemExit: 3\)"):
        resolve_user_code(f"{tmp_path}/mine.py:Mine")


def test_the_nearest_name_or_all_of_them() -> None:
    assert nearest("owlra", ["owlora", "joint"]) == "did you mean 'owlora'?"
    assert nearest("zzz", ["b", "a"]) == "choose one of a, b"
    assert nearest("zzz", []) == "leave it out: there is nothing to choose from"
