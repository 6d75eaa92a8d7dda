"""The demonstration in short, as a user types it: every step does its work, and a second run keeps what is there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def demo(out: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "comel.app.cli",
        "demo",
        "--out",
        str(out),
        "--slides",
        "6",
        "--size",
        "512",
        "--epochs",
        "1",
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.mark.timeout(900)
def test_the_demo_makes_everything_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = demo(out)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["synthetic"] is True
    assert summary["slides"] == 18
    assert set(summary["table"]) == {"finetune", "owlora"}
    for scores in summary["table"].values():
        assert set(scores) == {
            "class-incremental accuracy",
            "within-task accuracy",
            "forgetting",
            "instance AUC",
            "instance Dice",
        }
        assert all(value is None or -1 <= value <= 1 for value in scores.values())
    assert summary["verdict"] in done.stdout.replace("\n", " ")
    assert "comel serve --model" in done.stdout
    maps = sorted((out / "predictions").glob("*.png"))
    assert len(maps) == summary["predicted"] > 0
    assert len(list((out / "predictions").glob("*.geojson"))) == len(maps)
    assert len(list((out / "bags" / "overlays").glob("*.png"))) == 18

    bags = {path.name: path.stat().st_mtime_ns for path in (out / "bags").glob("*.h5")}
    again = demo(out)
    assert again.returncode == 0, again.stderr[-2000:]
    assert {path.name: path.stat().st_mtime_ns for path in (out / "bags").glob("*.h5")} == bags
    assert json.loads((out / "summary.json").read_text())["table"] == summary["table"]
