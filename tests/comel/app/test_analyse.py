"""``comel analyse`` as a user types it, on a small run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from comel.app.cli import app
from comel.errors import ConfigError

SMALL = ["make.tasks=2", "make.dimension=16", "make.train=6", "make.val=2", "make.test=6", "make.tiles=[30, 40]"]
SMALL += ["model.dim=16", "model.num_heads=2", "model.attention_hidden=8", "trainer.epochs=1"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of several mixers over one small stream."""
    out = tmp_path_factory.mktemp("bench")
    words = ["bench", "mixers", "--out", str(out), "--mixers", "attention,lrgt", "--parts", "quality", "--seeds", "1"]
    words += ["--suites", "features", "--jobs", "1", *(word for one in SMALL for word in ("--set", one))]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    return out / "quality" / "features" / "seed-0"


def analysed(bench: Path, mixer: str, out: Path, *more: str) -> dict[str, Any]:
    bags = sorted((bench / "stream" / "bags").glob("*test*"))[:2]
    words = ["analyse", str(bench / "runs" / mixer), *map(str, bags), "--out", str(out), *more]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return dict(json.loads((out / "analysis.json").read_text()))


def test_heads_distances_patterns_and_pictures(bench: Path, tmp_path: Path) -> None:
    found = analysed(bench, "attention", tmp_path / "a")
    assert [(row["layer"], row["head"]) for row in found["heads"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [row["branch"] for row in found["branches"]] == [
        f"block {n} {part}" for n in (1, 2) for part in ("mixer", "feed-forward")
    ]
    assert all(row["change"] > 0 for row in found["branches"])
    assert len(found["patterns"]) == 4
    for layer in found["distances"]:
        assert layer["distance"][0] == 0
        assert all(0 < value <= 1 for value in layer["entropy"])
    assert not found["bags"][0]["sampled"]
    pictures = {path.name for path in (tmp_path / "a").glob("*.png")}
    assert {"heads.png", "distances.png", "patterns.png"} < pictures
    assert len([name for name in pictures if name.startswith("where-")]) == 2
    again = analysed(bench, "attention", tmp_path / "b", "--queries", "12")
    assert again["bags"][0]["sampled"]
    assert again["heads"] == found["heads"]


def test_mixers_without_such_heads_say_so(bench: Path, tmp_path: Path) -> None:
    for mixer in ("lrgt",):
        found = analysed(bench, mixer, tmp_path / mixer)
        assert found["heads"] == found["distances"] == []
        assert all(row["change"] > 0 for row in found["branches"])
        text = (tmp_path / mixer / "analysis.md").read_text()
        assert "have no heads that can be silenced" in text
        assert "No attention over distance" in text


def test_a_task_that_there_is_not(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the run has no such task"):
        analysed(bench, "attention", tmp_path / "a", "--task", "organ9")
    assert not (tmp_path / "a").exists()
