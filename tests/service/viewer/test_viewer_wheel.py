"""The package that users install carries the pages and what they need from npm."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.places import ROOT

PACKAGE = json.loads((ROOT / "package.json").read_text())
LIBRARIES = {name: ROOT / "node_modules" / place for name, place in PACKAGE["vendored"].items()}


def test_the_lock_pins_what_is_asked_for_and_names_no_registry() -> None:
    lock = json.loads((ROOT / "package-lock.json").read_text())
    assert set(PACKAGE["dependencies"]) == {"openseadragon", "swagger-ui-dist"}
    for name, wanted in PACKAGE["dependencies"].items():
        locked = lock["packages"][f"node_modules/{name}"]
        assert locked["version"] == wanted
        assert locked["integrity"].startswith("sha512-")
    assert not any("resolved" in package for package in lock["packages"].values())


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs the git checkout")
def test_none_of_it_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=600).stdout
    assert "package-lock.json" in listed
    assert not [name for name in listed.splitlines() if Path(name).name in LIBRARIES or "node_modules" in name]
    assert {str(path.relative_to(ROOT)) for path in LIBRARIES.values()} <= set((ROOT / "MANIFEST.in").read_text().split())


@pytest.mark.slow
@pytest.mark.skipif(not all(path.is_file() for path in LIBRARIES.values()), reason="needs the pages' libraries: make viewer")
def test_a_built_wheel_carries_the_pages_and_their_libraries(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    kept = ("comel", "pipelines", "service", "configs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
    sources.mkdir()
    for name in (*kept, "package.json", "package-lock.json", "node_modules"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, sources / name)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(sources)]
    subprocess.run(build, check=True, capture_output=True, timeout=600)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        templates = {name for name in archive.namelist() if name.startswith("comel/reporting/templates/")}
        carried = {name.removeprefix("service/viewer/") for name in archive.namelist() if name.startswith("service/viewer/")}
        for name, path in LIBRARIES.items():
            assert archive.read(f"service/viewer/vendor/{name}") == path.read_bytes()
    own = {path.name for path in (ROOT / "service" / "viewer").iterdir() if path.is_file()}
    assert templates == {f"comel/reporting/templates/{path.name}" for path in (ROOT / "comel/reporting/templates").iterdir()}
    assert carried == own | {f"vendor/{name}" for name in LIBRARIES}
