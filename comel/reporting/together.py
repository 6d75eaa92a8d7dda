"""Joint results of the runs of ``comel train --folds`` or ``--orders``: mean and spread, and the pooled test cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comel.base.files import read_json
from comel.errors import RunError
from comel.reporting.blocks import Block, Table, note
from comel.reporting.tables import MISSING, score
from comel.reporting.vocabulary import KINDS, STATISTICS, in_order, score_name

__all__ = ["Together", "over_the_runs", "read_together"]


@dataclass(frozen=True)
class Together:
    """A folder of runs of the same settings.

    Attributes:
        kind: ``folds`` or ``orders``.
        runs: their directories.
        summary: the content of ``folds.json`` or ``orders.json``.
    """

    kind: str
    runs: tuple[Path, ...]
    summary: Mapping[str, Any]


def read_together(folder: Path) -> Together | None:
    """The runs in a folder and their joint results; None without finished folds or orders.

    Raises:
        RunError: the summary is damaged.
    """
    for kind in ("folds", "orders"):
        path = folder / f"{kind}.json"
        if path.is_file():
            try:
                summary = read_json(path)
                runs = tuple(folder / Path(str(name)).name for name in summary["runs"])
                return Together(kind, runs, {"continual": dict(summary["continual"]), "pooled": summary.get("pooled")})
            except (OSError, ValueError, TypeError, KeyError) as error:
                raise RunError(f"{path}: damaged ({type(error).__name__})", "give the same comel train command again") from None
    return None


def over_the_runs(together: Together) -> list[Block]:
    """With folds the scores of the pooled test cases; then every score's mean ± standard deviation over the runs."""
    blocks: list[Block] = []
    pooled = together.summary.get("pooled")
    if pooled:
        blocks += [_pooled(pooled, mode) for mode in pooled["mean"]]
        blocks.append(note("Each case is tested once, by the run of its fold. Intervals are 95 %, by bootstrap over patients."))
    among = f"mean ± standard deviation over {len(together.runs)} {together.kind}"
    for kind, modes in together.summary["continual"].items():
        for mode, scores in modes.items():
            shown = [key for key in STATISTICS if any(scores[name].get(key, {}).get("mean") is not None for name in scores)]
            rows = [[score_name(name), *(_spread(scores[name].get(key)) for key in shown)] for name in in_order(kind, scores)]
            caption = f"{KINDS.get(kind, kind)} scores, {mode.replace('_', '-')}: {among}"
            blocks.append(Table(["score", *(STATISTICS[key] for key in shown)], rows, caption))
    return blocks


def _spread(entry: Mapping[str, Any] | None) -> str:
    if not entry or entry["mean"] is None:
        return MISSING
    return score(entry["mean"]) + ("" if entry["spread"] is None else f" ± {entry['spread']:.3f}")


def _pooled(pooled: Mapping[str, Any], mode: str) -> Table:
    names = in_order("bag", pooled["mean"][mode]["bag"])
    intervals = pooled["intervals"]["bag"].get(mode, {})
    rows = []
    for task, entry in pooled["tasks"].items():
        told = [score(entry[mode]["bag"].get(name), intervals.get(name, {}).get("tasks", {}).get(task)) for name in names]
        rows.append([task, entry["cases"], *told])
    means = [score(pooled["mean"][mode]["bag"].get(name), intervals.get(name, {}).get("mean")) for name in names]
    rows.append(["mean over tasks", "", *means])
    columns = ["task", "cases", *map(score_name, names)]
    return Table(columns, rows, f"Test cases of all folds together, {mode.replace('_', '-')}")
