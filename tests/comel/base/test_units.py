"""The words that every room spells alike."""

from __future__ import annotations

import json

import pytest

from comel.base.units import Mode


def test_a_mode_is_its_text() -> None:
    assert [f"{mode}" for mode in Mode] == ["class-incremental", "task-incremental", "domain-incremental"]
    assert json.dumps([Mode.CLASS]) == '["class-incremental"]'
    assert Mode("domain-incremental") is Mode.DOMAIN
    assert f"{tuple(Mode)}" == "('class-incremental', 'task-incremental', 'domain-incremental')"


def test_a_mode_has_one_spelling() -> None:
    assert Mode.TASK.key == "task_incremental"
    with pytest.raises(ValueError, match="task_incremental"):
        Mode("task_incremental")
