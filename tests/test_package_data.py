"""Whatever lies in a package beside its code goes into the wheel."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatch

from tests.places import ROOT


def test_every_file_that_is_no_code_is_declared() -> None:
    declared: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    found = []
    for package in ("comel", "pipelines", "service", "configs"):
        files = [path for path in (ROOT / package).rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
        for path in files:
            name = str(path.relative_to(ROOT / package))
            found.append(name)
            assert any(fnmatch(name, pattern) for pattern in declared.get(package, ())), f"{package}/{name} is in no wheel"
    assert {"reporting/templates/report.html", "viewer/index.html", "demo.yaml"} <= set(found)
