"""The distribution is ``comel-mil``. On PyPI the bare import name is another project's, so no line here may install it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALLERS = re.compile(
    r"\b(?:(?:pip3?|pipx|uv|conda|mamba|micromamba|easy_install)\s(?:[^\n`#;&|]*\s)?(?:install|wheel|download|add|run)"
    r"|(?:poetry|pdm|rye|hatch)\s+add|uvx|pipx\s+run)\b(?P<rest>[^\n`#;&|]*)",
    re.IGNORECASE,
)
"""A command that fetches packages, and its words up to the end of the command."""
WORD = re.compile(r"(?<![\w./@:-])comel(?![\w./:-])", re.IGNORECASE)
"""The bare name as a word: no part of a path, a module or a longer name."""
REQUIREMENT = re.compile(
    r"(?<![\w./@-])comel(?:\[[a-z{][^\]\n]*\]|\s?(?:==|~=|>=|<=|!=)\s?[\dv*]|\s@\s+\w+[:+]|\s?=\s?['\"][\^~<>=*\d])",
    re.IGNORECASE,
)
"""The bare name with an extra, a version or a URL, wherever it stands."""
INSTALLED = re.compile(r"\b(?:version|distribution|metadata|requires|files)\(\s*['\"]comel['\"]\s*\)", re.IGNORECASE)
"""A question about the installed distribution of that name."""

OF_AN_OLDER_RELEASE = {ROOT / "tests" / "data" / "make_format_1.py"}
"""Runs under 0.1.0 alone, whose distribution had the bare name, and installs nothing."""


def installs_of_the_bare_name(text: str) -> list[str]:
    """What in ``text`` would install, require or ask for the distribution ``comel``."""
    text = text.replace("\\\n", " ").replace("\\[", "[").replace("\\]", "]")
    commands = [match[0] for match in INSTALLERS.finditer(text) if WORD.search(match["rest"])]
    return commands + [match[0] for form in (REQUIREMENT, INSTALLED) for match in form.finditer(text)]


def tracked() -> list[Path]:
    """Every text file of the checkout."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs the git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=600).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    paths = [path for path in paths if path not in OF_AN_OLDER_RELEASE]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


@pytest.mark.parametrize(
    "line",
    [
        "pip install NAME",
        "    .venv/bin/pip install --upgrade 'NAME[timm]' -c constraints.txt",
        "python -m pip install -q torch NAME",
        "pip install \\\n    NAME",
        "RUN pip3 install NAME==0.1.0",
        "uv pip install NAME",
        "uv add NAME",
        "uv tool install NAME",
        "uvx NAME demo",
        "pipx install NAME",
        "poetry add NAME",
        "conda install -c conda-forge NAME",
        "pip wheel --wheel-dir wheelhouse NAME",
        "needs NAME[postgres]",
        'f"needs NAME[{extra}]"',
        r"match=r'pip install NAME\[oidc\]'",
        '    "NAME>=0.1",',
        "NAME ~= 0.1",
        'NAME = "^0.1"',
        "NAME @ https://example.org/NAME.whl",
        'metadata.version("NAME")',
        "importlib.metadata.distribution('NAME')",
    ],
)
@pytest.mark.parametrize("name", ["comel", "CoMEL"])
def test_a_line_that_installs_the_bare_name_is_found(line: str, name: str) -> None:
    assert installs_of_the_bare_name(line.replace("NAME", name))
    assert not installs_of_the_bare_name(line.replace("NAME", "comel-mil"))


@pytest.mark.parametrize(
    "line",
    [
        "pip install .",
        "pip install -e '.[dev]' && comel demo",
        "pip install 'comel-mil[timm]'    # then: comel encoders",
        "/opt/comel/bin/pip install ./comel-mil.whl",
        "docker build -f deploy/Dockerfile -t comel .",
        "from comel.bags.bag import Bag",
        'packages = ["comel", "pipelines", "service"]',
        'command == "comel"',
        'comel = "comel.app.cli:main"',
        "Usage: comel [OPTIONS] COMMAND",
        "image: registry.example/comel:0.1.0",
    ],
)
def test_other_lines_are_left_alone(line: str) -> None:
    assert not installs_of_the_bare_name(line)


def test_nothing_installs_a_package_of_the_bare_name() -> None:
    found = {}
    for path in tracked():
        text = path.read_text(encoding="utf-8", errors="replace")
        wrong = installs_of_the_bare_name(text)
        if path.suffix == ".txt":  # lists of requirements
            wrong += re.findall(r"^comel$", text, re.MULTILINE | re.IGNORECASE)
        if wrong:
            found[str(path.relative_to(ROOT))] = wrong
    assert not found, "the distribution is called comel-mil"


def test_the_project_and_what_it_requires_of_itself_bear_the_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(requirement for extra in extras.values() for requirement in extra)]
    names = [re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0].lower() for requirement in wanted]
    assert project["name"] == "comel-mil"
    assert "comel" not in names
    for requirement in wanted:
        if requirement.startswith("comel-mil"):
            assert set(re.findall(r"\w+", requirement.removeprefix("comel-mil"))) <= set(extras)
    assert metadata.version("comel-mil") == project["version"]
    assert "comel" in {point.name for point in metadata.distribution("comel-mil").entry_points}
