"""What imports what, and that nothing heavy is imported before it is needed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import Stream

import comel

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "peft", "transformers", "matplotlib", "openslide", "fastapi", "h5py", "pandas")
COMPOSITION_ROOT = {
    "api.py",
    "benchmark/continual.py",
    "benchmark/crchisto.py",
    "cli.py",
    "demonstration.py",
    "predict_cohort.py",
}
OPEN_TO_PIPELINES = {
    "comel.bag",
    "comel.cores",
    "comel.errors",
    "comel.files",
    "comel.manifest",
    "comel.progress",
    "comel.registry",
    "comel.scales",
}
COMMANDS = (
    "demo",
    "synth",
    "extract",
    "train",
    "add-task",
    "evaluate",
    "report",
    "predict",
    "serve",
    "worker",
    "inspect",
    "encoders",
)
NESTED = [
    *[("bags", name) for name in ("check", "stats", "export", "scale", "join-scales")],
    ("bench", "continual"),
    ("bench", "extract"),
    *[("db", name) for name in ("upgrade", "backup", "restore")],
    *[("keys", name) for name in ("add", "list", "revoke")],
    *[("manifest", name) for name in ("camelyon16", "paip", "tcga", "folder")],
]


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "what", ["import comel", "import comel.cli", "from comel import api", "from comel.config import load_config"]
)
def test_importing_is_light(what: str) -> None:
    loaded = python(f"import sys; {what}; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_reading_a_bag_and_a_manifest_imports_no_torch(toy_stream: Stream) -> None:
    code = """
import sys
from pathlib import Path
from comel.bag import read_bag, read_bag_header
from comel.foreign import read_any_bag
from comel.manifest import read_manifest
folder = Path(sys.argv[1])
bag = sorted((folder / "bags").iterdir())[0]
read_manifest(folder / "manifest.csv"), read_bag(bag, verify=True), read_bag_header(bag), read_any_bag(bag)
print([name for name in ("torch", "peft", "transformers", "matplotlib", "openslide") if name in sys.modules])
"""
    assert python(code, str(toy_stream.manifest.parent)).strip() == "[]"


def help_of(*command: str) -> tuple[str, list[str]]:
    code = f"""
import sys
sys.argv = ["comel", *{list(command)!r}, "--help"]
from comel.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("LOADED", *[name for name in {HEAVY} if name in sys.modules])
"""
    text, _, heavy = python(code).partition("LOADED")
    return text, heavy.split()


@pytest.mark.parametrize("command", [(), *NESTED, *[(name,) for name in COMMANDS]], ids=" ".join)
def test_help_loads_nothing_heavy(command: tuple[str, ...]) -> None:
    text, heavy = help_of(*command)
    assert heavy == []
    if command:
        assert f"Example: comel {' '.join(command)}" in " ".join(text.split())
    else:
        assert all(name in text for name in COMMANDS)


def test_every_command_is_in_the_list_above() -> None:
    from comel.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert names == set(COMMANDS)


def imported(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that a file imports, at any depth, and whether only a type checker does."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in typing_only) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            inside = ROOT / module.replace(".", "/")
            for alias in node.names:
                is_module = (inside / f"{alias.name}.py").exists() or (inside / alias.name).is_dir()
                yield (f"{module}.{alias.name}" if is_module else module), id(node) in typing_only


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


def test_comel_imports_neither_pipelines_nor_service() -> None:
    for path in files_of("comel"):
        name = path.relative_to(ROOT / "comel").as_posix()
        if name in COMPOSITION_ROOT or name.startswith("commands/"):
            continue
        wrong = [name for name, _ in imported(path) if name.split(".")[0] in ("pipelines", "service")]
        assert not wrong, f"{path.name} imports {wrong}"


def test_nothing_in_comel_imports_the_composition_root() -> None:
    closed = {f"comel.{name.removesuffix('.py').replace('/', '.')}" for name in COMPOSITION_ROOT}
    for path in files_of("comel"):
        name = path.relative_to(ROOT / "comel").as_posix()
        if name not in COMPOSITION_ROOT | {"__init__.py"} and not name.startswith("commands/"):
            assert not closed & {name for name, _ in imported(path)}, path.name


def test_pipelines_knows_no_model_and_no_training() -> None:
    for path in files_of("pipelines"):
        names = {name for name, _ in imported(path) if name.split(".")[0] in ("comel", "service")}
        assert names <= OPEN_TO_PIPELINES, f"{path.name} imports {names - OPEN_TO_PIPELINES}"


@pytest.mark.parametrize("package", ["comel", "pipelines", "service"])
def test_heavy_libraries_are_not_imported_by_light_modules(package: str) -> None:
    """A module whose import must stay light imports heavy libraries inside its functions only."""
    light = {"bag.py", "files.py", "errors.py", "manifest.py", "progress.py", "config.py", "registry.py", "run.py", "data.py",
             "classes.py", "foreign.py", "prediction.py", "predictor.py", "predict_cohort.py",
             "predict_files.py", "predict_inputs.py", "api.py", "cli.py",
             "demonstration.py", "settings.py"}  # fmt: skip
    for path in files_of(package):
        if path.name not in light or path.parent.name == "owlora":
            continue
        top = ast.parse(path.read_text(encoding="utf-8")).body
        names = [alias.name for node in top if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in top if isinstance(node, ast.ImportFrom)]
        wrong = [name for name in names if name.split(".")[0] in HEAVY]
        assert not wrong, f"{path} imports {wrong} at its top"


def test_a_command_keeps_its_name_when_its_module_is_imported() -> None:
    code = """
import comel
import comel.training, comel.evaluation, comel.predictor, comel.demonstration
from comel.predictor import Predictor
print([type(getattr(comel, name)).__name__ for name in comel.__all__], set(comel.__all__) <= set(dir(comel)))
"""
    assert python(code).split("]")[0].count("'function'") == len(comel.__all__)
