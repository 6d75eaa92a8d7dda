"""Which version it is: of the distribution, else of the checkout."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from comel.base import version
from comel.base.version import comel_version
from tests.places import ROOT


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    comel_version.cache_clear()
    yield
    comel_version.cache_clear()


def test_the_distribution_is_asked_by_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"comel-mil": "7.1", "comel": "99"}
    monkeypatch.setattr(metadata, "version", installed.__getitem__)
    assert comel_version() == "7.1"


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert comel_version() == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    monkeypatch.setattr(version, "__file__", str(tmp_path / "comel" / "base" / "version.py"))
    for content in (None, "[project]\nname = 'another'\nversion = '3'\n", "[", "[tool]\n"):
        if content is not None:
            (tmp_path / "pyproject.toml").write_text(content)
        comel_version.cache_clear()
        assert comel_version() == "unknown"
