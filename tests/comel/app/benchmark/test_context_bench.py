"""``comel bench continual --suite context`` as a user types it, small."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., tuple[int, str, str]]
MAKE = ("patterns=[presence,adjacency]", "train=8", "val=4", "test=4", "tiles=[60,80]", "dimension=12")
MODEL = ("dim=16", "attention_hidden=8", "num_heads=2")
SMALL = [*(f"make.{one}" for one in MAKE), *(f"model.{one}" for one in MODEL), "trainer.epochs=1"]
SMALL += ["strategy.rank=2", "strategy.tasks=2"]


def test_every_row_has_a_score_for_every_pattern(comel_cli: Cli, tmp_path: Path) -> None:
    words = [word for setting in SMALL for word in ("--set", setting)]
    bench = ("bench", "continual", "--suite", "context", "--seeds", 1, "--rows", "comel,linear", "--jobs", 1, *words)
    code, said, err = comel_cli(*bench, "--out", tmp_path, "--json")
    assert code == 0, err
    rows = json.loads(said)["rows"]
    assert list(rows) == ["comel", "linear"]
    for row in rows.values():
        assert list(row["tasks"]) == ["presence", "adjacency"]
        for scores in row["tasks"].values():
            assert scores.keys() == {"accuracy", "auc", "instance_auc"}
            assert all(0 <= score <= 1 for score in scores.values())
    table = (tmp_path / "context" / "table.md").read_text(encoding="utf-8")
    assert "| accuracy (AUC, instance AUC) | presence | adjacency |" in table
    code, said, _ = comel_cli(*bench, "--out", tmp_path, "--quiet")
    assert code == 0
    assert table in said
