"""Every configuration that ships can be loaded, and every option in it exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.places import ROOT

FOLDER = ROOT / "configs"
OF_COMMANDS = {"demo", "benchmark"}
"""Settings of whole commands; the others are settings of a run."""
CONFIGS = sorted(p for p in FOLDER.glob("*.yaml") if p.stem not in OF_COMMANDS)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_whole(path: Path) -> None:
    from comel.runs.config import load_config
    from comel.runs.parts import resolved

    config = resolved(load_config(path))
    assert config.model["name"] == "comel"
    assert config.strategy["name"] == "owlora"
    if path.stem == "paper":
        assert config.model["recognition"] == "none"
        assert config.model["pad"] == "published"


@pytest.mark.parametrize(("name", "tasks"), [("camelyon16_paip", 5), ("tcga", 4)])
def test_the_papers_protocols_train_as_the_paper_does(name: str, tasks: int) -> None:
    from comel.runs.config import load_config
    from comel.runs.parts import resolved

    config, paper = resolved(load_config(FOLDER / f"{name}.yaml")), resolved(load_config(FOLDER / "paper.yaml"))
    assert config.trainer == paper.trainer
    assert config.model == resolved(load_config()).model
    assert config.data.tasks is not None
    assert len(config.data.tasks) == config.strategy["tasks"] == tasks


def test_the_tcga_protocol_has_the_labels_that_its_manifest_has() -> None:
    from comel.cohort.sources.tcga import SUBTYPES, TASKS
    from comel.runs.config import load_config

    labels = load_config(FOLDER / "tcga.yaml").data.labels
    made = {}
    for task, projects in TASKS.items():
        made[task] = {label for label in projects.values() if label} | set(SUBTYPES.get(task, {}).values())
    assert labels is not None
    assert {task: set(names) for task, names in labels.items()} == made
