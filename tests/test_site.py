"""The documentation site builds without a warning, from the repository alone, and refers to nothing on the network."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import comel
from tests.places import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_document_has_a_page_and_a_place_in_the_navigation(site: Path) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    for document in (ROOT / "docs").rglob("*.md"):
        name = document.relative_to(ROOT / "docs").as_posix()
        assert re.search(rf"[ :-] {re.escape(name)}$", navigation, re.MULTILINE), name
        assert (site / name).with_suffix(".html").is_file()
    assert not list(site.rglob("*.py"))


def test_the_reference_has_every_function_and_no_markup_of_another_kind(site: Path) -> None:
    page = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert not [name for name in comel.__all__ if callable(getattr(comel, name)) and f'id="comel.{name}"' not in page]
    for path in (site / "reference").glob("*.html"):
        text = re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8"))
        assert not re.findall(r":(?:class|func|meth|mod|attr|data|exc):`?", text), path.name
    models = (site / "reference" / "models.html").read_text(encoding="utf-8")
    assert 'id="comel.models.base.MILModel.forward"' in models
    assert re.search(r'href="[^"]*#comel\.models\.base\.BagOutput"', models)
    assert "Columns the cross-entropy runs over." in models  # a pydantic field's description


def test_a_page_fetches_nothing(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s>]*", text), path.name
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )[\"']?(?:https?:)?//[^)\"']*", path.read_text(encoding="utf-8")), path.name
