"""``comel bench mixers`` as a function: checks, costs, quality; what is finished is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from comel.app.benchmark.continual import run_continual
from comel.app.benchmark.mixers.checks import check_mixer
from comel.app.benchmark.mixers.cost import Cost, efficiency_length, measure_costs
from comel.app.benchmark.mixers.index import SCORES, indices, reference, reference_of
from comel.app.benchmark.mixers.page import (
    draw_costs,
    draw_quality,
    table_of_cards,
    table_of_checks,
    table_of_costs,
    table_of_quality,
)
from comel.app.benchmark.mixers.quality import fit_parameters, mixer_rows
from comel.base.cores import torch_threads
from comel.base.files import read_json, write_json, write_text
from comel.base.progress import progress_bar
from comel.base.registry import nearest
from comel.base.version import comel_version
from comel.errors import ConfigError, RunError
from comel.nn.mixers import MIXERS, mixer_class
from comel.nn.mixers.base import Width

__all__ = ["PARTS", "SUITES", "run_mixers"]

PARTS = ("checks", "cost", "quality")
SUITES = ("features", "context", "composite")
_SMALLEST = 1 << 8
_QUALITY_SETTINGS = {
    "features": ("trainer.epochs=12",),
    "context": (
        "make.patterns=[presence, co-occurrence, adjacency, arrangement]",
        "make.train=40",
        "make.val=10",
        "make.test=40",
        "make.tiles=[150, 400]",
        "trainer.epochs=16",
    ),
    "composite": ("trainer.epochs=12",),
}
"""Streams and trainings in small, so that all mixers can be compared in less than an hour."""


def run_mixers(
    out: Path,
    *,
    mixers: Sequence[str] | None = None,
    parts: Sequence[str] = PARTS,
    suites: Sequence[str] = ("features", "context"),
    max_tiles: int = 1 << 17,
    dim: int = 256,
    heads: int = 8,
    limit: float = 20.0,
    seeds: Iterable[int] = range(1),
    slides: Path | None = None,
    root: Path | None = None,
    overrides: Sequence[str] = (),
    threads: int | None = None,
    device: str = "cpu",
    jobs: int = 2,
    quiet: bool = False,
) -> dict[str, Any]:
    """Compare mixers; see the package.

    Args:
        out: folder; ``checks``, ``cost`` and the suites' runs lie in it, beside ``mixers.md``, ``mixers.json``, the plots and
            ``reference.json``, the set that these mixers would make.
        mixers: by name; default all.
        parts: of :data:`PARTS`.
        suites: of :data:`SUITES`, for ``quality``; ``composite`` needs ``slides``.
        max_tiles: largest bag that costs are measured on; lengths are the powers of two from 256 on.
        dim, heads: width of the block whose cost is measured.
        limit: seconds; a longer pass is not measured.
        seeds: of the suites' streams.
        slides, root: see :func:`comel.app.benchmark.continual.run_continual`.
        overrides: ``SECTION.KEY=VALUE`` for the suites.
        threads: that costs are measured with; default as torch has it here.
        device: that costs are measured on.
        jobs: trainings at once.
        quiet: no progress.

    Returns:
        what ``mixers.json`` holds.

    Raises:
        ComelError: a name or setting that there is not, or a folder with results of other settings.
    """
    names = list(mixers or MIXERS)
    for name in names:
        mixer_class(name)
    _known(parts, PARTS, "--parts")
    _known(suites, SUITES, "--suites")
    if max_tiles < _SMALLEST:
        raise ConfigError(f"--max-tiles {max_tiles}: fewer than {_SMALLEST}", f"give {_SMALLEST} or more")
    out = Path(out)
    result: dict[str, Any] = {"comel": comel_version(), "mixers": names, "dim": dim, "heads": heads, "device": device}
    pieces = ["# Mixers side by side", table_of_cards(names)]
    costs: dict[str, list[Cost]] = {}
    if "checks" in parts:
        with progress_bar(len(names), "checks", quiet=quiet) as advance:
            checks = {}
            for name in names:
                checks[name] = check_mixer(name)
                advance(1, text=name)
        result["checks"] = checks
        pieces += ["## What each keeps to", table_of_checks(checks)]
    if "cost" in parts:
        lengths = [1 << n for n in range(_SMALLEST.bit_length() - 1, max_tiles.bit_length())]
        with torch_threads(threads):
            setting = {"dim": dim, "heads": heads, "limit": limit, "device": device, "threads": torch.get_num_threads()}
            costs, stopped = _costs(names, lengths, setting, out / "cost", quiet)
        result["cost"] = {name: [asdict(cost) for cost in own] for name, own in costs.items()}
        result["stopped"], result["threads"] = stopped, setting["threads"]
        result["efficiency_length"] = _efficiency(costs)
        pieces += [f"## What a block costs (dim {dim}, {heads} heads, {device})", table_of_costs(costs, stopped, dim)]
        draw_costs(costs, out / "cost.png")
    if "quality" in parts:
        means = {}
        for suite in suites:
            given = {"slides": slides, "root": root} if suite == "composite" else {}
            found = run_continual(
                suite, out / "quality", seeds=seeds, rows=lambda model: mixer_rows(names, model["dim"], model["num_heads"], {}),
                overrides=[*_QUALITY_SETTINGS[suite], *overrides], jobs=jobs, quiet=quiet, **given,
            )  # fmt: skip
            means[suite] = {name: {score: entry["mean"][score] for score in SCORES} for name, entry in found["rows"].items()}
        stored = reference()
        against = {suite: stored["suites"].get(suite) or reference_of(means).get(suite, {}) for suite in means}
        index = indices(means, against)
        set_of_run = {"version": stored["version"] + 1, "mixers": names, "suites": reference_of(means)}
        write_json(out / "reference.json", set_of_run)
        fits = {name: fit_parameters(name, 128, 4) for name in names}
        result["quality"], result["index"] = means, index
        result["reference"] = {"version": stored["version"], "own": [s for s in means if s not in stored["suites"]]}
        result["parameters"] = {name: {**asdict(fit), "fair": fit.fair} for name, fit in fits.items()}
        pieces += ["## What it gives", table_of_quality(means, index, fits, names)]
        draw_quality(index, costs, out / "quality.png")
    write_json(out / "mixers.json", result)
    write_text(out / "mixers.md", "\n\n".join(piece.rstrip() for piece in pieces) + "\n")
    return result


def _efficiency(costs: dict[str, list[Cost]]) -> dict[str, float | None]:
    """By mixer, CAB's length against exact attention, over the lengths that both have; None without three of them."""
    exact = {cost.tiles: cost.forward for cost in costs.get("attention", ())}
    found: dict[str, float | None] = {}
    for name, own in costs.items():
        both = [cost for cost in own if cost.tiles in exact]
        found[name] = None
        if len(both) > 3 and name != "attention":
            lengths = [float(cost.tiles) for cost in both]
            found[name] = efficiency_length(lengths, [exact[c.tiles] for c in both], [c.forward for c in both], skip=1)
    return found


