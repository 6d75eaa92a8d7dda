"""``comel encoders``: every encoder with its facts, and what is missing to use it; nothing is loaded or fetched."""

from __future__ import annotations

import importlib.metadata
import json
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comel.app.cli import app
from comel.errors import ConfigError
from pipelines.patch_encoders import ENCODER_FACTS
from pipelines.patch_encoders.listing import list_encoders, obtain


@pytest.fixture(autouse=True)
def without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, ["encoders", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def test_every_encoder_is_listed_once_with_its_facts() -> None:
    entries = json.loads(run("--json"))
    assert [entry["name"] for entry in entries[: len(ENCODER_FACTS) + 1]] == ["efficientnet-lite0", *ENCODER_FACTS]
    for entry in entries[1 : len(ENCODER_FACTS) + 1]:
        facts = ENCODER_FACTS[entry["name"]]
        assert entry["mpp"] == list(facts.mpp)
        for key in ("dimension", "input_size", "licence", "gated", "page", "package", "features"):
            assert entry[key] == getattr(facts, key)
    table = run()
    for facts in ENCODER_FACTS.values():
        [line] = [line for line in table.splitlines() if line.startswith(f"{facts.name} ")]
        assert str(facts.dimension) in line
        assert facts.licence in line


def test_one_encoder_says_where_to_ask_and_how_to_point_at_a_folder() -> None:
    text = run("uni")
    assert "ask for access at https://huggingface.co/MahmoodLab/UNI" in text
    assert "--encoder uni:FOLDER" in text
    assert "comel-mil[timm]" in text
    assert "ask for access" not in " ".join(obtain("phikon-v2"))
    assert obtain("efficientnet-lite0") == []
    with pytest.raises(ConfigError, match="did you mean 'virchow2'"):
        list_encoders("virchow")


def test_whether_it_can_be_used_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ready(name: str) -> str:
        answer: str = list_encoders(name)[0]["ready"]
        return answer

    assert ready("efficientnet-lite0") == "yes"
    monkeypatch.setattr("pipelines.patch_encoders.listing.find_spec", lambda name: None if name == "timm" else object())
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: None)
    assert ready("uni") == "needs comel-mil[timm]"
    assert ready("hibou-b") == "weights: on request"
    assert ready("phikon-v2") == "weights: to be downloaded"
    monkeypatch.setattr("pipelines.patch_encoders.listing.find_spec", lambda name: object())
    assert ready("uni") == "weights: on request"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(tmp_path / name))
    assert ready("uni") == "yes"


def test_an_encoder_of_another_package_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("theirs", "package.module:Class", "comel.encoders")
    monkeypatch.setattr("pipelines.patch_encoders.listing.entry_points", lambda group: [point])
    assert list_encoders("theirs") == [{"name": "theirs", "package": "package.module:Class", "ready": "yes"}]
    assert "theirs" in run()
