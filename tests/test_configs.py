"""Every configuration that ships can be loaded, and every option in it exists."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFIGS = sorted(p for p in (Path(__file__).parents[1] / "configs").glob("*.yaml") if p.name != "demo.yaml")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_is_whole(path: Path) -> None:
    from comel.config import load_config
    from comel.training import resolved

    config = resolved(load_config(path))
    assert config.model["name"] == "comel"
    assert config.strategy["name"] == "owlora"
    if path.stem == "paper":
        assert config.model["recognition"] == "none"
        assert config.model["pad"] == "published"