def _known(given: Sequence[str], known: Sequence[str], option: str) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(f"{option}: no '{name}'", nearest(name, list(known)))


def _costs(
    names: Sequence[str], lengths: Sequence[int], setting: dict[str, Any], folder: Path, quiet: bool
) -> tuple[dict[str, list[Cost]], dict[str, str | None]]:
    """Measured, or read where a mixer was measured with the same settings before."""
    costs: dict[str, list[Cost]] = {}
    stopped: dict[str, str | None] = {}
    folder.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(names), "costs", quiet=quiet) as advance:
        for name in names:
            path, wanted = folder / f"{name}.json", {**setting, "lengths": list(lengths)}
            if path.exists():
                kept = read_json(path)
                if kept["setting"] != wanted:
                    raise RunError(f"{path}: was measured with other settings", "choose another --out, or delete the folder")
                costs[name], stopped[name] = [Cost(**cost) for cost in kept["costs"]], kept["stopped"]
            else:
                costs[name], stopped[name] = measure_costs(
                    name,
                    lengths,
                    width=Width(setting["dim"], setting["heads"]),
                    limit=setting["limit"],
                    device=setting["device"],
                )
                write_json(path, {"setting": wanted, "costs": [asdict(c) for c in costs[name]], "stopped": stopped[name]})
            advance(1, text=name)
    return costs, stopped
