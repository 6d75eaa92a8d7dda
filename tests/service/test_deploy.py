"""The files in deploy/: linted, and true to the settings and the commands that they name."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import ServiceSettings
from tests.places import ROOT

DEPLOY = ROOT / "deploy"


def run(*command: str | Path, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600, check=False, cwd=ROOT, **how)


def linter(name: str) -> Path:
    """Of the extra ``dev``; without it the test is skipped."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        pytest.skip(f"{name} is not installed")
    return program


def compose() -> dict[str, Any]:
    content = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def test_the_dockerfile_passes_hadolint() -> None:
    done = run(linter("hadolint"), "--failure-threshold", "style", DEPLOY / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_special_and_carries_what_the_package_needs() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    *_, last = re.split(r"^FROM ", text, flags=re.MULTILINE)
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert not any(re.search(r":latest\b", line) for line in text.splitlines() if line.startswith("FROM"))
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    wanted = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    packages = {"comel", "pipelines", "service", "configs"}
    assert ignored[1] == "*"
    assert packages | {"constraints", "LICENSE", "README.md", "pyproject.toml"} <= wanted
    assert not any((ROOT / name).is_symlink() for name in wanted)


def test_the_compose_file_is_one_by_the_schema() -> None:
    done = run(linter("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout


def test_the_compose_file_closes_what_it_can() -> None:
    content = compose()
    assert set(content) == {"name", "services", "networks", "volumes"}
    service, database = content["services"]["service"], content["services"]["database"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert all("no-new-privileges:true" in one["security_opt"] for one in (service, database))
    assert all(str(port).startswith("127.0.0.1:") for port in service["ports"])
    assert "ports" not in database
    assert database["networks"] == ["back"]
    assert content["networks"]["back"]["internal"]
    assert re.fullmatch(r"postgres:\d+[\w.-]*", database["image"])
    for one in content["services"].values():
        assert set(one["networks"]) <= set(content["networks"])
        named = [volume.split(":")[0] for volume in one["volumes"] if not volume.startswith(("/", "$", "."))]
        assert set(named) <= set(content["volumes"])
        assert set(one.get("depends_on", {})) <= set(content["services"])
    for value in (database["environment"]["POSTGRES_PASSWORD"], service["environment"]["COMEL_DATABASE_URL"]):
        assert "${COMEL_DATABASE_PASSWORD:?" in value  # no password stands in the file


def test_deployment_names_settings_that_exist(tmp_path: Path) -> None:
    known = {f"COMEL_{name.upper()}" for name in ServiceSettings.model_fields}
    image = set(re.findall(r"\bCOMEL_[A-Z_]+(?==)", (DEPLOY / "Dockerfile").read_text(encoding="utf-8")))
    composed = {name for name in compose()["services"]["service"]["environment"] if name.startswith("COMEL_")}
    assert image | composed <= known
    settings = ServiceSettings(settings_file=DEPLOY / "service.yaml")
    assert settings.runs == {"colon": Path("/srv/comel/runs/colon")}
    unit = (DEPLOY / "comel.service").read_text(encoding="utf-8")
    assert f"StateDirectory={settings.state_dir.name}\n" in unit
    with_all = re.sub(r"^# (oidc_)", r"\1", (DEPLOY / "service.yaml").read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / "all.yaml").write_text(with_all)
    assert ServiceSettings(settings_file=tmp_path / "all.yaml").oidc_scopes["pathology-it"] == "admin"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    text = (DEPLOY / "comel.service").read_text(encoding="utf-8")
    program = re.search(r"^ExecStart=(\S+)", text, re.MULTILINE)
    assert program is not None
    unit = tmp_path / "comel.service"
    unit.write_text(text.replace(program[1], str(Path(sys.executable).resolve())))
    done = run("systemd-analyze", "verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    rated = run("systemd-analyze", "security", "--offline=true", "--threshold=25", unit)
    if "Unknown" not in rated.stderr and "unrecognized option" not in rated.stderr:
        assert rated.returncode == 0, rated.stdout[-300:]


@pytest.mark.slow
def test_the_bill_of_materials_lists_what_is_installed(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\t\$\(BIN\)/(cyclonedx-py .*)$", makefile, re.MULTILINE)
    out, program = tmp_path / "sbom.json", Path(sys.executable).with_name("cyclonedx-py")
    words = command.replace("$(VENV)", str(Path(sys.executable).parents[1])).replace("sbom.json", str(out)).split()
    done = run(program, *words[1:])
    assert done.returncode == 0, done.stderr
    bill = json.loads(out.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    versions = {component["name"].lower(): component.get("version") for component in bill["components"]}
    assert {"torch", "fastapi", "h5py", "openslide-python", "sqlalchemy", "peft"} <= set(versions)
    assert all(versions.values())
