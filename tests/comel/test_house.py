"""What loads what: importing, reading and help texts stay light. The law of imports itself is kept by ``make lint``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import comel
from tests.comel.toys import Stream
from tests.places import ROOT

HEAVY = ("torch", "peft", "transformers", "openslide", "fastapi", "h5py", "pandas")

HELP = """
import io, json, sys
from contextlib import redirect_stdout
import typer
from comel.app.cli import app

def walk(group, path):
    for name, command in group.commands.items():
        yield [*path, name]
        if hasattr(command, "commands"):
            yield from walk(command, [*path, name])

command = typer.main.get_command(app)
texts = {}
for path in [[], *walk(command, [])]:
    with redirect_stdout(io.StringIO()) as text:
        command([*path, "--help"], prog_name="comel", standalone_mode=False)
    texts[" ".join(path)] = text.getvalue()
print(json.dumps({"texts": texts, "loaded": [name for name in sys.argv[1:] if name in sys.modules]}))
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light() -> None:
    code = """
import sys
import comel, comel.app.cli, comel.app.api, comel.runs.config, comel.bags.bag, comel.cohort.manifest
import comel.prediction.prediction
print([name for name in sys.argv[1:] if name in sys.modules])
"""
    assert python(code, *HEAVY).strip() == "[]"


def test_schemas_import_nothing_but_pydantic() -> None:
    """Help texts are made from them."""
    code = """
import sys
import pipelines.extraction.settings, pipelines.synth.settings, comel.runs.config
print([name for name in sys.argv[1:] if name in sys.modules])
"""
    assert python(code, *HEAVY, "numpy", "cv2", "PIL", "yaml").strip() == "[]"


def test_reading_a_bag_and_a_manifest_imports_no_torch(toy_stream: Stream) -> None:
    code = """
import sys
from pathlib import Path
from comel.bags.bag import read_bag, read_bag_header
from comel.bags.foreign import read_any_bag
from comel.cohort.manifest import read_manifest
folder = Path(sys.argv[1])
bag = sorted((folder / "bags").iterdir())[0]
read_manifest(folder / "manifest.csv"), read_bag(bag, verify=True), read_bag_header(bag), read_any_bag(bag)
print([name for name in ("torch", "peft", "transformers", "openslide") if name in sys.modules])
"""
    assert python(code, str(toy_stream.manifest.parent)).strip() == "[]"


@pytest.fixture(scope="module")
def helps() -> dict[str, Any]:
    """The help text of every command, and what making them loaded."""
    found: dict[str, Any] = json.loads(python(HELP, *HEAVY))
    return found


def test_help_loads_nothing_heavy(helps: dict[str, Any]) -> None:
    assert helps["loaded"] == []


def test_the_list_of_commands_loads_no_schema() -> None:
    code = """
import sys
from comel.app.cli import main
sys.argv[1:] = ["--help"]
try:
    main()
except SystemExit:
    print([name for name in ("pydantic", "yaml", "numpy") if name in sys.modules])
"""
    assert python(code).splitlines()[-1] == "[]"


def test_every_command_has_an_example(helps: dict[str, Any]) -> None:
    groups = {path.rpartition(" ")[0] for path in helps["texts"]}
    commands = [path for path in helps["texts"] if path not in groups]
    assert len(commands) > 20
    for path in commands:
        assert f"Example: comel {path}" in " ".join(helps["texts"][path].split()), path


def test_a_command_keeps_its_name_when_its_module_is_imported() -> None:
    code = """
import comel
import comel.training.train, comel.scoring.evaluate, comel.prediction.predictor, comel.app.demo, comel.reporting
print([type(getattr(comel, name)).__name__ for name in comel.__all__], set(comel.__all__) <= set(dir(comel)))
"""
    assert python(code).split("]")[0].count("'function'") == len(comel.__all__)
