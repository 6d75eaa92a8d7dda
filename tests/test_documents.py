"""The documents name files, modules and packages that exist, and the architecture page follows the law of imports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

import comel
from tests.places import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "data_manifests" / "README.md"])
ARCHITECTURE = ROOT / "docs" / "architecture.md"
FOLDERS = (
    "comel",
    "pipelines",
    "service",
    "tests",
    "configs",
    "benchmarks",
    "examples",
    "constraints",
    "data_manifests",
    "docs",
)
PATH = re.compile(rf"(?<![\w./~-])(?:{'|'.join(FOLDERS)})/[\w*./-]*[\w*/]")
"""A path from the repository's root; none that goes on from another folder."""
DOTTED = re.compile(r"(?<![\w./@:-])(?:comel|pipelines|service)(?:\.[A-Za-z_]\w*)+")
NO_MODULES = {"comel.encoders", "comel.db", "comel.hospital.example", "service.get", "service.request"}
"""An entry-point group without a package of its name, the service's database file, a host, and a client called service."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def paths_in(text: str) -> list[str]:
    """The paths that a text names, but for the one on which an example of code says what file it would be."""
    return PATH.findall(re.sub(r"^```python\n# .*$", "", text, flags=re.MULTILINE))


def exists(path: str) -> bool:
    """Whether a path is there; of one with a NAME to choose, its folder."""
    path = path.rpartition("/")[0] if "NAME" in path else path
    return any(ROOT.glob(path.rstrip("/"))) if "*" in path else (ROOT / path).exists()


def names_in(text: str) -> list[str]:
    """Dotted names of modules and of what is in them; a file's name such as ``comel.service`` is none."""
    names = [match[0] for match in DOTTED.finditer(text) if text[match.end() : match.end() + 1] != "/"]
    return [name for name in names if name not in NO_MODULES]


def resolves(name: str) -> bool:
    """Whether a dotted name leads to a package, a module, or something that a module defines; nothing is imported."""
    first, *rest = name.split(".")
    place = ROOT / first
    for index, part in enumerate(rest):
        if (place / part).is_dir():
            place = place / part
        elif (place / f"{part}.py").is_file():
            return defined(place / f"{part}.py", rest[index + 1 :])
        else:
            return defined(place / "__init__.py", rest[index:])
    return True


def defined(module: Path, names: list[str]) -> bool:
    """Whether a module's source defines, assigns or imports each of the names."""
    if module == ROOT / "comel" / "__init__.py" and names:
        return hasattr(comel, names[0])
    source = module.read_text(encoding="utf-8") if module.is_file() else ""
    return all(
        re.search(rf"^\s*(?:(?:async )?def|class) {name}\b|^\s*{name}\b.*[:=]|import .*\b{name}\b", source, re.M)
        for name in names
    )


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_paths_and_modules_that_a_document_names_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if document.name == "CHANGELOG.md":
        text = text.partition("\n## [0.")[0]  # what a release said of its own tree stays
    assert not [path for path in paths_in(text) if not exists(path)]
    assert not [name for name in names_in(text) if not resolves(name)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("see `comel/bags/bag.py` and `comel/bag.py`", ["comel/bag.py"]),
        ("`tests/comel/models/` or `tests/comel/no_such_folder/`", ["tests/comel/no_such_folder/"]),
        ("/opt/comel/bin/pip, ./service/x.yaml, https://a.example/docs/b", []),
        ("`configs/*.yaml`, `configs/*.toml`", ["configs/*.toml"]),
    ],
)
def test_a_path_that_is_not_there_is_found(text: str, wrong: list[str]) -> None:
    assert [path for path in paths_in(text) if not exists(path)] == wrong


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("comel.models.base", True),
        ("comel.models.base.MILModel", True),
        ("comel.models.base.MILModel.forward", True),
        ("comel.train", True),
        ("comel.owlora", True),
        ("pipelines.slides.slide.open_slide", True),
        ("comel.bag", False),
        ("comel.bags.bag.Bagg", False),
        ("comel.trainn", False),
        ("pipelines.slide.open_slide", False),
    ],
)
def test_a_module_that_is_not_there_is_found(name: str, there: bool) -> None:
    assert names_in(f"see {name} and deploy/comel.service") == [name]
    assert resolves(name) is there


def test_the_architecture_page_names_every_package() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    packages = {
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for top in ("comel", "pipelines", "service")
        for path in (ROOT / top).glob("*/__init__.py")
    }
    assert packages
    assert not {package for package in packages if f"`{package}`" not in text}


@pytest.mark.parametrize("staircase", ["the staircase of comel", "the staircase of pipelines", "the staircase of service"])
def test_the_architecture_page_goes_up_the_stairs_as_the_contracts_do(staircase: str) -> None:
    (contract,) = [entry for entry in PROJECT["tool"]["importlinter"]["contracts"] if entry["name"] == staircase]
    top = staircase.rpartition(" ")[2]
    floors = [[name.strip().rpartition(".")[2] for name in layer.split("|")] for layer in reversed(contract["layers"])]
    text = ARCHITECTURE.read_text(encoding="utf-8")
    table = text.partition(f"### {top}, from the bottom up\n")[2].partition("\n##")[0]
    rows = [line for line in table.splitlines() if line.startswith(f"| `{top}/")]
    place: dict[str, int] = {}
    for number, row in enumerate(rows):
        for name in re.findall(rf"`{top}/(\w+)(?:/|\.py)", row.partition("|")[2].partition("|")[0]):
            place.setdefault(name, number)
    for lower, upper in pairwise(floors):
        below, above = [place[name] for name in lower if name in place], [place[name] for name in upper if name in place]
        assert below
        assert above
        assert max(below) <= min(above), (lower, upper)


def test_the_citation_and_the_changelog_know_the_version() -> None:
    version = PROJECT["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    (released,) = re.findall(rf'^version: {re.escape(version)}\ndate-released: "(\d{{4}}-\d\d-\d\d)"$', citation, re.M)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## [{version}] - {released}\n" in changelog
    assert re.search(r"^## \[Unreleased\]$", changelog, re.M)


def test_the_citation_is_one_by_the_schema() -> None:
    program = Path(sys.executable).with_name("check-jsonschema")
    if not program.exists():
        pytest.skip("check-jsonschema is not installed")
    command: list[str | Path] = [program, "--builtin-schema", "vendor.citation-file-format", ROOT / "CITATION.cff"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout
